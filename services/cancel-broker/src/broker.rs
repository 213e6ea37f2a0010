//! The actor: commits cancels and delivers what is committed.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use failpoint::Point;
use peer::{Envelope, Inbox};
use reqwest::Client;
use telemetry::metrics::counted;
use wire::cancel::{Cancel, CancelRefusal, Outstanding, OutstandingCancel};
use wire::{JobId, RunId};

use crate::delivery;
use crate::outbox::{Outbox, OutboxError};

/// Requests of each kind that may be under way.
const INBOX: usize = 256;

/// How long between two looks for what another process committed: `midrun reap` has an outbox in hand too.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// What the broker is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The outbox's file; its folder exists.
    pub outbox: PathBuf,
}

/// How to reach a broker: its entrances, which lead nowhere until it is started.
#[derive(Clone)]
pub struct Handle {
    /// Entrance for [`Cancel`].
    pub cancel: Inbox<Cancel>,
    /// Entrance for [`Outstanding`].
    pub outstanding: Inbox<Outstanding>,
    outbox: Rc<RefCell<Option<Outbox>>>,
}

impl Default for Handle {
    fn default() -> Self {
        Self { cancel: Inbox::new(INBOX), outstanding: Inbox::new(INBOX), outbox: Rc::default() }
    }
}

impl Handle {
    /// Accepts no more cancels and lets go of the outbox once those that came are in it; waits at most `limit`. What
    /// is not settled goes on with the next broker. May be called again.
    pub async fn shutdown(&self, limit: Duration) {
        self.cancel.point_at_nobody();
        self.outstanding.point_at_nobody();
        let outbox = self.outbox.borrow().clone();
        if let Some(outbox) = outbox
            && tokio::time::timeout(limit, outbox.close()).await.is_err()
        {
            tracing::warn!("the cancel outbox is still in use");
        }
    }
}

/// Starts a broker behind `handle` on the current arbiter; what an earlier one left undone goes on.
///
/// # Errors
/// When the outbox cannot be opened.
pub async fn start(settings: Settings, handle: &Handle) -> Result<(), OutboxError> {
    let outbox = Outbox::open(&settings.outbox).await?;
    failpoint::reach(Point::OutboxOpened);
    handle.outbox.replace(Some(outbox.clone()));
    let core = Rc::new(Core { outbox, client: delivery::client(), delivering: RefCell::default() });
    let address = Broker { core }.start();
    handle.cancel.point_at(address.clone().recipient());
    handle.outstanding.point_at(address.recipient());
    Ok(())
}

struct Broker {
    core: Rc<Core>,
}

struct Core {
    outbox: Outbox,
    client: Client,
    /// The runs whose cancel is being delivered.
    delivering: RefCell<HashSet<RunId>>,
}

