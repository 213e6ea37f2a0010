//! Keeps the sessions, speaks to their hosts, and has those wait who wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use hosting::{Answer, Link, Place, Started, Told};
use supervise::Life;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use wire::host::{HostRequest, Spec, TerminalSpec};
use wire::log::Step;
use wire::run::{LogPage, StopMode};
use wire::terminal::{
    CloseTerminal, Commanded, OpenTerminal, ReadTerminal, RunCommand, Terminal, TerminalRefusal,
    TerminalStatus,
};
use wire::{CommandId, TerminalId};

use crate::session::Session;
use crate::settings::Settings;
use crate::{log, remains, shell};

/// How long a shell's process may take to exist.
const SPAWN_LIMIT: Duration = Duration::from_secs(15);
/// How long a host may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long sessions of an earlier server may take to be found.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);
/// The longest wait for a command.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Ended sessions whose logs are kept.
const KEPT_ENDED: usize = 50;
/// A terminal's size where none is asked for, and the greatest, in lines and characters.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
const GREATEST: u16 = 1000;
/// The longest name, characters.
const LONGEST_NAME: usize = 100;

/// What the actor's futures share. Never borrowed across an await.
pub(crate) struct Core {
    /// What is started here ends with it.
    pub(crate) life: Life,
    settings: Settings,
    /// By id, which sorts by time.
    sessions: RefCell<BTreeMap<TerminalId, Session>>,
    links: RefCell<HashMap<TerminalId, Link>>,
    /// Requests that hosts have not answered.
    asked: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    next_request: Cell<u64>,
    stopping: Cell<bool>,
    /// The sessions of an earlier server are known.
    recovered: watch::Sender<bool>,
    /// Something in a session may have changed.
    changed: watch::Sender<()>,
}

impl Core {
    pub(crate) fn new(life: Life, settings: Settings) -> Self {
        Self {
            life,
            settings,
            sessions: RefCell::default(),
            links: RefCell::default(),
            asked: RefCell::default(),
            next_request: Cell::new(1),
            stopping: Cell::new(false),
            recovered: watch::Sender::new(false),
            changed: watch::Sender::new(()),
        }
    }

    fn place(&self, id: &TerminalId) -> Place {
        Place::new(
            self.settings.terminals_dir.join(id.as_str()),
            self.settings.socket_dir.join(format!("{id}.sock")),
        )
    }

    /// Takes up the sessions of an earlier server.
    pub(crate) async fn recover(self: &Rc<Self>) {
        let folders = std::fs::read_dir(&self.settings.terminals_dir).into_iter().flatten().flatten();
        let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
        let mut ids: Vec<TerminalId> =
            names.filter(|name| TerminalId::is_well_formed(name)).map(TerminalId::from).collect();
        ids.sort();
        for id in ids {
            self.take_up(id).await;
        }
        self.recovered.send_replace(true);
        self.forget_old_ones();
    }

    /// Takes up one session: reads its log, and finds its host again if it is live.
    async fn take_up(self: &Rc<Self>, id: TerminalId) {
        let place = self.place(&id);
        // A session without a spec was never started.
        let Ok(spec) = place.spec() else { return };
        let mut session = Session::new(id.clone(), &spec, wire::now());
        let life = place.life(0).unwrap_or_default();
        life.iter().for_each(|record| session.happened(record));
        let (live, seen) = (session.is_live(), life.last().map_or(0, |record| record.seq));
        self.sessions.borrow_mut().insert(id.clone(), session);
        if live {
            match place.reconnect().await {
                Some(stream) => self.linked(&id, stream, seen),
                None => {
                    for record in place.life(seen).unwrap_or_default() {
                        self.told(&id, Told::Record(record));
                    }
                    self.told(
                        &id,
                        Told::Lost { why: "its host ended while no server was there to see it".to_owned() },
                    );
                }
            }
        }
    }

    pub(crate) async fn know_all(&self) {
        let mut recovered = self.recovered.subscribe();
        let _ = timeout(RECOVERY_LIMIT, recovered.wait_for(|known| *known)).await;
    }

    /// Removes what ended sessions left, but for the newest.
    fn forget_old_ones(&self) {
        let mut sessions = self.sessions.borrow_mut();
        let ended: Vec<_> = sessions.iter().rev().filter(|(_, session)| !session.is_live()).collect();
        let old: Vec<_> = ended.into_iter().skip(KEPT_ENDED).map(|(id, _)| id.clone()).collect();
        for id in old {
            sessions.remove(&id);
            let folder = self.place(&id).dir().to_owned();
            self.life.spawn(async move {
                let _ = tokio::task::spawn_blocking(move || remains::remove(&folder)).await;
            });
        }
    }

