//! Runs over REST: list, start, show, stop, and wait for the end. The manifest, which says what would run, too.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use peer::{AskError, Reader, Start};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use wire::cancel::Outstanding;
use wire::run::{GetRun, ListRuns, Newest, NewestBuild, Owner, RunRefusal, StartRun, StopRun};
use wire::{DevEvent, Run, RunId, RunStatus, StopMode};

use crate::body;
use crate::edge::{BUDGET, Edge};
use crate::failure::Failure;
use crate::traced::trace;
use crate::train::{START_BUDGET, name_run};

/// The run that a path names.
pub(crate) fn run_id(text: &str) -> Result<RunId, Failure> {
    if RunId::is_well_formed(text) {
        return Ok(text.into());
    }
    let text: String = text.chars().take(40).collect();
    Err(AskError::Refused(RunRefusal::NotFound { run: text.into() }).into())
}

/// `GET /api/manifest`: what a run of the project's own entry would be.
pub(crate) async fn manifest(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    match edge.peers.newest.ask_within(Newest {}, trace(&request), BUDGET).await? {
        NewestBuild::Pending => {
            Err(Failure::unavailable("the first build is not done yet; ask again in a moment"))
        }
        NewestBuild::Failing(failure) => {
            Err(Failure::bad_request(failure.message).with("diagnostics", json!(failure.diagnostics)))
        }
        NewestBuild::Good { build_id, content_hash, manifest, entry } => Ok(HttpResponse::Ok().json(json!({
            "trainer": manifest.trainer.map(|name| json!({ "name": name })),
            "configHash": manifest.config_hash,
            "config": manifest.config,
            "callbacks": manifest.callbacks.keys().collect::<Vec<_>>(),
            "canSwap": manifest.can_swap,
            "buildId": build_id,
            "contentHash": content_hash,
            "entry": entry,
        }))),
    }
}

/// `GET /api/runs`.
pub(crate) async fn list(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let runs = edge.peers.list.ask_within(ListRuns {}, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Ok().json(json!({ "runs": runs })))
}

/// `GET /api/cancels`: those that the control plane has not settled.
pub(crate) async fn cancels(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let outstanding = edge.peers.outstanding.ask_within(Outstanding {}, trace(&request), BUDGET).await;
    let outstanding = outstanding.map_err(|error| Failure::unavailable(error.to_string()))?;
    Ok(HttpResponse::Ok().json(json!({ "cancels": outstanding })))
}

/// `GET /api/runs/ID`.
pub(crate) async fn show(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let run = edge.peers.get.ask_within(GetRun { run: run_id(&id)? }, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Ok().json(json!({ "run": run })))
}

#[derive(Debug, Deserialize)]
struct Stop {
    mode: StopMode,
    #[serde(default)]
    reason: Option<String>,
}

/// `POST /api/runs/ID/stop`.
pub(crate) async fn stop(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let run = run_id(&id)?;
    let Stop { mode, reason } = body::json(payload, edge.limits.body).await?;
    let reason = reason.unwrap_or_else(|| "asked to by a client".to_owned());
    let run = edge.peers.stop.ask_within(StopRun { run, mode, reason }, trace(&request), BUDGET).await?;
    Ok(HttpResponse::Accepted().json(json!({ "run": run })))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// `POST /api/runs`.
pub(crate) async fn start(
    edge: Data<Edge>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let Wanted { file, wait, timeout_ms } = body::json(payload, edge.limits.body).await?;
    if edge.lifecycle.is_closing() {
        return Err(Failure::stopping());
    }
    // Before the start, so that no word of the run is missed.
    let news = edge.peers.events.read(Start::Snapshot);
    let begun = Instant::now();
    let message = StartRun { file, owner: Owner::Server };
    let run = edge.peers.start.ask_within(message, trace(&request), START_BUDGET).await?;
    if !wait {
        let mut response = HttpResponse::build(StatusCode::CREATED);
        name_run(&mut response, &run);
        return Ok(response
            .insert_header(("location", format!("/api/runs/{}", run.id)))
            .json(json!({ "run": run })));
    }
    let limit = timeout_ms.map_or(LONGEST_WAIT, Duration::from_millis).min(LONGEST_WAIT);
    let id = run.id.clone();
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, end_of(&edge, run, news)) => ended.ok().transpose()?,
        () = edge.lifecycle.closing() => return Err(Failure::stopping()),
    };
    let timed_out = ended.is_none();
    let run = match ended {
        Some(run) => run,
        None => edge.peers.get.ask(GetRun { run: id }).await?,
    };
    let mut response = HttpResponse::Ok();
    name_run(&mut response, &run);
    Ok(response.json(json!({
        "completed": !timed_out,
        "timedOut": timed_out,
        "exitCode": run.exit_code,
        "durationMs": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "run": run,
    })))
}

/// A client that wants to wait longer asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a run is looked at although nobody said that it changed.
const LOOK: Duration = Duration::from_secs(5);

/// The run when it has ended.
pub(crate) async fn end_of(edge: &Edge, mut run: Run, mut news: Reader<DevEvent>) -> Result<Run, Failure> {
    let mut told = true;
    while !has_ended(&run) {
        tokio::select! {
            () = word_of(&mut news, &run.id), if told => {}
            () = tokio::time::sleep(LOOK) => told = true,
        }
        match edge.peers.get.ask(GetRun { run: run.id.clone() }).await {
            Ok(now) => run = now,
            Err(refused @ AskError::Refused(_)) => return Err(refused.into()),
            // It is away for the moment; the next look comes by the clock, not by the news.
            Err(_) => told = false,
        }
    }
    Ok(run)
}

fn has_ended(run: &Run) -> bool {
    matches!(run.status, RunStatus::Exited | RunStatus::Lost) || run.ended_at.is_some()
}

/// Comes true when `run` was spoken of, or when something may have been missed. Cancel-safe.
async fn word_of(news: &mut Reader<DevEvent>, run: &RunId) {
    loop {
        match news.next().await {
            Some(delivery) if delivery.snapshot => return,
            Some(delivery) => match &*delivery.event {
                DevEvent::Run(frame) if frame.run == *run => return,
                _ => {}
            },
            // The registry is gone, and so are the news.
            None => std::future::pending().await,
        }
    }
}
