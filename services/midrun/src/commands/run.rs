//! `midrun run`: starts a run on the running server and, if asked to, waits for its end.
//!
//! The run belongs to the server: whatever ends this command leaves it alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use wire::{Run, RunStatus};

use super::log::{End, LogWriter, Shown};
use super::screen::{Own, Screen};
use super::{Failure, Outcome, connect, here};
use crate::cli;
use crate::client::Client;

const SIGINT: u8 = 2;

/// What is asked for.
pub(super) struct Wanted {
    /// Absolute; the project's own entry when absent.
    pub(super) file: Option<String>,
    /// Until the run has ended.
    pub(super) wait: bool,
    /// And how long at most.
    pub(super) limit: Option<Duration>,
    pub(super) json: bool,
}

/// Carries out `midrun run`.
pub(crate) async fn command(args: cli::Run) -> Result<Outcome, Failure> {
    let limit = args.timeout.map(seconds).transpose()?;
    let here = here()?;
    let file = args.file.map(|file| absolute(&here, file)).transpose()?;
    let client = connect(&here)?;
    let wanted = Wanted { file, wait: args.wait, limit, json: args.json };
    act(&client, wanted, &mut Own::outputs().screen()).await
}

pub(super) async fn act(
    client: &Client,
    wanted: Wanted,
    screen: &mut Screen<'_>,
) -> Result<Outcome, Failure> {
    let begun = Instant::now();
    let run = start(client, wanted.file.as_deref()).await?;
    if !wanted.wait {
        return say_started(client, &run, wanted.json, screen);
    }
    let (id, json) = (run.id.as_str(), wanted.json);
    let left = wanted.limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    tokio::select! {
        ended = end_of(client, id, json, screen) => tell_end(client, id, ended?, begun, json, screen).await,
        () = pass(left) => tell_timeout(client, id, begun, json, screen).await,
        // From here on an interrupt ends the waiting and not the run.
        _ = tokio::signal::ctrl_c() => {
            screen.say(&format!("\ndetached: {}", goes_on(id)));
            Ok(Outcome::by_signal(SIGINT))
        }
    }
}

fn seconds(number: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(number).map_err(|_| {
        Failure::Usage(format!("--timeout {number}: it is a number of seconds, such as 30 or 1.5"))
    })
}

/// The server's own folder may be another one, so it gets a path from the root.
fn absolute(here: &Path, file: PathBuf) -> Result<String, Failure> {
    let path = here.join(file);
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::Usage(format!("{} is not UTF-8: rename it", path.display())))
}

async fn start(client: &Client, file: Option<&str>) -> Result<Run, Failure> {
    run_in(client.start_run(file).await?)
}

/// The run in an answer `{"run": …}`.
pub(super) fn run_in(mut answer: Value) -> Result<Run, Failure> {
    serde_json::from_value(answer["run"].take())
        .map_err(|error| Failure::plain(format!("the server's answer is not understood: {error}")))
}

fn say_started(client: &Client, run: &Run, json: bool, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
    if json {
        screen.json(&json!({ "run": run }))?;
    } else {
        screen.line(run.id.as_str())?;
        screen.say(&format!("watch it at {}/ or with `midrun runs logs -f {}`", client.url(), run.id));
    }
    Ok(Outcome::DONE)
}

fn goes_on(id: &str) -> String {
    format!("run {id} goes on. `midrun runs logs -f {id}` shows it, `midrun runs stop {id}` stops it")
}

/// The end of the run, as its log tells it; shows the log on the way.
async fn end_of(client: &Client, id: &str, json: bool, screen: &mut Screen<'_>) -> Result<End, Failure> {
    let mut log = LogWriter::new(if json { Shown::Nothing } else { Shown::Output });
    let mut events = client.events(&["api", "runs", id, "events"]);
    while let Some(event) = events.next().await? {
        if let Some(end) = log.take(&event, screen)? {
            return Ok(end);
        }
    }
    Err(Failure::plain(format!("the log of run {id} has no end; `midrun runs show {id}` may know more")))
}

async fn tell_end(
    client: &Client,
    id: &str,
    end: End,
    begun: Instant,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<Outcome, Failure> {
    let run = settled(client, id).await?;
    let exit_code = end.exit_code.or(run.exit_code);
    if json {
        screen.json(&result(&run, true, exit_code, begun))?;
    }
    if let Some(next) = &run.replaced_by {
        screen.say(&format!("run {id} was replaced by {next}: `midrun runs logs -f {next}` shows it"));
    } else if run.status == RunStatus::Restarting {
        let why = run.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        screen.say(&format!(
            "run {id} stopped and is to be started again{why}; `midrun runs` shows its successor"
        ));
    }
    match exit_code {
        Some(code) => Ok(Outcome::of_run(code)),
        None => {
            let why = end.reason.or(run.reason).unwrap_or_else(|| "nobody saw its end".to_owned());
            Err(Failure::plain(format!("run {id} is lost: {why}")))
        }
    }
}

/// How long the server may take to know what the log says already.
const SETTLES: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// The run, once the server knows of its end too.
async fn settled(client: &Client, id: &str) -> Result<Run, Failure> {
    let until = Instant::now() + SETTLES;
    loop {
        let run = run_in(client.get(&["api", "runs", id]).await?)?;
        if !run.status.is_live() || Instant::now() > until {
            return Ok(run);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tell_timeout(
    client: &Client,
    id: &str,
    begun: Instant,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<Outcome, Failure> {
    if json {
        let run = run_in(client.get(&["api", "runs", id]).await?)?;
        screen.json(&result(&run, false, None, begun))?;
    }
    let waited = begun.elapsed().as_secs_f64();
    Err(Failure::with_advice(format!("run {id} has not ended after {waited:.1} s"), goes_on(id)))
}

fn result(run: &Run, completed: bool, exit_code: Option<i32>, begun: Instant) -> Value {
    json!({
        "run": run,
        "completed": completed,
        "timedOut": !completed,
        "exitCode": exit_code,
        "durationMs": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Comes true when the time is over; never where there is no limit.
async fn pass(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_from_the_root() {
        let here = Path::new("/p/deep");
        assert_eq!(absolute(here, "../a.ts".into()).unwrap(), "/p/deep/../a.ts");
        assert_eq!(absolute(here, "/x/a.ts".into()).unwrap(), "/x/a.ts");
    }

    #[test]
    fn a_limit_is_a_number_of_seconds() {
        assert_eq!(seconds(1.5).unwrap(), Duration::from_millis(1500));
        for odd in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(seconds(odd), Err(Failure::Usage(_))), "{odd}");
        }
    }
}