    /// Follows the host behind `stream`, from the record after `after` on.
    fn linked(self: &Rc<Self>, id: &TerminalId, stream: tokio::net::UnixStream, after: u64) {
        let (core, told) = (Rc::clone(self), id.clone());
        let link =
            Link::follow(&self.life, self.place(id), stream, after, move |what| core.told(&told, what));
        self.links.borrow_mut().insert(id.clone(), link);
        // It was closed while it was being started.
        let closing = self.with(id, |session| session.view().clone());
        if let Some(view) =
            closing.filter(|view| view.status == TerminalStatus::Closing || self.stopping.get())
        {
            self.stop(id, view.reason.unwrap_or_else(|| "the server stops".to_owned()));
        }
        self.changed.send_replace(());
    }

    fn with<T>(&self, id: &TerminalId, look: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.sessions.borrow_mut().get_mut(id).map(look)
    }

    fn told(self: &Rc<Self>, id: &TerminalId, told: Told) {
        match told {
            Told::Answer { id, answer } => {
                let asked = self.asked.borrow_mut().remove(&id);
                // Who asked may have given up.
                let _ = asked.map(|asked| asked.send(answer));
            }
            Told::Record(record) => {
                self.with(id, |session| session.happened(&record));
                if matches!(record.step, Step::Exit { .. }) {
                    self.links.borrow_mut().remove(id);
                }
            }
            Told::Lost { why } => self.lost(id.clone(), why),
        }
        self.changed.send_replace(());
    }

    /// The host is gone without a word: its shell died with it, and what else it left is killed.
    fn lost(self: &Rc<Self>, id: TerminalId, why: String) {
        self.links.borrow_mut().remove(&id);
        self.with(&id, |session| session.lost(why, wire::now()));
        let (core, grace) = (Rc::clone(self), self.settings.kill_grace);
        self.life.spawn(async move {
            if let Some(what) = remains::clean_up(id.clone(), grace).await {
                tracing::warn!(terminal = %id, what, "the host of a terminal is gone");
            }
            core.changed.send_replace(());
        });
    }

    pub(crate) fn view(&self, id: &TerminalId) -> Result<Terminal, TerminalRefusal> {
        let newest = self.links.borrow().get(id).map(|link| *link.newest().borrow());
        let view = self.with(id, |session| session.view().clone());
        let view = view.ok_or_else(|| TerminalRefusal::NotFound { terminal: id.clone() })?;
        Ok(Terminal { newest_seq: view.newest_seq.max(newest.unwrap_or(0)), ..view })
    }

    pub(crate) fn views(&self) -> Vec<Terminal> {
        let ids: Vec<_> = self.sessions.borrow().keys().rev().cloned().collect();
        ids.iter().filter_map(|id| self.view(id).ok()).collect()
    }

    /// The session, which must not have ended.
    fn live(&self, id: &TerminalId) -> Result<Terminal, TerminalRefusal> {
        let view = self.view(id)?;
        if view.status.is_live() { Ok(view) } else { Err(TerminalRefusal::Ended { terminal: id.clone() }) }
    }

    pub(crate) async fn open(self: Rc<Self>, ask: OpenTerminal) -> Result<Terminal, TerminalRefusal> {
        self.know_all().await;
        let spec = self.spec(ask)?;
        let id = TerminalId::from(spec.run.as_str());
        let limit = self.settings.max_sessions;
        if self.stopping.get() {
            return Err(TerminalRefusal::Stopping);
        }
        if self.sessions.borrow().values().filter(|session| session.is_live()).count() >= limit {
            return Err(TerminalRefusal::TooMany { limit });
        }
        let session = Session::new(id.clone(), &spec, wire::now());
        self.sessions.borrow_mut().insert(id.clone(), session);
        match self.place(&id).start(&self.settings.host_command, &spec, None).await {
            Ok(Started { stream, .. }) => self.linked(&id, stream, 0),
            Err(why) => {
                self.with(&id, |session| session.lost(why.clone(), wire::now()));
                return Err(TerminalRefusal::NotStarted { why });
            }
        }
        self.forget_old_ones();
        let begun = |view: &Terminal| view.pid.is_some() || !view.status.is_live();
        let view = self.wait_until(SPAWN_LIMIT, || self.view(&id).ok().filter(begun)).await;
        match view {
            Some(view) if view.pid.is_some() => Ok(view),
            Some(view) => Err(TerminalRefusal::NotStarted { why: view.reason.unwrap_or_default() }),
            None => {
                // Nobody was told of it, so nobody would ever close it.
                let why = "its shell did not start in time".to_owned();
                self.close(&CloseTerminal { terminal: id, reason: why.clone() })?;
                Err(TerminalRefusal::NotStarted { why: format!("{why}, so it was closed; try again") })
            }
        }
    }

