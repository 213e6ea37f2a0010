//! The actor: commits cancels and delivers what is committed.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use failpoint::Point;
use peer::{Envelope, Inbox};
use reqwest::Client;
use supervise::{Answering, Life, Part, Policy};
use telemetry::metrics::counted;
use tokio::sync::watch;
use wire::cancel::{Cancel, CancelRefusal, Outstanding, OutstandingCancel};
use wire::{JobId, RunId, Trouble};

use crate::delivery;
use crate::outbox::Outbox;

/// Requests of each kind that may be under way.
const INBOX: usize = 256;

/// How long between two looks for what another process committed: `midrun reap` has an outbox in hand too.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// Where the control plane is now that was at this address; nothing where it did not move.
pub type Moved = Rc<dyn Fn(&str) -> Option<String>>;

/// What the broker is told when it starts.
#[derive(Clone)]
pub struct Settings {
    /// The outbox's file; its folder exists.
    pub outbox: PathBuf,
    /// Asked before each attempt.
    pub moved: Moved,
}

impl Settings {
    /// For control planes that stay where they are.
    pub fn new(outbox: PathBuf) -> Self {
        Self { outbox, moved: Rc::new(|_| None) }
    }
}

/// How to reach a broker: its entrances, which lead nowhere until it is started and its outbox is open.
#[derive(Clone)]
pub struct Handle {
    /// Entrance for [`Cancel`].
    pub cancel: Inbox<Cancel>,
    /// Entrance for [`Outstanding`].
    pub outstanding: Inbox<Outstanding>,
    /// Whether the outbox could be opened; nothing while it has not been tried.
    opened: watch::Sender<Option<Result<(), String>>>,
    part: Rc<OnceCell<Part>>,
}

impl Default for Handle {
    fn default() -> Self {
        Self {
            cancel: Inbox::new(INBOX),
            outstanding: Inbox::new(INBOX),
            opened: watch::Sender::new(None),
            part: Rc::default(),
        }
    }
}

impl Handle {
    /// Waits until it is known whether the outbox can be opened.
    ///
    /// # Errors
    /// It cannot, for this reason; it is tried again and again all the same.
    pub async fn opened(&self) -> Result<(), String> {
        let mut opened = self.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await;
        opened.ok().and_then(|opened| opened.clone()).unwrap_or(Ok(()))
    }

    /// What is wrong with it; nothing before it is started.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<Trouble>>> {
        self.part.get().map(Part::trouble)
    }

    /// Accepts no more cancels and lets go of the outbox once those that came are in it; waits at most `limit`. What
    /// is not settled goes on with the next broker. May be called again.
    pub async fn shutdown(&self, limit: Duration) {
        if let Some(part) = self.part.get() {
            part.retire(limit).await;
        }
    }
}

/// Starts a broker behind `handle` on the current arbiter; what an earlier one left undone goes on. Does nothing if
/// there is one.
pub fn start(settings: Settings, handle: &Handle) {
    let own = handle.clone();
    let life = move |life: &Life| {
        live(life, settings.clone(), &own);
        Ok(())
    };
    let part = Part::start("cancel-broker", Policy::default(), life).expect("opening comes later");
    // A second one is dropped, and ends before it did anything.
    drop(handle.part.set(part));
}

/// Opens the outbox and delivers what is in it.
fn live(life: &Life, settings: Settings, handle: &Handle) {
    let (cancel, outstanding) = (handle.cancel.clone(), handle.outstanding.clone());
    let (life, opened) = (life.clone(), handle.opened.clone());
    let opening = {
        let (life, beginning) = (life.clone(), life.begins_later());
        async move {
            let outbox = match Outbox::open(&settings.outbox).await {
                Ok(outbox) => outbox,
                Err(error) => {
                    opened.send_replace(Some(Err(error.to_string())));
                    return life
                        .fail(format!("{error}; until then no job of a run that is stopped is cancelled"));
                }
            };
            failpoint::reach(Point::OutboxOpened);
            let closing = outbox.clone();
            life.at_end(async move { closing.close().await });
            let (client, delivering) = (delivery::client(), RefCell::default());
            let core =
                Rc::new(Core { outbox, moved: settings.moved, client, delivering, life: life.clone() });
            let actor = life.start(Broker { core });
            life.answer(&cancel, &actor);
            life.answer(&outstanding, &actor);
            opened.send_replace(Some(Ok(())));
            drop(beginning);
        }
    };
    life.spawn(opening);
}

struct Broker {
    core: Rc<Core>,
}

