//! A registry that does what the test tells it, behind real inboxes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use peer::{Envelope, FeedWriter, Inbox, Peer};
use sse_gateway::{Peers, TerminalPeers};
use tokio::sync::{Semaphore, watch};
use wire::cancel::OutstandingCancel;
use wire::event::{ErrorFrame, ErrorKind, RunFrame};
use wire::log::{Record, Step, Stream};
use wire::message::Never;
use wire::run::*;
use wire::terminal::{GetTerminal, ReadTerminal, TerminalRefusal};
use wire::{ContentHash, ControlPlane, DevEvent, Run, RunId};

use crate::support::soon;

#[derive(Default)]
struct Book {
    runs: HashMap<RunId, (Run, Vec<Record>, bool)>,
    order: Vec<RunId>,
    stops: Vec<StopRun>,
    claims: Vec<RunId>,
    starts: Vec<StartRun>,
    refuse: Option<RunRefusal>,
    /// No run is found, as in a registry that has not taken up its runs.
    blind: bool,
}

/// What the test does to the registry, and sees of it.
#[derive(Clone)]
pub(crate) struct Registry {
    book: Arc<Mutex<Book>>,
    changed: Arc<watch::Sender<u64>>,
    /// Requests that wait for news of a log.
    waiting: Arc<watch::Sender<usize>>,
    /// A start takes one of these.
    pub(crate) starts_allowed: Arc<Semaphore>,
    pub(crate) newest: Arc<Mutex<NewestBuild>>,
    pub(crate) events: Arc<FeedWriter<DevEvent>>,
    start: Inbox<StartRun>,
    stop: Inbox<StopRun>,
    list: Inbox<ListRuns>,
    get: Inbox<GetRun>,
    read_log: Inbox<ReadLog>,
    newest_inbox: Inbox<Newest>,
}

struct Desk(Registry);

impl Actor for Desk {
    type Context = Context<Self>;
}

type Answer<M> = Result<<M as wire::Wire>::Reply, <M as wire::Wire>::Refusal>;

macro_rules! answers {
    ($message:ty, $handle:ident) => {
        impl Handler<Envelope<$message>> for Desk {
            type Result = ResponseFuture<Answer<$message>>;

            fn handle(&mut self, envelope: Envelope<$message>, _: &mut Context<Self>) -> Self::Result {
                Box::pin(self.0.clone().$handle(envelope))
            }
        }
    };
}

answers!(StartRun, on_start);
answers!(StopRun, on_stop);
answers!(ListRuns, on_list);
answers!(GetRun, on_get);
answers!(ReadLog, on_read);
answers!(Newest, on_newest);

impl Registry {
    pub(crate) fn start_up() -> Self {
        let registry = Self {
            book: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            waiting: Arc::new(watch::Sender::new(0)),
            starts_allowed: Arc::new(Semaphore::new(1000)),
            newest: Arc::new(Mutex::new(NewestBuild::Pending)),
            events: Arc::new(FeedWriter::new(64)),
            start: Inbox::new(64),
            stop: Inbox::new(64),
            list: Inbox::new(64),
            get: Inbox::new(64),
            read_log: Inbox::new(64),
            newest_inbox: Inbox::new(64),
        };
        registry.come_back();
        registry
    }

    /// Waits until somebody waits for news of a log.
    pub(crate) async fn somebody_waits(&self) {
        soon(self.waiting.subscribe().wait_for(|waiting| *waiting > 0)).await.expect("it lives");
    }

    /// From now on nothing is delivered.
    pub(crate) fn go_away(&self) {
        self.start.point_at_nobody("it is not running");
        self.stop.point_at_nobody("it is not running");
        self.list.point_at_nobody("it is not running");
        self.get.point_at_nobody("it is not running");
        self.read_log.point_at_nobody("it is not running");
        self.newest_inbox.point_at_nobody("it is not running");
    }

