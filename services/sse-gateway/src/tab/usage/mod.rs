//! The topic `usage:RUN`: the run's processes and what they use, looked at every two seconds while somebody watches.
//!
//! Seen are the runner's descendants, and whatever carries the run's or its job's mark in its environment: that finds
//! the executor that trains the run's job on this machine. Where the runner is on another machine nothing is seen, and
//! the list is empty.

mod gpu;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use process::ExactTimers;
use serde_json::json;
use wire::RunId;
use wire::run::GetRun;

use super::Said;
use super::source::{Lost, Source};
use crate::edge::Edge;
use crate::failure::Failure;
use gpu::Gpus;
use table::{Marks, Seen};

const PAUSE: Duration = Duration::from_secs(2);

/// The processor time of each process, by pid and start time.
type Spent = HashMap<(u32, u64), u64>;

struct Watch {
    edge: Arc<Edge>,
    run: RunId,
    source: Source,
    gpus: Gpus,
    /// The last look.
    before: Option<(Instant, Spent)>,
    /// A look was told, so the next one is not due yet.
    looked: bool,
    over: bool,
    /// Its looks are at an even pace, and what it starts has the usual timers.
    _exact: ExactTimers,
}

pub(super) fn say(edge: Arc<Edge>, run: RunId) -> impl Stream<Item = Said> {
    let source = Source::new(format!("usage:{run}"));
    let watch = Watch {
        edge,
        run,
        source,
        gpus: Gpus::default(),
        before: None,
        looked: false,
        over: false,
        _exact: ExactTimers::hold(),
    };
    stream::unfold(watch, |mut watch| async move {
        let said = watch.next().await?;
        Some((said, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<Said> {
        if self.over {
            return None;
        }
        if std::mem::take(&mut self.looked) {
            tokio::time::sleep(PAUSE).await;
        }
        let run = loop {
            self.source.turn().await;
            let asked = self.edge.peers.get.ask(GetRun { run: self.run.clone() }).await;
            let run = match asked.map_err(Failure::from) {
                Ok(run) => run,
                Err(failure) => match self.source.failed(&failure) {
                    Lost::ForGood(said) => {
                        self.over = true;
                        return Some(said);
                    }
                    Lost::ForNow(Some(said)) => return Some(said),
                    Lost::ForNow(None) => continue,
                },
            };
            match self.source.answered() {
                Some(said) => return Some(said),
                None => break run,
            }
        };
        self.looked = true;
        let marks = Marks {
            pid: run.pid.filter(|_| run.status.is_live()),
            run: self.run.as_str().to_owned(),
            job: run.job_id.map(|job| job.as_str().to_owned()),
        };
        let seen = actix_web::web::block(move || table::look(&marks)).await.unwrap_or_default();
        let now = Instant::now();
        let gpus = self.gpus.look(&seen).await;
        let data = json!({
            "processes": self.rows(&seen, now), "gpus": gpus.as_ref().ok(), "noGpus": gpus.as_ref().err(),
        });
        self.before = Some((now, seen.iter().map(|process| (process.key(), process.cpu_ms)).collect()));
        Some(Said {
            topic: self.source.topic.clone(),
            event: "usage",
            name: None,
            id: None,
            past: false,
            data: data.to_string(),
        })
    }

    fn rows(&self, seen: &[Seen], now: Instant) -> Vec<serde_json::Value> {
        let share = |process: &Seen| {
            let (then, before) = self.before.as_ref()?;
            let used = process.cpu_ms.saturating_sub(*before.get(&process.key())?);
            Some(100.0 * used as f64 / now.duration_since(*then).as_millis().max(1) as f64)
        };
        let row = |process: &Seen| {
            json!({
                "pid": process.pid, "parent": process.parent, "depth": process.depth, "command": process.command,
                "cpuPercent": share(process), "cpuMs": process.cpu_ms, "memoryBytes": process.memory,
            })
        };
        seen.iter().map(row).collect()
    }
}
