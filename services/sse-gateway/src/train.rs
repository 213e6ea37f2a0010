//! `POST /api/train`: a run that lives exactly as long as its request.
//!
//! What must hold: from the moment the registry has started the run until its exit was read from its log, there
//! is a [`Leash`], and wherever a leash is dropped, the run is stopped: when the client goes while the start is
//! under way, when it goes while the run is silent, when a thread dies, when the server stops. The body is the
//! run's output, byte for byte, then one trailer.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{Stream, stream};
use peer::{Reader, Start};
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wire::event::DevEvent;
use wire::log::{Record, Step};
use wire::profile::{PID_HEADERS, RUN_HEADER};
use wire::run::{ClaimRun, GetRun, Owner, ReadLog, StartRun};
use wire::{Run, RunId, TraceContext};

use crate::body;
use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::log_reader::LogReader;
use crate::metrics::Kind;
use crate::runs::end_of;
use crate::stopper::Order;
use crate::traced::trace;

#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default)]
    file: Option<String>,
}

const PAGE_BYTES: u32 = 256 * 1024;

/// How long a start may take before its fate counts as unknown: longer than the registry waits for the watch of a named
/// file, its first build and the runner's process together.
pub(crate) const START_BUDGET: Duration = Duration::from_secs(100);

/// `POST /api/train`.
pub(crate) async fn open(
    edge: Data<Edge>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let Wanted { file } = body::json(payload, edge.limits.body).await?;
    let ticket = edge.open_stream(Kind::Train)?;
    let started = start(Arc::clone(&edge), ticket, file, trace(&request));
    let (run, leash, claim) = tokio::select! {
        started = started => started?,
        () = edge.lifecycle.closing() => return Err(Failure::stopping()),
    };
    let mut response = HttpResponse::Ok();
    name_run(&mut response, &run);
    response
        .content_type("text/plain; charset=utf-8")
        .insert_header(("cache-control", "no-store, no-transform"))
        .insert_header(("x-accel-buffering", "no"));
    let patience = edge.limits.patience;
    let reader = LogReader::new(edge.peers.read_log.clone(), run.id, 0, PAGE_BYTES, patience);
    Ok(response.streaming(output(Training { edge, reader, leash, _claim: claim })))
}

/// Says in the head which run it is about.
pub(crate) fn name_run(response: &mut HttpResponseBuilder, run: &Run) {
    for name in PID_HEADERS {
        if let Some(pid) = run.pid {
            response.insert_header((name, pid));
        }
    }
    response.insert_header((RUN_HEADER, run.id.as_str()));
}

/// Starts a run in a task of its own, so that a run which started though nobody waits any more is on a leash too.
async fn start(
    edge: Arc<Edge>,
    ticket: Ticket,
    file: Option<String>,
    trace: TraceContext,
) -> Result<(Run, Leash, Claim), Failure> {
    let (answer, answered) = oneshot::channel();
    let inside = edge.lifecycle.enter();
    tokio::spawn(async move {
        // The end of the server waits for this: the run may exist already.
        let _inside = inside;
        // Before the start, so that no word of the run is missed.
        let news = edge.peers.events.read(Start::Snapshot);
        let message = StartRun { file, owner: Owner::Request };
        let started = edge.peers.start.ask_within(message, trace.clone(), START_BUDGET).await;
        let started = started.map(|run| {
            let leash = Leash { run: run.clone(), trace, ticket, why: CLOSED, holds: true };
            let claim = Claim::make(Arc::clone(&edge), run.clone(), news);
            (run, leash, claim)
        });
        // Nobody there: the answer is dropped, and the leash with it.
        drop(answer.send(started));
    });
    let Ok(started) = answered.await else { return Err(Failure::stopping()) };
    Ok(started?)
}

const CLOSED: &str = "the request that started it was closed";
const STOPPING: &str = "the server is stopping";

/// Stops its run when it is dropped before [`Leash::let_go`].
struct Leash {
    run: Run,
    trace: TraceContext,
    ticket: Ticket,
    why: &'static str,
    holds: bool,
}

impl Leash {
    fn let_go(&mut self) {
        self.holds = false;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if self.holds {
            let order = Order {
                run: self.run.id.clone(),
                reason: self.why.to_owned(),
                trace: std::mem::take(&mut self.trace),
                _permit: self.ticket.take_room(),
            };
            self.ticket.edge.stopper.order(order);
        }
    }
}

/// Tells the registry that whoever waits for this answer starts the run's next, when that has ended; a client that does
/// not read does not keep it from that. When it is dropped nobody waits any more.
struct Claim(JoinHandle<()>);

