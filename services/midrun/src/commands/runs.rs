//! `midrun runs`: the runs of the running server.

use serde::Deserialize as _;
use serde_json::{Value, json};
use wire::{Run, StopMode};

use super::follow::Reading;
use super::log::{LogWriter, Shown};
use super::run::run_in;
use super::screen::{Own, Screen};
use super::table::{self, NoMatch, ago, cell, matching};
use super::{Failure, Outcome, connect, here};
use crate::cli::{Listing, ListingAction};
use crate::client::Client;

/// Carries out `midrun runs`.
pub(crate) async fn command(args: Listing) -> Result<Outcome, Failure> {
    let client = connect(&here()?)?;
    let mut own = Own::outputs();
    act(&client, args, &mut own.screen()).await
}

pub(super) async fn act(client: &Client, args: Listing, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
    let json = args.json;
    match args.action.unwrap_or(ListingAction::Ls) {
        ListingAction::Ls => list(client, json, screen).await?,
        ListingAction::Show { id } => show(&find(client, &id).await?, json, screen)?,
        ListingAction::Logs { id, follow } => {
            logs(client, &find(client, &id).await?, follow, json, screen).await?
        }
        ListingAction::Stop { id, now } => stop(client, &find(client, &id).await?, now, json, screen).await?,
    }
    Ok(Outcome::DONE)
}

/// A run, and as the server told it: a later server may tell more.
struct Told {
    run: Run,
    whole: Value,
}

async fn all(client: &Client) -> Result<Vec<Told>, Failure> {
    let mut answer: Value = client.get(&["api", "runs"]).await?;
    let odd = |error| Failure::plain(format!("the server's list of runs is not understood: {error}"));
    let Value::Array(runs) = answer["runs"].take() else { return Err(odd("it is no list".to_owned())) };
    let told =
        |whole: Value| Ok(Told { run: Run::deserialize(&whole).map_err(|e| odd(e.to_string()))?, whole });
    runs.into_iter().map(told).collect()
}

/// The run that `asked` names, by its id or the beginning of it.
async fn find(client: &Client, asked: &str) -> Result<Told, Failure> {
    let mut runs = all(client).await?;
    let id = match matching(runs.iter().map(|told| told.run.id.as_str()), asked) {
        Ok(id) => id.to_owned(),
        Err(NoMatch::None) => {
            return Err(Failure::plain(format!(
                "there is no run {asked}; `midrun runs` lists those there are"
            )));
        }
        Err(NoMatch::Several(ids)) => {
            let ids = ids.join(", ");
            return Err(Failure::plain(format!(
                "more than one run begins with {asked}: {ids}; give more of the id"
            )));
        }
    };
    let place = runs.iter().position(|told| told.run.id.as_str() == id).expect("it was just found there");
    Ok(runs.swap_remove(place))
}

