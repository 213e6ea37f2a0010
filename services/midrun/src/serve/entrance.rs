//! Where the other processes come in, and those who look after this one.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use peer::Exchange;
use serde_json::json;
use telemetry::metrics::{OPEN_METRICS, PROMETHEUS, counted, exposition, wants_open_metrics};
use tokio::sync::watch;
use wire::Troubles;

use crate::address::url_of;

/// How long answers that are under way at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Where the other processes come in.
pub(super) struct Entrance {
    pub(super) url: String,
    exchange: Exchange,
    server: ServerHandle,
}

impl Entrance {
    pub(super) fn open(
        listener: TcpListener,
        exchange: Exchange,
        trouble: watch::Receiver<Troubles>,
        names: Vec<&'static str>,
    ) -> Result<Self, String> {
        let url = url_of(&listener)?;
        let routes = exchange.clone();
        let server = HttpServer::new(move || {
            let (trouble, names) = (trouble.clone(), names.clone());
            App::new()
                .configure(|app| routes.configure(app))
                .route("/healthz", web::get().to(async || HttpResponse::Ok().json(json!({ "ok": true }))))
                .route("/metrics", web::get().to(metrics))
                .route("/readyz", web::get().to(move || ready(trouble.clone(), names.clone())))
        });
        let server = server
            .workers(1)
            .disable_signals()
            .tcp_nodelay(true)
            // A connection that is cut is noticed although nothing is written to it.
            .h1_allow_half_closed(false)
            .shutdown_timeout(LAST_ANSWERS.as_secs())
            .listen(listener)
            .map_err(|error| format!("{url} cannot be served: {error}"))?
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { url, exchange, server: handle })
    }

    /// A part behind it was started anew.
    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) async fn close(&self) {
        self.exchange.close_feeds();
        if tokio::time::timeout(LAST_ANSWERS, self.server.stop(true)).await.is_err() {
            tracing::warn!("some answers to other services are cut short");
        }
    }
}

/// `GET /metrics`: what the services here count.
async fn metrics(request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get("accept").and_then(|value| value.to_str().ok());
    let is_open = wants_open_metrics(accept);
    let text = exposition(&[counted().registrar()], is_open);
    HttpResponse::Ok().content_type(if is_open { OPEN_METRICS } else { PROMETHEUS }).body(text)
}

/// `GET /readyz`: the services here have all that they need.
async fn ready(trouble: watch::Receiver<Troubles>, names: Vec<&'static str>) -> HttpResponse {
    let now = trouble.borrow().clone();
    if now.list.is_empty() {
        return HttpResponse::Ok().json(json!({ "ok": true, "services": names }));
    }
    let body = json!({ "error": now.to_string(), "troubles": now.list, "services": names });
    HttpResponse::ServiceUnavailable().json(body)
}