    pub(crate) fn come_back(&self) {
        let desk = Desk(self.clone()).start();
        self.start.point_at(desk.clone().recipient());
        self.stop.point_at(desk.clone().recipient());
        self.list.point_at(desk.clone().recipient());
        self.get.point_at(desk.clone().recipient());
        self.read_log.point_at(desk.clone().recipient());
        self.newest_inbox.point_at(desk.recipient());
    }

    /// From now on it knows of no run.
    pub(crate) fn lose_sight(&self) {
        self.change(|book| book.blind = true);
    }

    pub(crate) fn see_again(&self) {
        self.change(|book| book.blind = false);
    }

    pub(crate) fn peers(
        &self,
        control_plane: watch::Receiver<Option<ControlPlane>>,
        trouble: watch::Receiver<wire::Troubles>,
    ) -> Peers {
        Peers {
            start: self.start.peer(),
            stop: self.stop.peer(),
            claim: Peer::fake({
                let registry = self.clone();
                move |ClaimRun { run }| {
                    registry.change(|book| book.claims.push(run));
                    Ok(())
                }
            }),
            list: self.list.peer(),
            get: self.get.peer(),
            read_log: self.read_log.peer(),
            newest: self.newest_inbox.peer(),
            outstanding: Peer::fake(|_| Ok(vec![outstanding_cancel()])),
            events: self.events.feed(),
            terminals: two_terminals(),
            control_plane,
            trouble,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let changed = change(&mut self.book.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    /// Waits until `seen` finds what it looks for.
    async fn until<T>(&self, seen: impl Fn(&Book) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        soon(async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = seen(&self.book.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.expect("the registry is here");
            }
        })
        .await
    }

    /// A run that is there already.
    pub(crate) fn add_run(&self) -> RunId {
        let run = new_run(RunId::fresh(), 4321);
        let id = run.id.clone();
        self.change(|book| book.add(run));
        id
    }

    /// From now on every start is refused.
    pub(crate) fn refuse_starts(&self, refusal: RunRefusal) {
        self.change(|book| book.refuse = Some(refusal));
    }

    pub(crate) fn write(&self, run: &RunId, step: Step) {
        self.change(|book| {
            let (_, log, _) = book.runs.get_mut(run).expect("the run is known");
            let seq = log.len() as u64 + 1;
            log.push(Record { seq, ts: wire::now(), step });
        });
    }

    pub(crate) fn print(&self, run: &RunId, text: &str) {
        let step = Step::Output { stream: Stream::Stdout, text: Some(text.to_owned()), base64: None };
        self.write(run, step);
    }

    /// The run ends, as its host saw it.
    pub(crate) fn exit(&self, run: &RunId, code: i32) {
        self.write(run, Step::Exit { code, signal: None });
        self.end(run, RunStatus::Exited, Some(code), None);
    }

    /// The run's log ends here.
    pub(crate) fn end(&self, run: &RunId, status: RunStatus, exit_code: Option<i32>, reason: Option<&str>) {
        self.change(|book| {
            let (known, _, ended) = book.runs.get_mut(run).expect("the run is known");
            *ended = true;
            known.status = status;
            known.exit_code = exit_code;
            known.ended_at = Some(wire::now());
            known.reason = reason.map(str::to_owned);
        });
        self.say(run, status);
    }

    pub(crate) fn say(&self, run: &RunId, status: RunStatus) {
        self.events.publish(run_frame(run, status));
    }

    /// The newest run once there are `count` of them.
    pub(crate) async fn started(&self, count: usize) -> RunId {
        self.until(|book| (book.order.len() >= count).then(|| book.order[count - 1].clone())).await
    }

    pub(crate) async fn asked_to_start(&self, count: usize) -> Vec<StartRun> {
        self.until(|book| (book.starts.len() >= count).then(|| book.starts.clone())).await
    }

    /// The stops that were asked for, once there are `count` of them.
    pub(crate) async fn stopped(&self, count: usize) -> Vec<StopRun> {
        self.until(|book| (book.stops.len() >= count).then(|| book.stops.clone())).await
    }

    /// Waits until the registry has taken note that `run` is to stop.
    pub(crate) async fn is_stopping(&self, run: &RunId) {
        self.until(|book| (book.runs[run].0.status == RunStatus::Stopping).then_some(())).await;
    }

    /// The runs whose clients start the next.
    pub(crate) fn claims(&self) -> Vec<RunId> {
        self.book.lock().unwrap().claims.clone()
    }

    /// The same, once there are `count` of them.
    pub(crate) async fn claimed(&self, count: usize) -> Vec<RunId> {
        self.until(|book| (book.claims.len() >= count).then(|| book.claims.clone())).await
    }

    pub(crate) fn stops(&self) -> Vec<StopRun> {
        self.book.lock().unwrap().stops.clone()
    }

    async fn on_start(self, envelope: Envelope<StartRun>) -> Answer<StartRun> {
        let (message, _held) = envelope.open();
        self.change(|book| book.starts.push(message.clone()));
        self.starts_allowed.acquire().await.expect("never closed").forget();
        let file = message.file.unwrap_or_default();
        self.change(|book| {
            if let Some(refusal) = &book.refuse {
                return Err(refusal.clone());
            }
            if file.contains("..") {
                return Err(RunRefusal::OutsideProject { file, project: "/project".to_owned() });
            }
            let run = new_run(RunId::fresh(), 1000 + u32::try_from(book.order.len()).unwrap());
            book.add(run.clone());
            Ok(run)
        })
    }

    async fn on_stop(self, envelope: Envelope<StopRun>) -> Answer<StopRun> {
        self.change(|book| {
            book.stops.push(envelope.message().clone());
            let (run, _, ended) = book.find(&envelope.message().run)?;
            if *ended {
                return Err(RunRefusal::Ended { run: run.id.clone() });
            }
            run.status = RunStatus::Stopping;
            Ok(run.clone())
        })
    }

    async fn on_list(self, _: Envelope<ListRuns>) -> Result<Vec<Run>, Never> {
        let book = self.book.lock().unwrap();
        Ok(book.order.iter().rev().map(|id| book.runs[id].0.clone()).collect())
    }

    async fn on_get(self, envelope: Envelope<GetRun>) -> Answer<GetRun> {
        Ok(self.book.lock().unwrap().find(&envelope.message().run)?.0.clone())
    }

    async fn on_newest(self, _: Envelope<Newest>) -> Result<NewestBuild, Never> {
        Ok(self.newest.lock().unwrap().clone())
    }

    async fn on_read(self, envelope: Envelope<ReadLog>) -> Answer<ReadLog> {
        let (message, _held) = envelope.open();
        let ReadLog { run, after, max_bytes, wait_ms, hint: _ } = message;
        let deadline = tokio::time::Instant::now() + Duration::from_millis(wait_ms.into());
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let page = self.book.lock().unwrap().page(&run, after, max_bytes)?;
            if page.ended || !page.records.is_empty() {
                return Ok(page);
            }
            self.waiting.send_modify(|waiting| *waiting += usize::from(wait_ms > 0));
            let is_late = tokio::time::timeout_at(deadline, changed.changed()).await.is_err();
            self.waiting.send_modify(|waiting| *waiting -= usize::from(wait_ms > 0));
            if is_late {
                return Ok(page);
            }
        }
    }
}

impl Book {
    fn add(&mut self, run: Run) {
        self.order.push(run.id.clone());
        self.runs.insert(run.id.clone(), (run, Vec::new(), false));
    }

