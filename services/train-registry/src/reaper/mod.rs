//! Finds what an absent server left behind, and ends it.
//!
//! ```text
//!  records (table, folders) --+
//!                             +--> resolve, sentence (pure) --> cancel to the outbox --> kill --> the run's end
//!  the process table ---------+
//! ```
//!
//! What must hold: a run that a living server looks after is left alone; a process is killed only if something proves
//! that it is the run's ([`resolve`]); the job's cancel is on disk before its run is killed; the run's end is on record
//! afterwards, so that no later server takes it up.
//!
//! It works at two breadths. [`reap`] is a person's order: every run without a server ends now. [`leftovers`] is what
//! a server does for itself again and again: it ends processes of runs that are over. A run with a living host is not
//! its business then: either the server has it, or its host ends it when it has been alone for long enough.

mod kill;
mod look;
mod records;
mod report;
mod resolve;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use peer::Peer;
use wire::cancel::Cancel;
use wire::{EndedBy, RunId};

pub use self::report::{JobCancel, Reaped, Report, Skipped};

use self::records::Recorded;
use self::resolve::{Host, Mark, Protected, Seen, Sentence, resolve, sentence};
use crate::launch;
use crate::run_state::{End, Moment, Phase};
use crate::store::{Saved, Store, read_all};

/// What is to be reaped, and how.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Where runs are kept: `.midrun/runs`.
    pub runs_dir: PathBuf,
    /// The durable table of runs: `.midrun/runs.db`.
    pub runs_table: PathBuf,
    /// The process id of the server that looks after the runs in the table; nothing when there is none.
    pub server: Option<u32>,
    /// Processes that are left alone, besides this one, the server and the ancestors of both.
    pub protect: Vec<u32>,
    /// How long a process has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Ends every recorded run that no server looks after. Where there is no server, the caller keeps others from starting
/// one meanwhile.
///
/// # Errors
/// When the records or the process table cannot be read; nothing has been done then.
pub async fn reap(scope: Scope, cancel: &Peer<Cancel>) -> Result<Report, String> {
    // The folders first: a run that is started from now on is in the table before it has a folder.
    let folders = blocking({
        let runs_dir = scope.runs_dir.clone();
        move || records::folders(&runs_dir)
    })
    .await?;
    let rows = records::by_run(read_all(&scope.runs_table).await?);
    let mut pass = Pass::begin(scope, true).await?;
    let marked = pass.marked();
    for run in folders {
        let row = rows.get(&run);
        let is_owned = pass.scope.server.is_some() && row.is_some_and(|row| !row.has_ended());
        let is_open = row.is_none_or(|row| !row.has_ended() || (!row.settled && pass.scope.server.is_none()));
        if !is_owned && (is_open || marked.contains(&run)) {
            pass.take(run, row.cloned(), cancel).await?;
        }
    }
    pass.finish().await
}

/// Ends what is hosted in the folders of `scope.runs_dir` for somebody who keeps no table of it and is gone, by the same
/// proofs. Each host is asked to end what it hosts, so that its log says that somebody asked.
///
/// # Errors
/// When the process table cannot be read; nothing has been done then.
pub async fn reap_hosted(scope: Scope) -> Result<Report, String> {
    let runs_dir = scope.runs_dir.clone();
    let folders = blocking(move || records::folders(&runs_dir)).await?;
    if folders.is_empty() {
        return Ok(Report::default());
    }
    let mut pass = Pass::begin(scope, true).await?;
    for life in folders {
        if let Some(found) = pass.examine(life, None).await?
            && found.has_processes()
        {
            pass.end_hosted(found).await?;
        }
    }
    Ok(pass.report)
}

/// Ends the processes of runs that are over. `is_owned` says which runs the calling server has in its hands.
///
/// # Errors
/// When the process table cannot be read.
pub(crate) async fn leftovers(
    scope: Scope,
    is_owned: impl Fn(&RunId) -> bool,
    cancel: &Peer<Cancel>,
) -> Result<Report, String> {
    let mut pass = Pass::begin(scope, false).await?;
    for run in pass.marked() {
        if !is_owned(&run) {
            pass.take(run, None, cancel).await?;
        }
    }
    pass.finish().await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| panic.to_string())
}

