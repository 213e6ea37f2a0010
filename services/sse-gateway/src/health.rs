//! For those who look after the server: is it alive, is it ready, what has it done. No token, no secrets.

use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use telemetry::metrics::{OPEN_METRICS, PROMETHEUS, counted, exposition, wants_open_metrics};
use wire::TraceContext;
use wire::cancel::Outstanding;
use wire::run::{Newest, NewestBuild};

use crate::edge::Edge;
use crate::failure::Failure;

const READY_BUDGET: Duration = Duration::from_secs(1);

/// `GET /healthz`: the server answers.
pub(crate) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "ok": true }))
}

/// `GET /readyz`: the server takes new work, since it is not stopping, nothing is in its way, and the registry answers.
pub(crate) async fn ready(edge: Data<Edge>) -> Result<HttpResponse, Failure> {
    if edge.lifecycle.is_closing() {
        return Err(Failure::stopping());
    }
    let trouble = edge.peers.trouble.borrow().clone();
    if !trouble.list.is_empty() {
        return Err(Failure::unavailable(trouble.to_string()).with("troubles", json!(trouble.list)));
    }
    let newest = edge.peers.newest.ask_within(Newest {}, TraceContext::default(), READY_BUDGET).await;
    let newest = newest.map_err(|error| Failure::unavailable(error.to_string()))?;
    let build = match newest {
        NewestBuild::Pending => "pending",
        NewestBuild::Good { .. } => "good",
        NewestBuild::Failing(_) => "failing",
    };
    let control_plane = edge.peers.control_plane.borrow().is_some();
    Ok(HttpResponse::Ok().json(json!({ "ok": true, "build": build, "controlPlane": control_plane })))
}

/// `GET /metrics`. What is outstanding is missing while nobody can tell.
pub(crate) async fn metrics(edge: Data<Edge>, request: HttpRequest) -> HttpResponse {
    let outstanding =
        edge.peers.outstanding.ask_within(Outstanding {}, TraceContext::default(), READY_BUDGET);
    edge.metrics.outstanding(outstanding.await.ok().map(|cancels| cancels.len()));
    let accept = request.headers().get("accept").and_then(|value| value.to_str().ok());
    let is_open = wants_open_metrics(accept);
    let text = exposition(&[counted().registrar(), edge.metrics.registrar()], is_open);
    HttpResponse::Ok().content_type(if is_open { OPEN_METRICS } else { PROMETHEUS }).body(text)
}