    fn find(&mut self, run: &RunId) -> Result<&mut (Run, Vec<Record>, bool), RunRefusal> {
        let found = self.runs.get_mut(run).filter(|_| !self.blind);
        found.ok_or_else(|| RunRefusal::NotFound { run: run.clone() })
    }

    fn page(&mut self, run: &RunId, after: u64, max_bytes: u32) -> Result<LogPage, RunRefusal> {
        let (_, log, ended) = self.find(run)?;
        let mut room = i64::from(max_bytes);
        let mut records = Vec::new();
        for record in log.iter().filter(|record| record.seq > after) {
            if room <= 0 {
                break;
            }
            room -= serde_json::to_string(record).unwrap().len() as i64;
            records.push(record.clone());
        }
        let newest = records.last().map_or(after, |record| record.seq);
        Ok(LogPage { records, hint: newest, ended: *ended && newest >= log.len() as u64 })
    }
}

fn new_run(id: RunId, pid: u32) -> Run {
    Run {
        id,
        pid: Some(pid),
        status: RunStatus::Starting,
        entry: "src/midrun/index.ts".to_owned(),
        trainer: Some("adder".to_owned()),
        content_hash: ContentHash::of(b"bundle"),
        config_hash: None,
        job_id: None,
        started_at: wire::now(),
        ended_at: None,
        exit_code: None,
        ended_by: None,
        replaces: None,
        replaced_by: None,
        reason: None,
        last_checkpoint: None,
        resume: None,
        from_scratch: None,
        config: Vec::new(),
    }
}

pub(crate) fn run_frame(run: &RunId, status: RunStatus) -> DevEvent {
    DevEvent::Run(RunFrame {
        run: run.clone(),
        pid: Some(1),
        status,
        job_id: None,
        replaces: None,
        replaced_by: None,
        exit_code: None,
        reason: None,
        resume: None,
        from_scratch: None,
        config: Vec::new(),
    })
}

pub(crate) fn error_frame(message: &str) -> DevEvent {
    DevEvent::Error(ErrorFrame {
        kind: ErrorKind::Error,
        message: message.to_owned(),
        diagnostics: Vec::new(),
        changed: Vec::new(),
        saved_at: "2026-01-01T00:00:00.000Z".to_owned(),
        trace_id: None,
        traceparent: None,
    })
}

/// A cancel that is not settled.
fn outstanding_cancel() -> OutstandingCancel {
    OutstandingCancel {
        run: "r1".into(),
        job: Some("j1".into()),
        url: "http://127.0.0.1:1".into(),
        since: wire::now(),
        attempts: 3,
        last_error: Some("no answer".into()),
    }
}

/// A terminal session whose log is two lines and no end.
pub(crate) const TERMINAL: &str = "t1m7z722w3c12gb";

/// One whose first two lines were written long ago, and the third one just now.
pub(crate) const OLD_TERMINAL: &str = "t1m7z722w3c12gc";

fn long_ago() -> String {
    "2026-01-01T00:00:00.000Z".to_owned()
}

/// Peers that reach nobody, but for the logs of [`TERMINAL`] and [`OLD_TERMINAL`].
fn two_terminals() -> TerminalPeers {
    let missing = |terminal| TerminalRefusal::NotFound { terminal };
    TerminalPeers {
        open: Inbox::new(1).peer(),
        list: Inbox::new(1).peer(),
        get: Peer::fake(move |GetTerminal { terminal }| Err(missing(terminal))),
        close: Inbox::new(1).peer(),
        type_into: Inbox::new(1).peer(),
        resize: Inbox::new(1).peer(),
        run: Inbox::new(1).peer(),
        read: Peer::fake(move |ReadTerminal { terminal, after, .. }| {
            let line = |seq, ts| {
                let step =
                    Step::Output { stream: Stream::Pty, text: Some(format!("line {seq}\r\n")), base64: None };
                Record { seq, ts, step }
            };
            let lines = match terminal.as_str() {
                TERMINAL => vec![line(1, wire::now()), line(2, wire::now())],
                OLD_TERMINAL => vec![line(1, long_ago()), line(2, long_ago()), line(3, wire::now())],
                _ => return Err(missing(terminal)),
            };
            let records = lines.into_iter().filter(|line| line.seq > after).collect();
            Ok(LogPage { records, hint: 0, ended: true })
        }),
    }
}
