//! What clients ask for.

use std::rc::Rc;
use std::time::Duration;

use hosting::Link;
use tokio::time::Instant;
use wire::run::{LogPage, NewestBuild, Owner, ReadLog, RunRefusal, StartRun, StopRun};
use wire::{EntryPath, Run, RunId, StopMode, TraceContext};

use super::{CANCEL_FIRST, Core, now};
use crate::fleet::{Fleet, Wish};
use crate::log::LogAt;
use crate::orders::FIRST_BUILD_LIMIT;
use crate::{entry, log};

/// How long a runner's process may take to exist: longer than everything that is waited for before.
const SPAWN_LIMIT: Duration = Duration::from_secs(30);

impl Core {
    pub(crate) async fn start_run(
        self: Rc<Self>,
        ask: StartRun,
        trace: TraceContext,
    ) -> Result<Run, RunRefusal> {
        let wish = self.wish(ask, trace).await?;
        let entry = wish.entry.clone();
        let started = self.fleet.borrow_mut().start(wish, now());
        let (run, effects) = match started {
            Ok(started) => started,
            Err(refusal) => {
                self.give_back_if_unused(&entry);
                return Err(refusal);
            }
        };
        self.carry_out(effects);
        let spawned = self
            .wait_until(SPAWN_LIMIT, |fleet| {
                fleet.view(&run).filter(|run| run.pid.is_some() || !run.status.is_live())
            })
            .await;
        match spawned {
            Some(run) if run.pid.is_some() => Ok(run),
            Some(run) => Err(RunRefusal::NotStarted { why: run.reason.unwrap_or_default() }),
            None => {
                // Nobody was told of it, so nobody would ever end it.
                let why = "its runner did not start in time";
                let stopped = self.fleet.borrow_mut().stop(&run, StopMode::Now, why, now());
                self.carry_out(stopped.unwrap_or_default());
                Err(RunRefusal::NotStarted { why: format!("{why}, so it was stopped; try again") })
            }
        }
    }

    /// What the client means; orders the builds of a file that is not watched yet and waits for the first.
    async fn wish(self: &Rc<Self>, ask: StartRun, trace: TraceContext) -> Result<Wish, RunRefusal> {
        let restarts = ask.owner == Owner::Server;
        let entry = match &ask.file {
            None => self.settings.entry.clone(),
            Some(file) => {
                let (project, file) = (self.settings.project.clone(), file.clone());
                let resolved = tokio::task::spawn_blocking(move || entry::resolve(&project, &file)).await;
                resolved.map_err(|panic| RunRefusal::NotStarted { why: panic.to_string() })??
            }
        };
        let shown_entry = entry::shown(&self.settings.project, entry.as_str());
        let file = (entry != self.settings.entry).then(|| shown_entry.clone());
        // What is known of a file's builds may be of an earlier server's time.
        if file.is_some() && !self.all_known().await {
            let why = "runs of an earlier server are still being looked for; try again".to_owned();
            return Err(RunRefusal::NotStarted { why });
        }
        if file.is_some() && !self.orders.has(&entry) {
            self.fleet.borrow_mut().forget_builds(&entry);
            self.orders.place_anew(&entry);
            if let Err(why) = self.orders.taken(&entry).await {
                self.give_back_if_unused(&entry);
                return Err(RunRefusal::NotStarted { why });
            }
        }
        self.wait_until(FIRST_BUILD_LIMIT, |fleet| fleet.knows(&entry).then_some(())).await;
        Ok(Wish { entry, shown_entry, file, restarts, trace })
    }

    fn give_back_if_unused(&self, entry: &EntryPath) {
        if !self.fleet.borrow().needs(entry) {
            self.orders.give_back(entry);
        }
    }

    /// The first thing that `see` finds in the fleet, if it does within `limit`.
    async fn wait_until<T>(&self, limit: Duration, see: impl Fn(&Fleet) -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let seen = see(&self.fleet.borrow());
            if seen.is_some() {
                return seen;
            }
            tokio::time::timeout_at(until, changed.changed()).await.ok()?.ok()?;
        }
    }

    /// Answers when the stop is on record: a server that comes after this one must know what was promised. A disk that
    /// does not answer in time holds up nobody who wants a run stopped.
    pub(crate) async fn stop_run(self: Rc<Self>, ask: StopRun) -> Result<Run, RunRefusal> {
        self.known(&ask.run).await;
        let effects = self.fleet.borrow_mut().stop(&ask.run, ask.mode, &ask.reason, now())?;
        self.carry_out(effects);
        if !matches!(tokio::time::timeout(CANCEL_FIRST, self.flushed()).await, Ok(Ok(()))) {
            tracing::warn!(run = %ask.run, "the stop is under way and not on record");
        }
        self.fleet.borrow().view(&ask.run).ok_or_else(|| RunRefusal::NotFound { run: ask.run.clone() })
    }

    /// The request that a run belongs to starts the next itself.
    pub(crate) async fn claim_run(self: Rc<Self>, run: RunId) -> Result<(), RunRefusal> {
        self.known(&run).await;
        let effects = self.fleet.borrow_mut().claim(&run)?;
        self.carry_out(effects);
        self.save(&run);
        if !matches!(tokio::time::timeout(CANCEL_FIRST, self.flushed()).await, Ok(Ok(()))) {
            tracing::warn!(%run, "that its client starts the next is not on record");
        }
        Ok(())
    }

    /// Stops every run, those of an earlier server too, and starts none from now on. Answers with those that live.
    pub(crate) async fn stop_all(self: Rc<Self>, mode: StopMode) -> Vec<Run> {
        // Those that are known need not wait for those that are still looked for, and none is started meanwhile.
        let effects = self.fleet.borrow_mut().stop_all(mode, now());
        self.carry_out(effects);
        if !self.all_known().await {
            tracing::warn!("runs of an earlier server are still being looked for");
        }
        let effects = self.fleet.borrow_mut().stop_all(mode, now());
        self.carry_out(effects);
        self.fleet.borrow().live()
    }

    /// Every run, newest first.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.fleet.borrow().views()
    }

    /// One run.
    pub(crate) async fn run(&self, run: RunId) -> Result<Run, RunRefusal> {
        self.known(&run).await;
        self.fleet.borrow().view(&run).ok_or(RunRefusal::NotFound { run })
    }

    /// What the project's own entry last came to.
    pub(crate) fn newest(&self) -> NewestBuild {
        let shown_entry = entry::shown(&self.settings.project, self.settings.entry.as_str());
        self.fleet.borrow().newest(&shown_entry)
    }

    fn log_at(&self, run: &RunId) -> Option<LogAt> {
        if !RunId::is_well_formed(run.as_str()) {
            return None;
        }
        let path = self.place(run).log();
        let newest = self.links.borrow().get(run).map(Link::newest);
        (newest.is_some() || path.exists()).then_some(LogAt { path, newest })
    }

    pub(crate) async fn read_log(self: Rc<Self>, ask: ReadLog) -> Result<LogPage, RunRefusal> {
        self.known(&ask.run).await;
        // A run that is being started has no link and no log yet.
        let linked = |fleet: &Fleet| {
            let found = self.log_at(&ask.run);
            (!fleet.is_live(&ask.run) || found.as_ref().is_some_and(|log| log.newest.is_some()))
                .then_some(found)
        };
        let found = self.wait_until(SPAWN_LIMIT, linked).await.flatten();
        let log = found.ok_or_else(|| RunRefusal::NotFound { run: ask.run.clone() })?;
        log::read(log, ask).await
    }
}
