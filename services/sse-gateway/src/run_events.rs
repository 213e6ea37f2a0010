//! `GET /api/runs/ID/events`: a run's log and life as an event stream.
//!
//! `id:` is a record's number and `data:` the record itself: `seq`, `ts`, `type` and what that type has. The
//! event's name follows from the type: `output`, `dropped`, `swap`, `checkpoint` and `exit` are named like it; everything
//! else (`spawned`, `ready`, `job`, `training`, `signal`, `earlyStop`, `finished`, `note`) is a `status`. `exit` also has
//! `exitCode`, as a run has. The stream ends behind `exit`; who asks for more behind that gets 204, which tells an
//! `EventSource` to stay away. A run whose end nobody saw ends with an `exit` without a code, with a `reason`.

use std::collections::VecDeque;
use std::convert::Infallible;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_lab::sse::{self, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use wire::log::{Record, Step};
use wire::run::{GetRun, LogPage, ReadLog};

use crate::dev_events::{LAST_EVENT_ID, RETRY, event_stream};
use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::log_reader::LogReader;
use crate::metrics::Kind;
use crate::runs::run_id;

const PAGE_BYTES: u32 = 64 * 1024;

/// `GET /api/runs/ID/events`.
pub(crate) async fn open(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let run = run_id(&id)?;
    let ticket = edge.open_stream(Kind::Run)?;
    let after =
        request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let patience = edge.limits.patience;
    let mut reader = LogReader::new(edge.peers.read_log.clone(), run.clone(), after, PAGE_BYTES, patience);
    let page = reader.first().await?;
    if page.ended && page.records.is_empty() && after > 0 {
        return Ok(HttpResponse::NoContent().finish());
    }
    let mut client =
        Client { reader, run: GetRun { run }, last: after, ready: VecDeque::new(), over: false, ticket };
    client.take(page);
    let events = follow(client).take_until(edge.lifecycle.closing());
    let body = Sse::from_stream(events).with_retry_duration(RETRY).with_keep_alive(edge.limits.heartbeat);
    Ok(event_stream().body(body))
}

/// One client's place in a run's log.
struct Client {
    reader: LogReader<ReadLog>,
    run: GetRun,
    /// The newest record taken.
    last: u64,
    ready: VecDeque<Record>,
    /// The end was said.
    over: bool,
    ticket: Ticket,
}

impl Client {
    fn take(&mut self, page: LogPage) {
        self.ready.extend(page.records);
        if let Some(newest) = self.ready.back() {
            self.last = newest.seq;
            self.over = matches!(newest.step, Step::Exit { .. });
        }
    }

    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.ticket.sent();
                return Some(event(&record));
            }
            if self.over {
                return None;
            }
            match self.reader.next().await {
                Ok(Some(page)) => self.take(page),
                Ok(None) => {
                    self.over = true;
                    return Some(self.unseen_end().await);
                }
                Err(error) => {
                    // The client comes back by itself and goes on behind what it has.
                    tracing::warn!(run = %self.run.run, %error, "a run's log cannot be read");
                    return None;
                }
            }
        }
    }

    /// The log has no last record: the run-host went away before the runner.
    async fn unseen_end(&self) -> sse::Event {
        let run = self.ticket.edge.peers.get.ask(self.run.clone()).await.ok();
        let reason = run.as_ref().and_then(|run| run.reason.clone());
        let reason = reason.unwrap_or_else(|| "nobody saw this run's end".to_owned());
        let code = run.and_then(|run| run.exit_code);
        let data = json!({"type": "exit", "code": code, "exitCode": code, "reason": reason});
        sse::Event::Data(sse::Data::new(data.to_string()).id(self.last.to_string()).event("exit"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.ticket.edge.lifecycle.is_closing() && !self.ready.is_empty() {
            self.ticket.dropped();
        }
    }
}

fn follow(client: Client) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold(client, |mut client| async move {
        let event = client.next().await?;
        Some((Ok(event), client))
    })
}

fn event(record: &Record) -> sse::Event {
    let data = sse::Data::new(data(record));
    sse::Event::Data(data.id(record.seq.to_string()).event(name(&record.step)))
}

/// The data of `record`'s event.
pub(crate) fn data(record: &Record) -> String {
    match record.step {
        Step::Exit { code, .. } => {
            let mut data = serde_json::to_value(record).expect("a wire type is always JSON");
            data["exitCode"] = Value::from(code);
            data.to_string()
        }
        _ => serde_json::to_string(record).expect("a wire type is always JSON"),
    }
}

/// The name of the event that `step` makes.
pub(crate) const fn name(step: &Step) -> &'static str {
    match step {
        Step::Output { .. } => "output",
        Step::Dropped { .. } => "dropped",
        Step::Swap { .. } => "swap",
        Step::Checkpoint { .. } => "checkpoint",
        Step::Exit { .. } => "exit",
        Step::Spawned { .. }
        | Step::Ready { .. }
        | Step::Job { .. }
        | Step::Training(_)
        | Step::Signal { .. }
        | Step::EarlyStop { .. }
        | Step::Finished { .. }
        | Step::Alone { .. }
        | Step::Opened { .. }
        | Step::Input { .. }
        | Step::Completed { .. }
        | Step::Resized { .. }
        | Step::Note { .. } => "status",
    }
}