    fn spec(&self, ask: OpenTerminal) -> Result<Spec, TerminalRefusal> {
        let id = TerminalId::fresh();
        let settings = &self.settings;
        let (rows, columns) = size(ask.rows.unwrap_or(ROWS), ask.columns.unwrap_or(COLUMNS))?;
        if ask.name.as_ref().is_some_and(|name| name.chars().count() > LONGEST_NAME) {
            let why = format!("the name is longer than {LONGEST_NAME} characters");
            return Err(TerminalRefusal::Nonsense { why });
        }
        let place = self.place(&id);
        let socket =
            place.socket().to_str().map(str::to_owned).ok_or_else(|| TerminalRefusal::NotStarted {
                why: format!(
                    "{} is not UTF-8; set XDG_RUNTIME_DIR to another folder",
                    place.socket().display()
                ),
            })?;
        Ok(Spec {
            run: id.as_str().into(),
            command: vec![shell::resolve(ask.shell.as_deref().or(settings.shell.as_deref()))?],
            cwd: shell::folder(&settings.project, ask.cwd.as_deref())?,
            env: BTreeMap::new(),
            content_hash: "".into(),
            socket,
            hot_swap_signal: 0,
            drain_ms: millis(settings.drain),
            kill_grace_ms: millis(settings.kill_grace),
            pty: true,
            // A session has a limit of its own, and no checkpoint to stop at.
            alone_ms: None,
            early_stop_ms: 0,
            log_cap: None,
            executor: false,
            stdin: None,
            terminal: Some(TerminalSpec { name: ask.name, rows, columns, alone_ms: millis(settings.alone) }),
        })
    }

    pub(crate) fn close(&self, ask: &CloseTerminal) -> Result<Terminal, TerminalRefusal> {
        let id = &ask.terminal;
        if self.view(id)?.status.is_live() {
            self.with(id, |session| session.closing(&ask.reason));
            self.stop(id, ask.reason.clone());
        }
        self.view(id)
    }

    /// Has the host end its session now. One that is not linked yet is told when it is.
    fn stop(&self, id: &TerminalId, why: String) {
        let request =
            HostRequest::Stop { id: self.request_id(), mode: StopMode::Now, traceparent: None, why };
        let sent = self.links.borrow().get(id).map(|link| link.send(request));
        if let Some(Err(answer)) = sent {
            tracing::warn!(terminal = %id, ?answer, "a terminal could not be told to end");
        }
    }

    pub(crate) async fn shutdown(self: Rc<Self>) {
        self.stopping.set(true);
        self.know_all().await;
        let live = |core: &Self| core.views().into_iter().filter(|view| view.status.is_live());
        for view in live(&self) {
            let reason = "the server stops".to_owned();
            let _ = self.close(&CloseTerminal { terminal: view.id, reason });
        }
        let none_left = || live(&self).next().is_none().then_some(());
        // Whoever asked has a limit of its own.
        self.wait_until(LONGEST_WAIT, none_left).await;
    }

    fn request_id(&self) -> u64 {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        id
    }

    /// Asks a session's host, and waits for its answer.
    pub(crate) async fn ask(
        &self,
        terminal: &TerminalId,
        request: impl FnOnce(u64) -> HostRequest,
    ) -> Result<(), TerminalRefusal> {
        self.know_all().await;
        self.live(terminal)?;
        let (id, (answered, answer)) = (self.request_id(), oneshot::channel());
        let sent = match self.links.borrow().get(terminal) {
            Some(link) => link.send(request(id)),
            None => Err(Answer::Busy("it is being started".to_owned())),
        };
        let answer = match sent {
            Err(answer) => answer,
            Ok(()) => {
                self.asked.borrow_mut().insert(id, answered);
                let answer = self.wait_for_answer(terminal, answer).await;
                self.asked.borrow_mut().remove(&id);
                answer?
            }
        };
        match answer {
            Answer::Done => Ok(()),
            Answer::Busy(why) => Err(TerminalRefusal::Busy { why }),
            Answer::Refused(_) if self.live(terminal).is_err() => {
                Err(TerminalRefusal::Ended { terminal: terminal.clone() })
            }
            Answer::Refused(why) => Err(TerminalRefusal::Nonsense { why }),
        }
    }

    async fn wait_for_answer(
        &self,
        terminal: &TerminalId,
        answer: oneshot::Receiver<Answer>,
    ) -> Result<Answer, TerminalRefusal> {
        let gone = self.wait_until(ANSWER_LIMIT, || self.live(terminal).err());
        tokio::select! {
            biased;
            Ok(answer) = answer => Ok(answer),
            ended = gone => Err(ended.unwrap_or_else(|| TerminalRefusal::Silent {
                terminal: terminal.clone(),
                why: format!("its host has said nothing for {} s", ANSWER_LIMIT.as_secs()),
            })),
        }
    }