struct Core {
    outbox: Outbox,
    moved: Moved,
    client: Client,
    /// The runs whose cancel is being delivered.
    delivering: RefCell<HashSet<RunId>>,
    life: Life,
}

impl Actor for Broker {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let core = Rc::clone(&self.core);
        self.core.life.spawn(async move {
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
        self.life.spawn(async move {
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
            let known = &entry.cancel.control_plane.url;
            let url = (self.moved)(known).unwrap_or_else(|| known.clone());
            match delivery::attempt(&self.client, &url, &entry.cancel).await {
                Ok(()) => {
                    failpoint::reach(Point::CancelSettled);
                    if !self.outbox.settled(&entry.cancel).await? {
                        return Ok(false);
                    }
                    let job = entry.cancel.job.as_ref().map(JobId::as_str);
                    tracing::info!(%run, job, attempts = entry.attempts + 1, "cancel settled");
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
    type Result = Answering<Result<(), CancelRefusal>>;

    fn handle(&mut self, envelope: Envelope<Cancel>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
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
    type Result = Answering<Result<Vec<OutstandingCancel>, CancelRefusal>>;

    fn handle(&mut self, envelope: Envelope<Outstanding>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
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

    /// A control plane that answers the first requests with `script` (0 cuts the connection, and with a negative status
    /// comes a page), then with 200. Gives back its address and the requests it gets.
    async fn control_plane(script: Vec<i16>) -> (String, tokio::sync::mpsc::Receiver<String>) {
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
                    let kind = if status < 0 { "text/html; charset=utf-8" } else { "application/json" };
                    let answer = format!(
                        "HTTP/1.1 {} X\r\ncontent-type: {kind}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                        status.abs()
                    );
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
        start(Settings::new(outbox), &handle);
        handle.opened().await.unwrap();
        handle
    }

    async fn until_settled(handle: &Handle) {
        let settled = async {
            while !handle.outstanding.peer().ask(Outstanding {}).await.is_ok_and(|left| left.is_empty()) {
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
    async fn who_knows_nobody_settles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Another program has the port, and then the control plane again, which never had such a job.
        let script = vec![404, 404, 409, 401, 404, -200, -200, -200, 404, 200];
        let (url, mut requests) = control_plane(script).await;
        let handle = started(dir.path().join("cancels.db")).await;
        handle.cancel.peer().ask(cancel(&url, "r4", Some("j4"))).await.unwrap();
        until_settled(&handle).await;
        for round in 0..5 {
            let asked = requests.try_recv().unwrap();
            assert!(asked.starts_with("POST /v1/jobs/j4/cancel?"), "{round}: {asked}");
            let asked = requests.try_recv().unwrap();
            assert!(
                asked.starts_with("GET /v1/me ") && asked.contains("authorization: Bearer s3cret"),
                "{asked}"
            );
        }
        assert!(requests.try_recv().is_err());
    }

    #[actix_rt::test]
    async fn a_control_plane_that_moved_is_told_where_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let (url, mut requests) = control_plane(vec![]).await;
        let handle = Handle::default();
        let moved = Rc::new(move |old: &str| (old == "http://127.0.0.1:1").then(|| url.clone()));
        start(Settings { outbox: dir.path().join("cancels.db"), moved }, &handle);
        handle.opened().await.unwrap();
        handle.cancel.peer().ask(cancel("http://127.0.0.1:1", "r5", Some("j5"))).await.unwrap();
        until_settled(&handle).await;
        assert!(requests.try_recv().unwrap().starts_with("POST /v1/jobs/j5/cancel?"));
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
        let handle = Handle::default();
        start(Settings::new("/no/such/folder/cancels.db".into()), &handle);
        let error = handle.opened().await.unwrap_err();
        assert!(error.contains("/no/such/folder/cancels.db"), "{error}");
        let mut trouble = handle.trouble().expect("it is started");
        let seen = trouble.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(seen.service == "cancel-broker" && seen.why.contains("/no/such/folder"), "{seen}");
        let refused = handle.outstanding.peer().ask(Outstanding {}).await;
        assert!(matches!(refused, Err(peer::AskError::NotDelivered { .. })), "{refused:?}");
        handle.shutdown(LIMIT).await;
    }

    #[actix_rt::test]
    async fn an_outbox_that_can_be_opened_later_is() {
        let dir = tempfile::tempdir().unwrap();
        let handle = Handle::default();
        start(Settings::new(dir.path().join("later/cancels.db")), &handle);
        handle.opened().await.unwrap_err();
        std::fs::create_dir(dir.path().join("later")).unwrap();
        until_settled(&handle).await;
        handle.shutdown(LIMIT).await;
    }
}
