//! An event stream of the control plane, followed for a tab: opened again behind the last event whenever it breaks.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::Method;
use wire::TraceContext;

use super::{Ask, job_id, parts};
use crate::edge::Edge;
use crate::failure::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longer than any event that a control plane sends; one that sends more is not understood.
const LONGEST_EVENT: usize = 1024 * 1024;

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// One job's events.
    Job(String),
    /// Changes of all jobs.
    Changes,
}

/// What a follower learns.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    /// The stream is open: what was asked for before may be out of date.
    Open,
    Event(Event),
    /// The stream broke or cannot be opened; it is tried again.
    Away(String),
    /// There is no such stream, and none will come.
    Missing(String),
    /// The stream came to its end.
    End,
}

/// One event of the control plane.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    /// As it came.
    pub(crate) data: String,
}

type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>>>>;

/// What `source` says from behind `after` on.
pub(crate) fn follow(edge: Arc<Edge>, source: Source, after: Option<String>) -> impl Stream<Item = Told> {
    let follower = Follower {
        edge,
        source,
        after,
        open: None,
        lines: Lines::default(),
        pause: FIRST_PAUSE,
        broken: false,
        over: false,
    };
    stream::unfold(follower, |mut follower| async move {
        let told = follower.next().await?;
        Some((told, follower))
    })
}

struct Follower {
    edge: Arc<Edge>,
    source: Source,
    after: Option<String>,
    open: Option<Parts>,
    lines: Lines,
    pause: Duration,
    /// The last try failed, so the next one waits.
    broken: bool,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Told> {
        loop {
            if self.over {
                return None;
            }
            if let Some(event) = self.lines.ready.pop_front() {
                if event.name == "ping" {
                    continue;
                }
                if event.name == "end" {
                    self.over = true;
                    return Some(Told::End);
                }
                self.after = event.id.clone().or_else(|| self.after.take());
                return Some(Told::Event(event));
            }
            let Some(parts) = &mut self.open else { return Some(self.connect().await) };
            match parts.next().await {
                Some(Ok(part)) => {
                    self.pause = FIRST_PAUSE;
                    if self.lines.take(&part).is_err() {
                        return Some(self.lose("the control plane sends what is no event stream".to_owned()));
                    }
                }
                Some(Err(failure)) => return Some(self.lose(failure.message().to_owned())),
                None => return Some(self.lose("the control plane ended the stream".to_owned())),
            }
        }
    }

    fn lose(&mut self, why: String) -> Told {
        self.open = None;
        self.lines = Lines::default();
        self.broken = true;
        Told::Away(why)
    }

    async fn connect(&mut self) -> Told {
        if self.broken {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        let answer = match self.ask().await {
            Ok(answer) => answer,
            Err(failure) => return self.lose(failure.message().to_owned()),
        };
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let events = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
        match status {
            200 if events => {
                self.broken = false;
                self.open = Some(parts(answer, self.edge.limits.upstream_silence));
                Told::Open
            }
            // Nothing will follow behind what was had.
            204 => {
                self.over = true;
                Told::End
            }
            // A control plane that does not know this stream may answer it as a job of that name.
            200 | 400 | 404 | 405 | 410 => {
                self.over = true;
                Told::Missing(format!("the control plane has no such stream (it answered {status})"))
            }
            _ => self.lose(format!("the control plane answered {status}")),
        }
    }

    async fn ask(&self) -> Result<reqwest::Response, Failure> {
        let path: &[&str] = match &self.source {
            Source::Job(id) => &["v1", "jobs", job_id(id)?, "events", "stream"],
            Source::Changes => &["v1", "jobs", "changes"],
        };
        let ask = Ask {
            method: Method::GET,
            path,
            query: Vec::new(),
            last_event_id: self.after.as_deref(),
            accept: Some("text/event-stream"),
            body: None,
            trace: TraceContext::default(),
        };
        let to = self.edge.control_plane()?;
        self.edge.upstream.send(&to, ask).await
    }
}

/// Events out of bytes that are cut anywhere.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    event: Event,
    has_data: bool,
    ready: VecDeque<Event>,
}

impl Lines {
    fn take(&mut self, part: &[u8]) -> Result<(), ()> {
        self.rest.extend_from_slice(part);
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            let line =
                String::from_utf8_lossy(&self.rest[begin..begin + length]).trim_end_matches('\r').to_owned();
            self.line(&line);
            begin += length + 1;
        }
        self.rest.drain(..begin);
        let held = self.rest.len() + self.event.data.len();
        if held > LONGEST_EVENT { Err(()) } else { Ok(()) }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                self.ready.push_back(event);
            }
            return;
        }
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match key {
            "event" => self.event.name = value.to_owned(),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "retry: 1000\n\n: keep-alive\n\nid: 1\nevent: training.log\ndata: {\"a\":\"ü\"}\n\n\
                        id:2\r\nevent: x\r\ndata: one\r\ndata: two\r\n\r\nevent: y\n\ndata: cut off";

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let event = |name: &str, id: &str, data: &str| Event {
            name: name.to_owned(),
            id: Some(id.to_owned()),
            data: data.to_owned(),
        };
        let wanted = [event("training.log", "1", r#"{"a":"ü"}"#), event("x", "2", "one\ntwo")];
        for cut in 0..=TEXT.len() {
            let (mut lines, bytes) = (Lines::default(), TEXT.as_bytes());
            lines.take(&bytes[..cut]).unwrap();
            lines.take(&bytes[cut..]).unwrap();
            assert_eq!(Vec::from(lines.ready), wanted, "cut at {cut}");
        }
    }

    #[test]
    fn what_never_ends_is_no_event() {
        let mut lines = Lines::default();
        let part = vec![b'x'; 600 * 1024];
        assert_eq!(lines.take(&part), Ok(()));
        assert_eq!(lines.take(&part), Err(()));
    }
}
