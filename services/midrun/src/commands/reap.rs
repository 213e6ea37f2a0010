//! `midrun reap`: ends what an absent server left behind. Works with a server and without one.
//!
//! What must hold: while it works without a server, none can start; a cancel is in the outbox before its run is killed,
//! and whoever looks into the outbox next goes on with what could not be delivered here. A control plane that ended with
//! the server is not waited for.

use std::path::Path;
use std::time::Duration;

use cancel_broker::Handle;
use tokio::time::Instant;
use train_registry::{Report, Scope};
use wire::RunId;
use wire::cancel::Outstanding;

use super::screen::{Own, Screen};
use super::{Failure, Outcome, here, place};
use crate::hold::{Busy, Hold};
use crate::project::Project;
use crate::{cli, control};

/// How long the control planes have to settle the cancels before this command goes.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// How long the outbox may take to be let go of.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Carries out `midrun reap`.
pub(crate) async fn command(args: cli::Reap) -> Result<Outcome, Failure> {
    let here = here()?;
    let Some(root) = place::project_of(&here) else {
        return Err(Failure::plain(format!("no project in {} or above it", here.display())));
    };
    let project = Project::open(&root)?;
    let Reaping { report, outstanding } = reap(&project, &args).await?;
    let mut own = Own::outputs();
    let mut screen = own.screen();
    if args.json {
        screen.json(&report)?;
    } else {
        tell(&report, args.dry_run, &mut screen)?;
    }
    tell_outstanding(outstanding, &mut screen);
    Ok(if report.survived { Outcome::FAILED } else { Outcome::DONE })
}

/// What came of it.
#[derive(Default)]
struct Reaping {
    report: Report,
    /// Cancels that the next server has to deliver, those of earlier passes included.
    outstanding: usize,
}

async fn reap(project: &Project, args: &cli::Reap) -> Result<Reaping, Failure> {
    let state_dir = project.state_dir();
    if !state_dir.is_dir() {
        return Ok(Reaping::default());
    }
    let (hold, server) = holder(&state_dir, args.dry_run)?;
    let broker = Handle::default();
    if !args.dry_run {
        let outbox = state_dir.join("cancels.db");
        cancel_broker::start(cancel_broker::Settings::new(outbox), &broker);
        broker.opened().await.map_err(Failure::plain)?;
    }
    let scope = Scope {
        runs_dir: state_dir.join("runs"),
        runs_table: state_dir.join("runs.db"),
        server,
        protect: args.protect.clone(),
        kill_grace: Duration::from_millis(project.settings.run.kill_grace_ms),
        dry_run: args.dry_run,
    };
    let mut reaped = train_registry::reap(scope.clone(), &broker.cancel.peer()).await;
    if let (Ok(report), None) = (&mut reaped, server) {
        // After the runs: whose job is cancelled needs no executor any more.
        match reap_executors(&state_dir, &scope).await {
            Ok(executors) => report.add(executors),
            Err(why) => reaped = Err(why),
        }
    }
    // Whoever wants to serve the project need not wait for a control plane.
    if let Some(hold) = hold {
        hold.release();
    }
    let mut report = reaped?;
    let mut outstanding = 0;
    if !args.dry_run {
        let left = settle(&mut report, &broker, &Away::of(&state_dir)).await;
        // A server delivers what is in its outbox.
        outstanding = if server.is_none() { left } else { 0 };
        broker.shutdown(CLOSE_LIMIT).await;
    }
    Ok(Reaping { report, outstanding })
}

/// Ends the executors of the project's own control plane, which is in its server. Their jobs are not over: the next one
/// goes on with each from its newest checkpoint, unless it is cancelled. Where the control plane is there, since `midrun
/// start` lends it to a runner, nothing is done.
async fn reap_executors(state_dir: &Path, scope: &Scope) -> Result<Report, String> {
    let mut report = Report::default();
    let folder = state_dir.join("control-plane");
    let deserted = control_plane::Deserted::take(&folder)
        .map_err(|error| format!("{} cannot be used: {error}", folder.display()))?;
    for (_job, runs_dir) in deserted.iter().flat_map(control_plane::Deserted::hosts_by_job) {
        report.add(train_registry::reap_hosted(Scope { runs_dir, ..scope.clone() }).await?);
    }
    Ok(report)
}

/// Takes the project, or says whose it is.
fn holder(state_dir: &Path, dry_run: bool) -> Result<(Option<Hold>, Option<u32>), Failure> {
    let taken = match dry_run {
        true => Hold::could_be_taken(state_dir).map(|()| None),
        false => Hold::take(state_dir).map(Some),
    };
    match taken {
        Ok(hold) => Ok((hold, None)),
        Err(Busy::Held { pid: Some(pid) }) => Ok((None, Some(pid))),
        Err(Busy::Held { pid: None }) => {
            Err(Failure::plain("another process is just taking or leaving this project; try again"))
        }
        Err(busy) => Err(Failure::plain(busy.to_string())),
    }
}

/// The project's own control plane, if nobody runs it: it ended with its server, and is back with the next one.
struct Away {
    /// Where it may have been.
    ports: Vec<u16>,
}

impl Away {
    fn of(state_dir: &Path) -> Self {
        let folder = state_dir.join("control-plane");
        let ports = match control_plane::Deserted::take(&folder) {
            Ok(Some(_)) => control::earlier_ports(state_dir),
            Ok(None) | Err(_) => Vec::new(),
        };
        Self { ports }
    }

    fn is_at(&self, url: &str) -> bool {
        control::stands_at(&self.ports, url)
    }
}

