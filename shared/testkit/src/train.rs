//! `POST /api/train` and what comes of it.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::LIMIT;
use crate::client::Client;
use crate::growing::{Growing, growing};

/// A run that lives as long as its request. Dropping this closes the request.
#[derive(Debug)]
pub struct Train {
    /// The runner's process.
    pub pid: u32,
    /// The run's id.
    pub run: String,
    body: Growing<Vec<u8>>,
    reader: JoinHandle<()>,
}

/// What stands between a run's output and how it ended.
const TRAILER: &[u8] = b"\n---\n";
/// Bytes that a failure shows.
const SHOWN: usize = 600;

impl Train {
    /// Starts a run.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn start(client: &Client, body: &Value) -> Self {
        let mut answer = client.ask("POST", "/api/train").json(body).open().await;
        if answer.status != 200 {
            let said = answer.chunk().await.ok().flatten().unwrap_or_default();
            panic!("POST /api/train: {} {}", answer.status, String::from_utf8_lossy(&said));
        }
        let pid = answer.header("x-midrun-pid");
        assert_eq!(pid, answer.header("x-arkor-train-pid"), "both names carry the process id");
        let pid = pid.parse().expect("the process id is a number");
        let run = answer.header("x-midrun-run").to_owned();
        let (grower, content) = growing::<Vec<u8>>();
        let reader = tokio::spawn(async move {
            while let Ok(Some(chunk)) = answer.chunk().await {
                grower.add(|body| body.extend_from_slice(&chunk));
            }
        });
        Self { pid, run, body: content, reader }
    }

    /// Waits for `text` after the place `after`; the place behind it.
    ///
    /// # Panics
    /// With the last output when it does not come.
    pub async fn wait_for(&mut self, text: &str, after: usize) -> usize {
        let find = |body: &mut Vec<u8>| {
            let rest = body.get(after..)?;
            let at = rest.windows(text.len()).position(|window| window == text.as_bytes())?;
            Some(after + at + text.len())
        };
        let found = self.body.find(LIMIT, find).await;
        found
            .unwrap_or_else(|why| panic!("no {text:?} in the run's output: {why}; it ends:\n{}", self.tail()))
    }

    /// The whole output and the trailer behind it, such as `exit=0`.
    ///
    /// # Panics
    /// When the body does not end within `limit`, or without a trailer.
    pub async fn to_the_end(mut self, limit: Duration) -> (Vec<u8>, String) {
        let ended = self.body.end(limit).await;
        ended.unwrap_or_else(|why| panic!("the run's output did not end: {why}; it ends:\n{}", self.tail()));
        let mut output = std::mem::take(&mut *self.body.look());
        let at = output.windows(TRAILER.len()).rposition(|window| window == TRAILER);
        let at = at.unwrap_or_else(|| panic!("no trailer behind {} bytes", output.len()));
        let trailer = String::from_utf8_lossy(&output.split_off(at)[TRAILER.len()..]).trim_end().to_owned();
        (output, trailer)
    }

    /// Closes the request, as a closed tab does.
    pub fn close(self) {
        drop(self);
    }

    fn tail(&self) -> String {
        let body = self.body.look();
        String::from_utf8_lossy(&body[body.len().saturating_sub(SHOWN)..]).into_owned()
    }
}

impl Drop for Train {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