async fn list(client: &Client, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let runs = all(client).await?;
    if json {
        return Ok(runs.iter().try_for_each(|told| screen.json(&told.whole))?);
    }
    if runs.is_empty() {
        screen.say("no runs yet; `midrun run` starts one");
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<_> = runs.iter().map(|told| row(&told.run, now)).collect();
    let header = ["ID", "STATUS", "TRAINER", "ENTRY", "STARTED", "EXIT", "REASON"];
    screen.out.write_all(table::table(&header, &rows).as_bytes())?;
    Ok(())
}

fn row(run: &Run, now: jiff::Timestamp) -> Vec<String> {
    vec![
        cell(Some(run.id.as_str())),
        word(run.status),
        cell(run.trainer.as_deref()),
        cell(Some(&run.entry)),
        ago(&run.started_at, now),
        ending(run),
        cell(run.reason.as_deref()),
    ]
}

/// `0 finished`: the exit status, and who ended it.
fn ending(run: &Run) -> String {
    let code = run.exit_code.map(|code| code.to_string());
    let words: Vec<_> = code.into_iter().chain(run.ended_by.map(word)).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// A word of the contract, as it stands on the wire.
fn word(of: impl serde::Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn show(told: &Told, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if json {
        return Ok(screen.json(&json!({ "run": told.whole }))?);
    }
    let run = &told.run;
    let now = jiff::Timestamp::now();
    let moment = |time: &str| format!("{} ({})", cell(Some(time)), ago(time, now));
    let text = |text: Option<&str>| text.map(|text| cell(Some(text)));
    let facts = [
        ("run", text(Some(run.id.as_str()))),
        ("status", Some(word(run.status))),
        ("trainer", text(run.trainer.as_deref())),
        ("entry", text(Some(&run.entry))),
        ("pid", run.pid.map(|pid| pid.to_string())),
        ("job", text(run.job_id.as_ref().map(AsRef::as_ref))),
        ("started", Some(moment(&run.started_at))),
        ("ended", run.ended_at.as_deref().map(moment)),
        ("exit", run.exit_code.map(|code| code.to_string())),
        ("ended by", run.ended_by.map(word)),
        ("checkpoint", run.last_checkpoint.map(|step| format!("step {step}"))),
        ("replaces", text(run.replaces.as_ref().map(AsRef::as_ref))),
        ("resumed at", run.resume.as_ref().map(|from| format!("step {} of job {}", from.step, from.job))),
        ("from scratch", text(run.from_scratch.as_deref())),
        ("config", (!run.config.is_empty()).then(|| changes(run))),
        ("replaced by", text(run.replaced_by.as_ref().map(AsRef::as_ref))),
        ("reason", text(run.reason.as_deref())),
        ("code", text(Some(run.content_hash.as_str()))),
    ];
    Ok(table::facts(&facts, screen)?)
}

/// Each changed key with its values: `config.learningRate 0.001, in the checkpoint 0.001, in effect 0.0003`.
fn changes(run: &Run) -> String {
    let value = |value: &Option<Value>| match value {
        Some(value) => cell(Some(&value.to_string())),
        None => "not set".to_owned(),
    };
    let change = |key: &wire::ChangedKey| {
        let checkpoint =
            run.resume.as_ref().map(|_| format!("in the checkpoint {}, ", value(&key.in_checkpoint)));
        let now = match &key.effective {
            Some(_) => format!("in effect {}", value(&key.effective)),
            None => format!("asked for {}", value(&key.wanted)),
        };
        let path = cell(Some(&key.path));
        format!("{path} {}, {}{now}", value(&key.before), checkpoint.unwrap_or_default())
    };
    run.config.iter().map(change).collect::<Vec<_>>().join("; ")
}

async fn logs(
    client: &Client,
    told: &Told,
    follow: bool,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let events = client.events(&["api", "runs", told.run.id.as_str(), "events"]);
    let live = told.run.status.is_live();
    let mut reading = if follow || !live { Reading::to_the_end(events) } else { Reading::up_to_now(events) };
    let mut log = LogWriter::new(if json { Shown::Records } else { Shown::Output });
    while let Some(event) = reading.next().await? {
        if log.take(&event, screen)?.is_some() {
            break;
        }
    }
    Ok(())
}

async fn stop(
    client: &Client,
    told: &Told,
    now: bool,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let mode = if now { StopMode::Now } else { StopMode::Checkpoint };
    let body = json!({ "mode": mode, "reason": "stopped by `midrun runs stop`" });
    let answer: Value = client.post(&["api", "runs", told.run.id.as_str(), "stop"], &body).await?;
    if json {
        return Ok(screen.json(&answer)?);
    }
    let run = run_in(answer)?;
    let how = match (run.status.is_live(), mode) {
        (false, _) => "has ended",
        (true, StopMode::Checkpoint) => "stops at its next checkpoint",
        (true, StopMode::Now) => "is being stopped",
    };
    Ok(screen.line(&format!("run {} {how}", run.id))?)
}
