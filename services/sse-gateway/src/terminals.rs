//! Terminal sessions over REST: open, list, show, type, resize, run a command, end.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use peer::AskError;
use serde::Deserialize;
use serde_json::json;
use wire::terminal::{
    CloseTerminal, GetTerminal, ListTerminals, OpenTerminal, ResizeTerminal, RunCommand, TerminalRefusal,
    TypeInto,
};
use wire::{CommandId, TerminalId};

use crate::body;
use crate::edge::{BUDGET, Edge};
use crate::failure::Failure;
use crate::traced::trace;

/// How long a session may take to open.
const OPEN_BUDGET: Duration = Duration::from_secs(45);
/// The most that is typed at once, bytes.
const LONGEST_INPUT: usize = 64 * 1024;
/// How long a command is waited for where nothing is said about that.
const USUAL_WAIT: Duration = Duration::from_secs(30);
/// A client that wants to wait longer asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The session that a path names.
pub(crate) fn terminal_id(text: &str) -> Result<TerminalId, Failure> {
    if TerminalId::is_well_formed(text) {
        return Ok(text.into());
    }
    let text: String = text.chars().take(40).collect();
    Err(AskError::Refused(TerminalRefusal::NotFound { terminal: text.into() }).into())
}

/// `GET /api/terminals`.
pub(crate) async fn list(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let terminals = edge.peers.terminals.list.ask_within(ListTerminals {}, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Ok().json(json!({ "terminals": terminals })))
}

/// `POST /api/terminals`.
pub(crate) async fn open(
    edge: Data<Edge>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let wanted: OpenTerminal = body::json(payload, edge.limits.body).await?;
    let terminal = edge.peers.terminals.open.ask_within(wanted, trace(&request), OPEN_BUDGET).await?;
    Ok(HttpResponse::Created()
        .insert_header(("location", format!("/api/terminals/{}", terminal.id)))
        .json(json!({ "terminal": terminal })))
}

/// `GET /api/terminals/ID`.
pub(crate) async fn show(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let message = GetTerminal { terminal: terminal_id(&id)? };
    let terminal = edge.peers.terminals.get.ask_within(message, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Ok().json(json!({ "terminal": terminal })))
}

/// `DELETE /api/terminals/ID`.
pub(crate) async fn close(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let message = CloseTerminal { terminal: terminal_id(&id)?, reason: "closed by a client".to_owned() };
    let terminal = edge.peers.terminals.close.ask_within(message, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Accepted().json(json!({ "terminal": terminal })))
}

/// `POST /api/terminals/ID/input`.
pub(crate) async fn type_into(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let terminal = terminal_id(&id)?;
    let bytes = body::read(payload, edge.limits.body).await?;
    if bytes.len() > LONGEST_INPUT {
        return Err(Failure::bad_request(format!(
            "not processed: {} bytes are more than can be typed at once; send at most {LONGEST_INPUT}",
            bytes.len()
        )));
    }
    let message = TypeInto { terminal, base64: BASE64.encode(&bytes) };
    edge.peers.terminals.type_into.ask_within(message, trace(&request), BUDGET).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Debug, Deserialize)]
struct Size {
    rows: u16,
    columns: u16,
}

/// `POST /api/terminals/ID/resize`.
pub(crate) async fn resize(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let terminal = terminal_id(&id)?;
    let Size { rows, columns } = body::json(payload, edge.limits.body).await?;
    let message = ResizeTerminal { terminal, rows, columns };
    edge.peers.terminals.resize.ask_within(message, trace(&request), BUDGET).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    command: String,
    #[serde(default)]
    id: Option<CommandId>,
    #[serde(default = "yes")]
    wait: bool,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

const fn yes() -> bool {
    true
}

/// `POST /api/terminals/ID/run`.
pub(crate) async fn run(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let terminal = terminal_id(&id)?;
    let Wanted { command: text, id, wait, timeout_ms } = body::json(payload, edge.limits.body).await?;
    let limit = timeout_ms.map_or(USUAL_WAIT, Duration::from_millis).min(LONGEST_WAIT);
    let command = id.unwrap_or_else(CommandId::fresh);
    let wait_ms = wait.then(|| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let message = RunCommand { terminal, command, text, wait_ms };
    let budget = if wait { limit + BUDGET * 3 } else { BUDGET };
    let asked = edge.peers.terminals.run.ask_within(message, trace(&request), budget);
    let commanded = tokio::select! {
        commanded = asked => commanded?,
        () = edge.lifecycle.closing() => return Err(Failure::stopping()),
    };
    let mut response = if wait { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    Ok(response.json(commanded))
}