/// Gives the cancels some time to arrive where they can, and says which have. How many are left in the outbox.
async fn settle(report: &mut Report, broker: &Handle, away: &Away) -> usize {
    let until = Instant::now() + DELIVERY_LIMIT;
    let mut left = 0;
    loop {
        let mut may_arrive = true;
        if let Ok(outstanding) = broker.outstanding.peer().ask(Outstanding {}).await {
            for job in &mut report.jobs {
                job.settled = outstanding.iter().all(|cancel| cancel.run != job.run);
            }
            let is_ours = |run: &RunId| report.jobs.iter().any(|job| job.run == *run);
            may_arrive = outstanding.iter().any(|cancel| is_ours(&cancel.run) && !away.is_at(&cancel.url));
            left = outstanding.len();
        }
        if !may_arrive || Instant::now() > until {
            return left;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell_outstanding(cancels: usize, screen: &mut Screen<'_>) {
    match cancels {
        0 => {}
        1 => screen.say("1 cancel is outstanding: the next server delivers it"),
        more => screen.say(&format!("{more} cancels are outstanding: the next server delivers them")),
    }
}

fn tell(report: &Report, dry_run: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if report.stale == 0 {
        screen.say("nothing to reap: every run and executor has ended, or a server looks after it");
    }
    for reaped in &report.reaped {
        let line = match (dry_run, reaped.signals.join(", ")) {
            (true, _) => format!("would end process {}", reaped.pid),
            (false, signals) if signals.is_empty() => format!("process {} ended by itself", reaped.pid),
            (false, signals) => format!("ended process {} ({signals})", reaped.pid),
        };
        screen.line(&line)?;
    }
    for skipped in &report.skipped {
        let line = match skipped.pid {
            Some(pid) => format!("left process {pid} alone: {}", skipped.reason),
            None => format!("note: {}", skipped.reason),
        };
        screen.line(&line)?;
    }
    for job in &report.jobs {
        let name = match &job.job {
            Some(id) => format!("job {id} of run {}", job.run),
            None => format!("the job of run {}", job.run),
        };
        let line = match (dry_run, job.settled) {
            (true, _) => format!("would cancel {name}"),
            (false, true) => format!("cancelled {name}"),
            (false, false) => format!("the cancel of {name} is kept: the next server delivers it"),
        };
        screen.line(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use train_registry::{JobCancel, Reaped, Skipped};

    use super::*;

    fn told(report: &Report, dry_run: bool) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        tell(report, dry_run, &mut Screen { out: &mut out, err: &mut err, colours: false }).unwrap();
        String::from_utf8(out).unwrap() + std::str::from_utf8(&err).unwrap()
    }

    #[test]
    fn the_control_plane_of_a_server_that_is_gone_is_away() {
        let state_dir = tempfile::tempdir().unwrap();
        assert!(!Away::of(state_dir.path()).is_at("http://127.0.0.1:4100"), "there never was one");
        let folder = state_dir.path().join("control-plane");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("port"), "4100\n4200\n").unwrap();
        let lock = std::fs::File::create(folder.join("control-plane.lock")).unwrap();
        let away = Away::of(state_dir.path());
        assert!(away.is_at("http://127.0.0.1:4100") && away.is_at("http://127.0.0.1:4200"));
        assert!(!away.is_at("http://127.0.0.1:4300") && !away.is_at("https://plane.example:4100"));
        lock.lock().unwrap();
        assert!(!Away::of(state_dir.path()).is_at("http://127.0.0.1:4100"), "somebody runs it");
    }

    #[test]
    fn outstanding_cancels_are_told_by_their_number() {
        let told = |cancels: usize| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            tell_outstanding(cancels, &mut Screen { out: &mut out, err: &mut err, colours: false });
            assert!(out.is_empty());
            String::from_utf8(err).unwrap()
        };
        assert_eq!(told(0), "");
        assert_eq!(told(1), "1 cancel is outstanding: the next server delivers it\n");
        assert_eq!(told(2), "2 cancels are outstanding: the next server delivers them\n");
    }

    #[test]
    fn a_report_in_words_and_as_json() {
        let report = Report {
            stale: 1,
            reaped: vec![
                Reaped { pid: 12, signals: vec!["SIGTERM".into(), "SIGKILL".into()] },
                Reaped { pid: 11, signals: vec![] },
            ],
            skipped: vec![
                Skipped { pid: Some(9), reason: "it is protected by --protect".into() },
                Skipped { pid: None, reason: "why".into() },
            ],
            jobs: vec![
                JobCancel { run: "r1".into(), job: Some("j1".into()), settled: true },
                JobCancel { run: "r2".into(), job: None, settled: false },
            ],
            survived: false,
        };
        let lines = [
            "ended process 12 (SIGTERM, SIGKILL)",
            "process 11 ended by itself",
            "left process 9 alone: it is protected by --protect",
            "note: why",
            "cancelled job j1 of run r1",
            "the cancel of the job of run r2 is kept: the next server delivers it",
        ];
        assert_eq!(told(&report, false), lines.join("\n") + "\n");
        assert!(told(&report, true).starts_with("would end process 12\nwould end process 11\n"));
        assert!(told(&Report::default(), false).starts_with("nothing to reap"));
        let want = serde_json::json!({
            "stale": 1,
            "reaped": [{ "pid": 12, "signals": ["SIGTERM", "SIGKILL"] }, { "pid": 11, "signals": [] }],
            "skipped": [{ "pid": 9, "reason": "it is protected by --protect" }, { "reason": "why" }],
            "jobs": [
                { "run": "r1", "job": "j1", "settled": true }, { "run": "r2", "job": null, "settled": false }
            ],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), want);
    }
}