impl Claim {
    fn make(edge: Arc<Edge>, run: Run, news: Reader<DevEvent>) -> Self {
        Self(tokio::spawn(async move {
            let id = run.id.clone();
            if end_of(&edge, run, news).await.is_ok() {
                claim(&edge, &id).await;
            }
        }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// May be done again.
async fn claim(edge: &Edge, run: &RunId) {
    if let Err(error) = edge.peers.claim.ask(ClaimRun { run: run.clone() }).await {
        tracing::warn!(%run, %error, "the server may restart a run that its client restarts too");
    }
}

struct Training {
    edge: Arc<Edge>,
    reader: LogReader<ReadLog>,
    leash: Leash,
    _claim: Claim,
}

/// What comes next in the body; never empty, since an empty chunk would end it.
enum Part {
    More(Bytes),
    Last(Bytes),
}

fn output(training: Training) -> impl Stream<Item = Result<Bytes, Failure>> {
    stream::unfold(Some(training), |training| async move {
        let mut training = training?;
        let part = training.next().await;
        training.leash.ticket.sent();
        Some(match part {
            Part::More(bytes) => (Ok(bytes), Some(training)),
            Part::Last(bytes) => (Ok(bytes), None),
        })
    })
}

impl Training {
    async fn next(&mut self) -> Part {
        let closing = self.edge.lifecycle.closing();
        tokio::select! {
            part = self.read() => part,
            () = closing => {
                self.leash.why = STOPPING;
                Part::Last(trailer("error", STOPPING))
            }
        }
    }

    /// Cancel-safe.
    async fn read(&mut self) -> Part {
        loop {
            let page = match self.reader.next().await {
                Ok(Some(page)) => page,
                Ok(None) => return self.without_exit().await,
                Err(error) => return Part::Last(trailer("error", error.message())),
            };
            let mut bytes = written(&page.records);
            if let Some(Step::Exit { code, .. }) = page.records.last().map(|record| &record.step) {
                // The client may start the next as soon as it knows of the end.
                claim(&self.edge, &self.leash.run.id).await;
                self.leash.let_go();
                bytes.extend_from_slice(&trailer("exit", &code.to_string()));
                return Part::Last(bytes.into());
            }
            if !bytes.is_empty() {
                return Part::More(bytes.into());
            }
        }
    }

    /// The log ended and nobody saw how: there is nothing left to stop.
    async fn without_exit(&mut self) -> Part {
        let run = self.edge.peers.get.ask(GetRun { run: self.leash.run.id.clone() }).await;
        self.leash.let_go();
        let reason = run.ok().and_then(|run| run.reason);
        Part::Last(trailer("error", reason.as_deref().unwrap_or("nobody saw this run's end")))
    }
}

fn trailer(what: &str, text: &str) -> Bytes {
    let text = text.replace(['\r', '\n'], " ");
    format!("\n---\n{what}={text}\n").into()
}

/// What the run wrote, in order, whichever stream it wrote it to.
fn written(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let Step::Output { text, base64, .. } = &record.step else { continue };
        if let Some(text) = text {
            bytes.extend_from_slice(text.as_bytes());
        }
        if let Some(base64) = base64 {
            match BASE64_STANDARD.decode(base64) {
                Ok(raw) => bytes.extend_from_slice(&raw),
                Err(error) => tracing::error!(seq = record.seq, %error, "an output record is not base 64"),
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::log::Stream as From;

    fn output(seq: u64, text: Option<&str>, base64: Option<&str>) -> Record {
        let step = Step::Output {
            stream: if seq.is_multiple_of(2) { From::Stdout } else { From::Stderr },
            text: text.map(str::to_owned),
            base64: base64.map(str::to_owned),
        };
        Record { seq, ts: String::new(), step }
    }

    #[test]
    fn output_is_put_together_byte_for_byte() {
        let records = [
            output(1, Some("a\u{1f600}\r\n"), None),
            Record { seq: 2, ts: String::new(), step: Step::Checkpoint { step: 4 } },
            output(3, None, Some("//79AA==")),
            output(4, Some("z"), None),
        ];
        assert_eq!(written(&records), b"a\xf0\x9f\x98\x80\r\n\xff\xfe\xfd\0z");
        assert_eq!(written(&records[1..2]), b"");
    }

    #[test]
    fn a_trailer_is_one_line() {
        assert_eq!(trailer("exit", "0"), "\n---\nexit=0\n");
        assert_eq!(trailer("error", "a\nb"), "\n---\nerror=a b\n");
    }
}
