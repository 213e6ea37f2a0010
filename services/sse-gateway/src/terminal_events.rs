//! `GET /api/terminals/ID/events`: a session's log as an event stream.
//!
//! `id:` is a record's number and `data:` the record itself. `output`, `input`, `completed`, `resized` and `exit` are
//! named like their type; everything else is a `status`. The stream ends behind `exit`; who asks for more behind that
//! gets 204. A session whose end nobody saw ends with an `exit` without a code, with a `reason`. A client's first
//! stream may begin behind `?after=SEQ`; `Last-Event-ID` is stronger.

use std::collections::VecDeque;
use std::convert::Infallible;

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_lab::sse::{self, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use wire::log::{Record, Step};
use wire::run::LogPage;
use wire::terminal::{GetTerminal, ReadTerminal};

use crate::dev_events::{LAST_EVENT_ID, RETRY, event_stream};
use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::log_reader::LogReader;
use crate::metrics::Kind;
use crate::terminals::terminal_id;

const PAGE_BYTES: u32 = 64 * 1024;
#[derive(Debug, Deserialize)]
pub(crate) struct From {
    #[serde(default)]
    after: u64,
}

/// `GET /api/terminals/ID/events`.
pub(crate) async fn open(
    edge: Data<Edge>,
    id: Path<String>,
    from: Query<From>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let terminal = terminal_id(&id)?;
    let ticket = edge.open_stream(Kind::Terminal)?;
    let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let after = last.unwrap_or(from.after);
    let read = edge.peers.terminals.read.clone();
    let mut reader = LogReader::new(read, terminal.clone(), after, PAGE_BYTES, edge.limits.patience);
    let page = reader.first().await?;
    if page.ended && page.records.is_empty() && after > 0 {
        return Ok(HttpResponse::NoContent().finish());
    }
    let terminal = GetTerminal { terminal };
    let mut client = Client { reader, terminal, last: after, ready: VecDeque::new(), over: false, ticket };
    client.take(page);
    let events = follow(client).take_until(edge.lifecycle.closing());
    let body = Sse::from_stream(events).with_retry_duration(RETRY).with_keep_alive(edge.limits.heartbeat);
    Ok(event_stream().body(body))
}

/// One client's place in a session's log.
struct Client {
    reader: LogReader<ReadTerminal>,
    terminal: GetTerminal,
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
                    tracing::warn!(terminal = %self.terminal.terminal, %error, "a terminal's log cannot be read");
                    return None;
                }
            }
        }
    }

    /// The log has no last record: the host went away before its shell.
    async fn unseen_end(&self) -> sse::Event {
        let data = unseen_end(&self.ticket.edge, &self.terminal).await;
        sse::Event::Data(sse::Data::new(data).id(self.last.to_string()).event("exit"))
    }
}

/// The data of the `exit` that stands for an end that nobody saw.
pub(crate) async fn unseen_end(edge: &Edge, terminal: &GetTerminal) -> String {
    let terminal = edge.peers.terminals.get.ask(terminal.clone()).await.ok();
    let reason = terminal.and_then(|terminal| terminal.reason);
    let reason = reason.unwrap_or_else(|| "nobody saw this terminal's end".to_owned());
    json!({"type": "exit", "code": null, "exitCode": null, "reason": reason}).to_string()
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
    let mut data = serde_json::to_value(record).expect("a wire type is always JSON");
    if let Step::Exit { code, .. } = record.step {
        data["exitCode"] = Value::from(code);
    }
    data.to_string()
}

/// The name of the event that `step` makes.
pub(crate) const fn name(step: &Step) -> &'static str {
    match step {
        Step::Output { .. } => "output",
        Step::Input { .. } => "input",
        Step::Completed { .. } => "completed",
        Step::Resized { .. } => "resized",
        Step::Exit { .. } => "exit",
        _ => "status",
    }
}
