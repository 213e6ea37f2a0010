//! A control plane on a listener of its own, and its end.
//!
//! actix waits for idle connections as if they were busy. So the answers under way are counted here, and once there
//! is none the connections are dropped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServerHandle, Service as _};
use actix_web::middleware::from_fn;
use actix_web::web::Bytes;
use actix_web::{App, HttpResponse, HttpServer, web};
use guard::HostGuard;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ControlPlane;

/// How long answers under way may take at a shutdown. Streams have ended, so only a client that does not read needs it.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

impl ControlPlane {
    /// Serves `/v1`, and `/healthz`, on `listener` until [`Handle::shutdown`].
    ///
    /// # Errors
    /// The listener cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve(&self, listener: TcpListener) -> io::Result<Handle> {
        let addr = listener.local_addr()?;
        let (control_plane, answers) = (self.clone(), TaskTracker::new());
        let counting = answers.clone();
        // Anyone may have an account, so a page that a browser on this machine shows must not get here.
        let guard = HostGuard::at(addr, &self.core.settings.allowed_hosts).map_err(io::Error::other)?;
        let server = HttpServer::new(move || {
            let counting = counting.clone();
            let guard = guard.clone();
            App::new()
                .wrap_fn(move |request, service| {
                    let token = counting.token();
                    let answer = service.call(request);
                    async move {
                        let response = answer.await?.map_into_boxed_body();
                        Ok(response.map_body(|_, body| Counted { body, _token: token }))
                    }
                })
                .wrap(from_fn(move |request, next| guard::admit(guard.clone(), request, next)))
                .route("/healthz", web::get().to(HttpResponse::Ok))
                .configure(|app| control_plane.configure(app))
        })
        .workers(self.core.settings.http_workers.max(1))
        .disable_signals()
        // A client that closes its end wants no answer any more: what is sampled for it ends at once.
        .h1_allow_half_closed(false)
        .listen(listener)?
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Handle { control_plane: self.clone(), server: handle, addr, answers, down: OnceCell::new() })
    }
}

/// An answer's body, counted until it is written or its client is gone.
struct Counted {
    body: BoxBody,
    _token: TaskTrackerToken,
}

impl MessageBody for Counted {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// A control plane that is being served.
#[derive(Debug)]
pub struct Handle {
    control_plane: ControlPlane,
    server: ServerHandle,
    addr: SocketAddr,
    answers: TaskTracker,
    down: OnceCell<()>,
}

impl Handle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://HOST:PORT`, without a trailing slash, as it is reached from this machine.
    pub fn url(&self) -> String {
        let mut address = self.addr;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{address}")
    }

    /// Ends streams first, then connections and executors ([`ControlPlane::close`]); returns when all is down, at
    /// most 10 s after `deadline`. May be called again, and from several places: all return when it is done.
    pub async fn shutdown(&self, deadline: Duration) {
        self.down.get_or_init(|| self.stop(deadline)).await;
    }

    async fn stop(&self, deadline: Duration) {
        self.control_plane.close_streams();
        let connections = async {
            // Not waited for: a connection that still gets in is dropped with the others.
            drop(self.server.pause());
            self.answers.close();
            if tokio::time::timeout(deadline.min(ANSWER_LIMIT), self.answers.wait()).await.is_err() {
                tracing::info!(
                    answers = self.answers.len(),
                    "cut off clients that did not read their answers"
                );
            }
            if tokio::time::timeout(ANSWER_LIMIT, self.server.stop(false)).await.is_err() {
                tracing::error!("the server does not stop; it ends with this process");
            }
        };
        // At once, so that a client that does not read takes nothing from an executor's time to save.
        tokio::join!(connections, self.control_plane.wind_down(deadline));
        self.control_plane.release().await;
    }
}
