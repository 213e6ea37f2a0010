//! Where the other processes come in, and those who look after this one.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::{ServerHandle, Service as _};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use guard::HostGuard;
use peer::Exchange;
use process::ExactTimers;
use serde_json::json;
use telemetry::metrics::{OPEN_METRICS, PROMETHEUS, counted, exposition, wants_open_metrics};
use tokio::sync::watch;
use wire::Troubles;

use crate::address::url_of;

/// How long answers that are under way at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// While a thread has nothing but quiet feeds, its timers may be as late: HTTP's clock would wake it four times a second.
const LATEST: Duration = Duration::from_secs(1);

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
        has_secret: bool,
    ) -> Result<Self, String> {
        let url = url_of(&listener)?;
        let routes = exchange.clone();
        let unserved = |error: &dyn std::fmt::Display| format!("{url} cannot be served: {error}");
        let here = listener.local_addr().map_err(|error| unserved(&error))?;
        let guard = match has_secret {
            true => HostGuard::under_any_name(),
            // A page that a browser on this machine shows must not get in.
            false => HostGuard::at(here, &[]).map_err(|error| unserved(&error))?,
        };
        let server = HttpServer::new(move || {
            let (trouble, names) = (trouble.clone(), names.clone());
            process::let_timers_be_late(LATEST);
            let guard = guard.clone();
            App::new()
                .wrap_fn(|request, service| {
                    let answer = service.call(request);
                    async move {
                        // A request has a budget; a feed has not.
                        let _exact = ExactTimers::hold();
                        answer.await
                    }
                })
                .wrap(from_fn(move |request, next| guard::admit(guard.clone(), request, next)))
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
            .map_err(|error| unserved(&error))?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn without_a_secret_it_is_reached_under_loopback_names_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_tell, trouble) = watch::channel(Troubles::default());
        let entrance =
            Entrance::open(listener, Exchange::new(None), trouble, vec!["build-watcher"], false).unwrap();
        let client = reqwest::Client::new();
        for path in ["/healthz", "/metrics", "/peer/v1", "/peer/v1/run-command"] {
            let url = format!("{}{path}", entrance.url);
            let status = |header: &'static str, value: &'static str| {
                let asked = client.get(&url).header(header, value);
                async move { asked.send().await.unwrap().status().as_u16() }
            };
            assert_eq!(status("host", "evil.example").await, 403, "{path}");
            assert_eq!(status("origin", "http://evil.example").await, 403, "{path}");
            assert_ne!(status("host", "localhost").await, 403, "{path}");
        }
        entrance.close().await;
    }
}
