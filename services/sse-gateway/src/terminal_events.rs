//! `GET /api/terminals/ID/events`: a session's log as an event stream.
//!
//! `id:` is a record's number and `data:` the record itself. `output`, `input`, `completed`, `resized` and `exit` are
//! named like their type; everything else is a `status`. The stream ends behind `exit`; who asks for more behind that
//! gets 204. A session whose end nobody saw ends with an `exit` without a code, with a `reason`. A client's first
//! stream may begin behind `?after=SEQ`; `Last-Event-ID` is stronger.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_lab::sse::{self, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use peer::AskError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::log::{Record, Step};
use wire::run::LogPage;
use wire::terminal::{GetTerminal, ReadTerminal, TerminalRefusal};
use wire::{TerminalId, TraceContext};

use crate::dev_events::{LAST_EVENT_ID, RETRY, event_stream};
use crate::edge::{BUDGET, Edge, Ticket};
use crate::failure::Failure;
use crate::metrics::Kind;
use crate::terminals::terminal_id;

const PAGE_BYTES: u32 = 64 * 1024;
/// How long one request waits for the log to grow.
const WAIT: Duration = Duration::from_secs(20);
/// Between two tries while the registry is away.
const PAUSE: Duration = Duration::from_millis(250);

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
    let mut client =
        Client { terminal, after, hint: None, ended: false, over: false, ready: VecDeque::new(), ticket };
    let page = client.ask(Duration::ZERO).await?;
    if page.ended && page.records.is_empty() && after > 0 {
        return Ok(HttpResponse::NoContent().finish());
    }
    client.take(page);
    let events = follow(client).take_until(edge.lifecycle.closing());
    let body = Sse::from_stream(events).with_retry_duration(RETRY).with_keep_alive(edge.limits.heartbeat);
    Ok(event_stream().body(body))
}

/// One client's place in a session's log.
struct Client {
    terminal: TerminalId,
    /// The newest record taken.
    after: u64,
    hint: Option<u64>,
    /// Nothing more will come from the log.
    ended: bool,
    /// The end was said.
    over: bool,
    ready: VecDeque<Record>,
    ticket: Ticket,
}

impl Client {
    async fn ask(&self, wait: Duration) -> Result<LogPage, AskError<TerminalRefusal>> {
        let message = ReadTerminal {
            terminal: self.terminal.clone(),
            after: self.after,
            hint: self.hint,
            max_bytes: PAGE_BYTES,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let peer = &self.ticket.edge.peers.terminals.read;
        peer.ask_within(message, TraceContext::default(), wait + BUDGET).await
    }

    fn take(&mut self, page: LogPage) {
        self.hint = Some(page.hint);
        self.ended = page.ended;
        self.ready.extend(page.records);
        if let Some(newest) = self.ready.back() {
            self.after = newest.seq;
            self.over = matches!(newest.step, Step::Exit { .. });
        }
    }

    async fn next(&mut self) -> Option<sse::Event> {
        let mut give_up = None;
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.ticket.sent();
                return Some(event(&record));
            }
            if self.over {
                return None;
            }
            if self.ended {
                self.over = true;
                return Some(self.unseen_end().await);
            }
            match self.ask(WAIT).await {
                Ok(page) => {
                    self.take(page);
                    give_up = None;
                }
                Err(AskError::Refused(_)) => return None,
                Err(error) => {
                    let patience = self.ticket.edge.limits.patience;
                    if Instant::now() >= *give_up.get_or_insert_with(|| Instant::now() + patience) {
                        // The client comes back by itself and goes on behind what it has.
                        tracing::warn!(terminal = %self.terminal, %error, "a terminal's log cannot be read");
                        return None;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The log has no last record: the host went away before its shell.
    async fn unseen_end(&self) -> sse::Event {
        let message = GetTerminal { terminal: self.terminal.clone() };
        let terminal = self.ticket.edge.peers.terminals.get.ask(message).await.ok();
        let reason = terminal.and_then(|terminal| terminal.reason);
        let reason = reason.unwrap_or_else(|| "nobody saw this terminal's end".to_owned());
        let data = json!({"type": "exit", "code": null, "exitCode": null, "reason": reason});
        sse::Event::Data(sse::Data::new(data.to_string()).id(self.after.to_string()).event("exit"))
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
    let mut data = serde_json::to_value(record).expect("a wire type is always JSON");
    let name = match record.step {
        Step::Output { .. } => "output",
        Step::Input { .. } => "input",
        Step::Completed { .. } => "completed",
        Step::Resized { .. } => "resized",
        Step::Exit { code, .. } => {
            data["exitCode"] = Value::from(code);
            "exit"
        }
        _ => "status",
    };
    sse::Event::Data(sse::Data::new(data.to_string()).id(record.seq.to_string()).event(name))
}