    pub(crate) async fn run(self: Rc<Self>, ask: RunCommand) -> Result<Commanded, TerminalRefusal> {
        let begun = Instant::now();
        let RunCommand { terminal, command, text, wait_ms } = ask;
        if !CommandId::is_well_formed(command.as_str()) {
            return Err(TerminalRefusal::Nonsense { why: format!("{command} is no command's id") });
        }
        self.know_all().await;
        self.live(&terminal)?;
        let awaited = wait_ms.is_some();
        if awaited && self.with(&terminal, |session| session.await_command(&command)) == Some(false) {
            return Err(TerminalRefusal::Nonsense {
                why: format!("a command {command} is under way already"),
            });
        }
        // Whatever comes, it is not waited for any longer than this lives.
        let _awaited = awaited.then(|| Awaited { core: &self, terminal: &terminal, command: &command });
        let request = |id| HostRequest::Command { id, command: command.clone(), text };
        self.ask(&terminal, request).await?;
        let Some(wait_ms) = wait_ms else {
            return Ok(self.outcome(&terminal, &command, begun, false, false));
        };
        let until = begun + Duration::from_millis(wait_ms).min(LONGEST_WAIT);
        let is_over = || self.is_over(&terminal, &command).then_some(());
        let left = until.saturating_duration_since(Instant::now());
        if self.wait_until(left, is_over).await.is_some() {
            return Ok(self.outcome(&terminal, &command, begun, false, false));
        }
        let progress = self.with(&terminal, |session| session.progress(&command)).unwrap_or_default();
        let withdrawn = progress.input_seq.is_none() && {
            let request = |id| HostRequest::Withdraw { id, command: command.clone() };
            self.ask(&terminal, request).await.is_ok()
        };
        let timed_out = withdrawn || !self.is_over(&terminal, &command);
        Ok(self.outcome(&terminal, &command, begun, timed_out, withdrawn))
    }

    /// Whether nothing more is to be waited for.
    fn is_over(&self, terminal: &TerminalId, command: &CommandId) -> bool {
        let over = |session: &mut Session| !session.is_live() || session.progress(command).ended.is_some();
        self.with(terminal, over).unwrap_or(true)
    }

    fn outcome(
        &self,
        terminal: &TerminalId,
        command: &CommandId,
        begun: Instant,
        timed_out: bool,
        withdrawn: bool,
    ) -> Commanded {
        let progress = self.with(terminal, |session| session.progress(command)).unwrap_or_default();
        let view = self.view(terminal).ok();
        let exited = progress.ended.is_none() && view.as_ref().is_some_and(|view| !view.status.is_live());
        let shells = view.as_ref().filter(|_| exited).and_then(|view| view.exit_code);
        Commanded {
            command: command.clone(),
            completed: progress.ended.is_some(),
            timed_out,
            withdrawn,
            exited,
            exit_code: progress.ended.map(|(_, status)| status).or(shells),
            duration_ms: millis(begun.elapsed()),
            input_seq: progress.input_seq,
            complete_seq: progress.ended.map(|(seq, _)| seq),
            newest_seq: view.map_or(0, |view| view.newest_seq),
        }
    }

    pub(crate) async fn read(self: Rc<Self>, ask: ReadTerminal) -> Result<LogPage, TerminalRefusal> {
        self.know_all().await;
        // One that is being started has no link and no log yet.
        let started = || {
            let view = self.view(&ask.terminal);
            let pending = view.as_ref().is_ok_and(|view| view.status.is_live())
                && !self.links.borrow().contains_key(&ask.terminal);
            (!pending).then_some(view)
        };
        self.wait_until(SPAWN_LIMIT, started).await.unwrap_or_else(|| self.view(&ask.terminal))?;
        let newest = self.links.borrow().get(&ask.terminal).map(Link::newest);
        log::read(self.place(&ask.terminal).log(), newest, ask).await
    }

    /// The first thing that `see` finds, if it does within `limit`.
    async fn wait_until<T>(&self, limit: Duration, see: impl Fn() -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let seen = see();
            if seen.is_some() {
                return seen;
            }
            timeout_at(until, changed.changed()).await.ok()?.ok()?;
        }
    }
}

/// Somebody waits for a command, until this is dropped.
struct Awaited<'a> {
    core: &'a Core,
    terminal: &'a TerminalId,
    command: &'a CommandId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.core.with(self.terminal, |session| session.forget(self.command));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn size(rows: u16, columns: u16) -> Result<(u16, u16), TerminalRefusal> {
    let fits = |number: u16| (1..=GREATEST).contains(&number);
    if fits(rows) && fits(columns) {
        return Ok((rows, columns));
    }
    let why = format!("a terminal has 1 to {GREATEST} rows and columns, not {rows} and {columns}");
    Err(TerminalRefusal::Nonsense { why })
}