impl Actor for Broker {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let core = Rc::clone(&self.core);
        actix::spawn(async move {
            while !core.outbox.is_closed() {
                match core.outbox.runs().await {
                    Ok(runs) => {
                        counted().outbox.set([], runs.len());
                        runs.into_iter().for_each(|run| core.deliver(run));
                    }
                    Err(error) => tracing::error!(%error, "the cancel outbox cannot be read"),
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
    }
}

impl Core {
    /// Delivers the cancel of `run` until it is settled.
    fn deliver(self: &Rc<Self>, run: RunId) {
        if !self.delivering.borrow_mut().insert(run.clone()) {
            return;
        }
        let core = Rc::clone(self);
        actix::spawn(async move {
            let mut failures = 0;
            while !core.outbox.is_closed() && !core.try_deliver(&run).await {
                tokio::time::sleep(delivery::pause(failures)).await;
                failures += 1;
            }
            core.delivering.borrow_mut().remove(&run);
        });
    }

    /// One attempt. True when nothing is left to do.
    async fn try_deliver(&self, run: &RunId) -> bool {
        let step = async {
            // Read anew each time: the cancel may have learned its job.
            let Some(entry) = self.outbox.get(run).await? else { return Ok(true) };
            failpoint::reach(Point::CancelSending);
            match delivery::attempt(&self.client, &entry.cancel).await {
                Ok(()) => {
                    failpoint::reach(Point::CancelSettled);
                    let job = entry.cancel.job.as_ref().map(JobId::as_str);
                    tracing::info!(%run, job, attempts = entry.attempts + 1, "cancel settled");
                    self.outbox.settled(run).await?;
                    counted().cancels.add(["settled"]);
                    self.show_depth().await;
                    failpoint::reach(Point::CancelForgotten);
                    Ok::<_, sqlx::Error>(true)
                }
                Err(why) => {
                    tracing::warn!(%run, why, attempts = entry.attempts + 1, "cancel not settled yet");
                    self.outbox.failed(run, &why).await?;
                    counted().cancels.add(["failed"]);
                    Ok(false)
                }
            }
        };
        step.await.unwrap_or_else(|error| {
            tracing::error!(%run, %error, "the cancel outbox cannot be used");
            false
        })
    }
}

impl Core {
    /// How many cancels are in the outbox, for those who look on.
    async fn show_depth(&self) {
        if let Ok(runs) = self.outbox.runs().await {
            counted().outbox.set([], runs.len());
        }
    }
}

fn unwritable(error: &sqlx::Error) -> CancelRefusal {
    CancelRefusal::OutboxUnwritable { why: error.to_string() }
}

impl Handler<Envelope<Cancel>> for Broker {
    type Result = ResponseFuture<Result<(), CancelRefusal>>;

    fn handle(&mut self, envelope: Envelope<Cancel>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        Box::pin(async move {
            let cancel = envelope.message();
            failpoint::reach(Point::CancelCommitting);
            core.outbox.commit(cancel).await.map_err(|error| unwritable(&error))?;
            failpoint::reach(Point::CancelCommitted);
            counted().cancels.add(["accepted"]);
            core.show_depth().await;
            core.deliver(cancel.run.clone());
            Ok(())
        })
    }
}

impl Handler<Envelope<Outstanding>> for Broker {
    type Result = ResponseFuture<Result<Vec<OutstandingCancel>, CancelRefusal>>;

    fn handle(&mut self, envelope: Envelope<Outstanding>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        Box::pin(async move {
            let _held = envelope.open();
            core.outbox.outstanding().await.map_err(|error| unwritable(&error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use wire::{ControlPlane, Secret};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A control plane that answers the first requests with `script` (0 cuts the connection), then with 200.
    /// Gives back its address and the requests it gets.
    async fn control_plane(script: Vec<u16>) -> (String, tokio::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (got, requests) = tokio::sync::mpsc::channel(64);
        actix::spawn(async move {
            let mut script = script.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let _ = got.send(String::from_utf8_lossy(&head[..length]).into_owned()).await;
                let status = script.next().unwrap_or(200);
                if status != 0 {
                    let answer =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        (url, requests)
    }

    fn cancel(url: &str, run: &str, job: Option<&str>) -> Cancel {
        let control_plane = ControlPlane {
            url: url.into(),
            token: Secret::new("s3cret"),
            org_slug: "o".into(),
            project_slug: "p".into(),
        };
        Cancel { run: run.into(), job: job.map(JobId::from), control_plane }
    }

    async fn started(outbox: PathBuf) -> Handle {
        let handle = Handle::default();
        start(Settings { outbox }, &handle).await.unwrap();
        handle
    }

    async fn until_settled(handle: &Handle) {
        let settled = async {
            while !handle.outstanding.peer().ask(Outstanding {}).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, settled).await.expect("settled in time");
    }

    #[actix_rt::test]
    async fn delivered_through_failures_once_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (url, mut requests) = control_plane(vec![500, 0, 503]).await;
        let outbox = dir.path().join("cancels.db");
        let handle = started(outbox.clone()).await;
        for _ in 0..3 {
            handle.cancel.peer().ask(cancel(&url, "r1", Some("j/1"))).await.unwrap();
        }
        until_settled(&handle).await;
        let mut seen = 0;
        while let Ok(request) = requests.try_recv() {
            seen += 1;
            assert!(
                request.starts_with("POST /v1/jobs/j%2F1/cancel?orgSlug=o&projectSlug=p HTTP/1.1"),
                "{request}"
            );
            assert!(request.contains("authorization: Bearer s3cret"));
        }
        assert_eq!(seen, 4, "three failures, one answer that settles");
        let on_disk = std::fs::read(&outbox).unwrap();
        assert!(!on_disk.windows(6).any(|bytes| bytes == b"s3cret"), "the credential is still on disk");
        let wal = std::fs::read(outbox.with_extension("db-wal")).unwrap_or_default();
        assert!(!wal.windows(6).any(|bytes| bytes == b"s3cret"), "the credential is still in the log");
    }

    #[actix_rt::test]
    async fn a_cancel_survives_its_broker_and_goes_by_run_when_no_job_is_known() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let outbox = dir.path().join("cancels.db");
        let (url, mut requests) = control_plane(vec![]).await;
        // Committed by a broker that dies before it delivers anything.
        Outbox::open(&outbox).await.unwrap().commit(&cancel(&url, "r2", None)).await.unwrap();
        assert_eq!(std::fs::metadata(&outbox).unwrap().permissions().mode() & 0o777, 0o600);
        let handle = started(outbox).await;
        let request = tokio::time::timeout(LIMIT, requests.recv()).await.unwrap().unwrap();
        assert!(
            request.starts_with("POST /v1/jobs/cancel?orgSlug=o&projectSlug=p&clientRunId=r2 "),
            "{request}"
        );
        until_settled(&handle).await;
    }

    #[actix_rt::test]
    async fn what_is_outstanding_is_told_without_the_credential() {
        let dir = tempfile::tempdir().unwrap();
        let handle = started(dir.path().join("cancels.db")).await;
        // Nobody listens there.
        handle.cancel.peer().ask(cancel("http://127.0.0.1:1", "r3", None)).await.unwrap();
        handle.cancel.peer().ask(cancel("http://127.0.0.1:1", "r3", Some("j3"))).await.unwrap();
        let told = handle.outstanding.peer().ask(Outstanding {}).await.unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].job, Some("j3".into()), "it learned its job");
        assert!(!format!("{told:?}").contains("s3cret"));
    }

    #[actix_rt::test]
    async fn an_outbox_that_cannot_be_opened_is_an_error_that_names_it() {
        let error = start(Settings { outbox: "/no/such/folder/cancels.db".into() }, &Handle::default())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/cancels.db"), "{error}");
    }
}