/// One pass over the runs.
struct Pass {
    scope: Scope,
    /// Runs with a living host end too.
    thorough: bool,
    seen: Arc<Vec<Seen>>,
    protected: Arc<Protected>,
    boot: &'static str,
    report: Report,
    /// What the table is to say.
    changes: Vec<Saved>,
}

/// What was found of one run.
struct Found {
    recorded: Recorded,
    host: Host,
    sentence: Sentence,
    skipped: Vec<Skipped>,
    has_credentials: bool,
}

impl Found {
    /// Whether anything is left to be done.
    fn is_stale(&self) -> bool {
        let no_end = !self.recorded.row_has_end() && self.recorded.exit().is_none();
        no_end || self.has_processes() || self.is_cancel_due()
    }

    fn has_processes(&self) -> bool {
        !self.sentence.condemned.is_empty() || !self.sentence.skipped.is_empty()
    }

    fn is_cancel_due(&self) -> bool {
        self.has_credentials && !self.recorded.is_settled()
    }
}

impl Pass {
    async fn begin(scope: Scope, thorough: bool) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| format!("the process table cannot be read: {error}");
        let runs_dir = scope.runs_dir.clone();
        let seen = blocking(move || look::look(&runs_dir)).await?.map_err(unreadable)?;
        let protected = Protected::new(&seen, std::process::id(), scope.server, &scope.protect);
        Ok(Self {
            thorough,
            seen: Arc::new(seen),
            protected: Arc::new(protected),
            boot: process::boot_id().map_err(unreadable)?,
            report: Report::default(),
            changes: Vec::new(),
            scope,
        })
    }

    /// The runs of which there are processes that say so.
    fn marked(&self) -> BTreeSet<RunId> {
        let run = |one: &Seen| match &one.mark {
            Mark::Run { run, .. } => Some(run.clone()),
            Mark::None | Mark::Unreadable => None,
        };
        self.seen.iter().filter_map(run).collect()
    }

    /// Takes one run: nothing is done to it unless it is stale.
    async fn take(&mut self, run: RunId, row: Option<Saved>, cancel: &Peer<Cancel>) -> Result<(), String> {
        let Some(found) = self.examine(run, row).await? else { return Ok(()) };
        if !found.is_stale() {
            return Ok(());
        }
        self.note(&found);
        match &found.host {
            // Somebody's run that cannot be told apart from this one goes on, and its job with it.
            Host::Unsure => return Ok(()),
            Host::Alive(identity) if !self.thorough => {
                let reason = format!("run {} has a living host, which looks after it", found.recorded.run);
                self.report.skip(Some(identity.pid), reason);
                return Ok(());
            }
            Host::Alive(_) | Host::Gone if found.sentence.pardoned => return Ok(()),
            Host::Alive(_) | Host::Gone => {}
        }
        if self.scope.dry_run {
            self.foresee(&found);
            return Ok(());
        }
        self.carry_out(found, cancel).await
    }

    fn note(&mut self, found: &Found) {
        self.report.stale += 1;
        self.report.skipped.extend(found.skipped.iter().chain(&found.sentence.skipped).cloned());
    }

    /// Ends what has no row in a table and no job of its own to be cancelled.
    async fn end_hosted(&mut self, found: Found) -> Result<(), String> {
        self.note(&found);
        if found.host == Host::Unsure || found.sentence.pardoned {
            return Ok(());
        }
        if self.scope.dry_run {
            self.foresee(&found);
            return Ok(());
        }
        let protected: Vec<u32> = self.protected.pids().collect();
        let (runs_dir, grace) = (self.scope.runs_dir.clone(), self.scope.kill_grace);
        let killed = blocking(move || {
            let subject = found.recorded.subject();
            let by_host = kill::by_host(&subject, &found.host, &runs_dir, &protected);
            (by_host, kill::end(&subject, &found.host, &runs_dir, &protected, grace))
        });
        let (by_host, killed) = killed.await?;
        self.report.reaped.extend(by_host);
        self.report.add_killed(killed);
        Ok(())
    }

    /// Looks at one run; nothing when it has no folder here.
    async fn examine(&self, run: RunId, row: Option<Saved>) -> Result<Option<Found>, String> {
        let (seen, protected, boot) = (Arc::clone(&self.seen), Arc::clone(&self.protected), self.boot);
        let runs_dir = self.scope.runs_dir.clone();
        let look = move || {
            let Some(recorded) = Recorded::read(&runs_dir, run, row) else { return Ok(None) };
            let subject = recorded.subject();
            let resolution = resolve(&subject, &seen, boot);
            let tree = kill::tree(&subject, &resolution.host, &runs_dir);
            let members: Vec<u32> = tree.members()?.iter().map(|one| one.pid).collect();
            let sentence = sentence(&subject, &resolution.host, &members, &seen, &protected);
            let has_credentials = launch::credentials(&recorded.folder).is_some();
            let (host, skipped) = (resolution.host, resolution.skipped);
            Ok(Some(Found { recorded, host, sentence, skipped, has_credentials }))
        };
        let found: std::io::Result<_> = blocking(look).await?;
        found.map_err(|error| format!("the process table cannot be read: {error}"))
    }

    /// Says what would be done.
    fn foresee(&mut self, found: &Found) {
        let reaped = |pid: &u32| Reaped { pid: *pid, signals: Vec::new() };
        self.report.reaped.extend(found.sentence.condemned.iter().map(reaped));
        if found.is_cancel_due() {
            let run = found.recorded.run.clone();
            self.report.jobs.push(JobCancel { run, job: found.recorded.job(), settled: false });
        }
    }

    async fn carry_out(&mut self, mut found: Found, cancel: &Peer<Cancel>) -> Result<(), String> {
        let mut settled = !found.is_cancel_due();
        if !settled {
            settled = self.commit(&found.recorded, cancel).await;
        }
        let protected: Vec<u32> = self.protected.pids().collect();
        let (runs_dir, grace) = (self.scope.runs_dir.clone(), self.scope.kill_grace);
        let (killed, found) = blocking(move || {
            let killed = kill::end(&found.recorded.subject(), &found.host, &runs_dir, &protected, grace);
            let never_hosted = found.host == Host::Gone && launch::claim(&found.recorded.folder);
            found.recorded.read_log();
            (killed, (found, never_hosted))
        })
        .await?;
        let (found, never_hosted) = found;
        self.report.add_killed(killed);
        if settled {
            let folder = found.recorded.folder.clone();
            blocking(move || launch::forget_credentials(&folder)).await?;
        }
        let exit = found.recorded.exit();
        let end = match (&found.host, exit) {
            (Host::Alive(_), _) => Some((EndedBy::Reaped, "reaped, since no server looked after it")),
            _ if never_hosted => Some((EndedBy::Failed, "its server ended before its run-host was there")),
            // How it ended is for the next server to say, who may have to restart it.
            (_, Some(_)) => None,
            (_, None) => Some((EndedBy::Lost, "its run-host ended while no server was there to see it")),
        };
        if let (Some(row), None) = (found.recorded.row, self.scope.server) {
            let end = end.filter(|_| !row.has_ended());
            let end = end
                .map(|(by, why)| Phase::Ended(End { at: now(), code: exit, by, reason: Some(why.into()) }));
            let phase = end.unwrap_or_else(|| row.phase.clone());
            self.changes.push(Saved { phase, settled: row.settled || settled, ..row });
        }
        Ok(())
    }

    /// Commits the cancel of the run's job; answers whether it is on disk.
    async fn commit(&mut self, recorded: &Recorded, cancel: &Peer<Cancel>) -> bool {
        let folder = recorded.folder.clone();
        let Ok(Some(control_plane)) = blocking(move || launch::credentials(&folder)).await else {
            return true;
        };
        let (run, job) = (recorded.run.clone(), recorded.job());
        let asked = cancel.ask(Cancel { run: run.clone(), job: job.clone(), control_plane }).await;
        match asked {
            Ok(()) => {
                self.report.jobs.push(JobCancel { run, job, settled: false });
                true
            }
            Err(error) => {
                self.report.skip(None, format!("the cancel of run {run}'s job is not on disk: {error}"));
                false
            }
        }
    }

    /// Puts the ends on record.
    async fn finish(mut self) -> Result<Report, String> {
        if self.changes.is_empty() {
            return Ok(self.report);
        }
        let (store, _) = Store::open(&self.scope.runs_table).await?;
        self.changes.drain(..).for_each(|saved| store.save(saved));
        let written = store.flush().await;
        store.close().await;
        written.map_err(|error| format!("how the runs ended is not on record: {error}"))?;
        Ok(self.report)
    }
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
