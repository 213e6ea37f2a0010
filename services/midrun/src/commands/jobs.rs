//! `midrun jobs`: the jobs on the control plane, as the running server sees them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::follow::Reading;
use super::screen::{Own, Screen};
use super::table::{self, NoMatch, ago, cell, matching};
use super::{Failure, Outcome, connect, here};
use crate::cli::{Listing, ListingAction};
use crate::client::{Client, Event};

/// Jobs asked for at once; the control plane takes no larger number.
const PAGE: usize = 500;
/// Pages that are looked through for a job, at most.
const PAGES: usize = 40;

/// Carries out `midrun jobs`.
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
        // A job is always cancelled at once.
        ListingAction::Stop { id, now: _ } => stop(client, &find(client, &id).await?, json, screen).await?,
    }
    Ok(Outcome::DONE)
}

fn text<'a>(job: &'a Value, key: &str) -> Option<&'a str> {
    job[key].as_str()
}

fn id(job: &Value) -> &str {
    text(job, "id").unwrap_or_default()
}

fn is_over(job: &Value) -> bool {
    matches!(text(job, "status"), Some("completed" | "failed" | "cancelled"))
}

/// One page of jobs, newest first, and where the next one begins.
async fn page(client: &Client, cursor: Option<&str>) -> Result<(Vec<Value>, Option<String>), Failure> {
    let limit = PAGE.to_string();
    let query: Vec<_> =
        [("limit", limit.as_str())].into_iter().chain(cursor.map(|at| ("cursor", at))).collect();
    let mut answer: Value = client.get_with(&["api", "jobs"], &query).await?;
    let Value::Array(jobs) = answer["jobs"].take() else {
        return Err(Failure::plain("the control plane's list of jobs is not understood"));
    };
    Ok((jobs, text(&answer, "nextCursor").map(str::to_owned)))
}

/// The job that `asked` names, by its id or the beginning of it.
async fn find(client: &Client, asked: &str) -> Result<Value, Failure> {
    let mut known = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let (jobs, next) = page(client, cursor.as_deref()).await?;
        known.extend(jobs.into_iter().filter(|job| id(job).starts_with(asked)));
        cursor = next;
        if cursor.is_none() || known.iter().any(|job| id(job) == asked) {
            break;
        }
    }
    let found = match matching(known.iter().map(id), asked) {
        Ok(found) => found.to_owned(),
        Err(NoMatch::None) => {
            return Err(Failure::plain(format!(
                "there is no job {asked}; `midrun jobs` lists those there are"
            )));
        }
        Err(NoMatch::Several(ids)) => {
            let ids = ids.join(", ");
            return Err(Failure::plain(format!(
                "more than one job begins with {asked}: {ids}; give more of the id"
            )));
        }
    };
    Ok(known.into_iter().find(|job| id(job) == found).expect("it was just found there"))
}

async fn list(client: &Client, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    // First, since a control plane that is away is why they are outstanding.
    outstanding(client, json, screen).await?;
    let (jobs, more) = page(client, None).await?;
    if json {
        jobs.iter().try_for_each(|job| screen.json(job))?;
    } else if jobs.is_empty() {
        screen.say("no jobs yet; a run creates one");
    } else {
        let now = jiff::Timestamp::now();
        let rows: Vec<_> = jobs.iter().map(|job| row(job, now)).collect();
        let header = ["ID", "STATUS", "NAME", "CREATED", "ERROR"];
        screen.out.write_all(table::table(&header, &rows).as_bytes())?;
    }
    if more.is_some() {
        screen.say(&format!("these are the newest {}; there are more", jobs.len()));
    }
    Ok(())
}

/// Shows the cancels that the control plane has not settled, if there are any.
async fn outstanding(client: &Client, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let answer: Value = client.get(&["api", "cancels"]).await?;
    for cancel in answer["cancels"].as_array().into_iter().flatten() {
        if json {
            screen.json(&json!({ "cancel": cancel }))?;
            continue;
        }
        let of = match (text(cancel, "job"), text(cancel, "run")) {
            (Some(job), Some(run)) => format!("job {} of run {}", cell(Some(job)), cell(Some(run))),
            (_, run) => format!("the job of run {}", cell(run)),
        };
        let tried = cancel["attempts"].to_string();
        let why = text(cancel, "lastError").map(|why| format!(": {}", cell(Some(why)))).unwrap_or_default();
        screen.say(&format!("the cancel of {of} is outstanding ({tried} attempts{why})"));
    }
    Ok(())
}

fn row(job: &Value, now: jiff::Timestamp) -> Vec<String> {
    vec![
        cell(Some(id(job))),
        cell(text(job, "status")),
        cell(text(job, "name")),
        text(job, "createdAt").map_or_else(|| cell(None), |then| ago(then, now)),
        cell(text(job, "error")),
    ]
}

fn show(job: &Value, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if json {
        return Ok(screen.json(&json!({ "job": job }))?);
    }
    let now = jiff::Timestamp::now();
    let plain = |key: &str| text(job, key).map(|text| cell(Some(text)));
    let moment = |key: &str| text(job, key).map(|then| format!("{} ({})", cell(Some(then)), ago(then, now)));
    let facts = [
        ("job", plain("id")),
        ("status", plain("status")),
        ("name", plain("name")),
        ("run", plain("clientRunId")),
        ("created", moment("createdAt")),
        ("started", moment("startedAt")),
        ("completed", moment("completedAt")),
        ("error", plain("error")),
        ("config", Some(shortened(&job["config"]).to_string())),
    ];
    Ok(table::facts(&facts, screen)?)
}

/// The longest text in a config that is shown whole, characters.
const WHOLE: usize = 60;

/// `value` with its long texts cut short: a dataset may stand in a config.
fn shortened(value: &Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > WHOLE => {
            let head: String = text.chars().take(WHOLE / 2).collect();
            Value::String(format!("{head}… ({} characters)", text.chars().count()))
        }
        Value::Array(items) => items.iter().map(shortened).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shortened(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

async fn logs(
    client: &Client,
    job: &Value,
    follow: bool,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let events = client.events(&["api", "jobs", id(job), "events"]);
    let to_the_end = follow || is_over(job);
    let mut reading = if to_the_end { Reading::to_the_end(events) } else { Reading::up_to_now(events) };
    let mut last = 0;
    while let Some(event) = reading.next().await? {
        if event.name == "end" {
            break;
        }
        // An event that has no number is about the stream, not about the job; one that is not newer was shown.
        let number = event.id.as_deref().and_then(|id| id.parse::<u64>().ok());
        if event.name == "ping" || number.is_some_and(|number| number <= last) {
            continue;
        }
        last = number.unwrap_or(last);
        print(&event, json, screen)?;
    }
    Ok(())
}

fn print(event: &Event, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let data: Value = serde_json::from_str(&event.data)
        .map_err(|error| Failure::plain(format!("the job's events are not understood: {error}")))?;
    if json {
        screen.json(&data)?
    } else {
        screen.line(&line(&event.name, &data))?
    }
    Ok(())
}

/// An event in words: `step 20  loss 1.234  lr 0.001`.
fn line(name: &str, data: &Value) -> String {
    let step = data["step"].to_string();
    match name {
        "training.started" => "started".to_owned(),
        "training.log" => measures(&format!("step {step}"), data),
        "checkpoint.saved" => format!("checkpoint at step {step}"),
        "training.completed" => measures("completed", &data["metrics"]),
        "training.failed" => format!("failed: {}", cell(text(data, "error"))),
        "training.cancelled" => "cancelled".to_owned(),
        other => format!("{} {data}", cell(Some(other))),
    }
}

/// Keys that say which event it is, not what was measured.
const NOT_MEASURED: [&str; 4] = ["type", "jobId", "timestamp", "step"];

fn measures(head: &str, of: &Value) -> String {
    let mut line = head.to_owned();
    for (key, value) in of.as_object().unwrap_or(&Map::new()) {
        let name = match key.as_str() {
            key if NOT_MEASURED.contains(&key) || value.is_null() => continue,
            "learningRate" => "lr",
            "evalLoss" => "eval loss",
            "samplesPerSecond" => "samples/s",
            other => other,
        };
        let shown = match value {
            Value::Number(number) => rounded(number),
            Value::String(text) => cell(Some(text)),
            other => other.to_string(),
        };
        write!(line, "  {} {shown}", cell(Some(name))).expect("writing to a String cannot fail");
    }
    line
}

/// A number with no more digits than a person reads.
fn rounded(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() && value != 0.0 && value.abs() < 0.001 => {
            let text = format!("{value:.3e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        Some(value) if number.is_f64() => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => number.to_string(),
    }
}

async fn stop(client: &Client, job: &Value, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let answer: Value = client.post(&["api", "jobs", id(job), "cancel"], &json!({})).await?;
    if json {
        return Ok(screen.json(&answer)?);
    }
    let how = if is_over(&answer["job"]) { "is cancelled" } else { "is being cancelled" };
    Ok(screen.line(&format!("job {} {how}", id(job)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let log = json!({
            "type": "training.log", "jobId": "j", "timestamp": "t", "step": 20, "loss": 1.23401, "evalLoss": null,
            "learningRate": 0.0003, "samplesPerSecond": 118.0, "note": "a\nb"
        });
        assert_eq!(line("training.log", &log), "step 20  loss 1.234  lr 3e-4  samples/s 118  note a b");
        assert_eq!(line("checkpoint.saved", &json!({"step": 40, "artifacts": []})), "checkpoint at step 40");
        let done = json!({"metrics": {"accuracy": 0.98765, "steps": 600}, "artifacts": []});
        assert_eq!(line("training.completed", &done), "completed  accuracy 0.9877  steps 600");
        assert_eq!(line("training.failed", &json!({"error": "no\nmemory"})), "failed: no memory");
        assert_eq!(line("training.new", &json!({"a": 1})), r#"training.new {"a":1}"#);
    }

    #[test]
    fn a_dataset_in_a_config_is_cut_short() {
        let config =
            json!({"datasetSource": {"data": "1+1=2\n".repeat(1000)}, "maxSteps": 9, "tags": ["short"]});
        let expected = json!({
            "datasetSource": {"data": "1+1=2\n1+1=2\n1+1=2\n1+1=2\n1+1=2\n… (6000 characters)"},
            "maxSteps": 9,
            "tags": ["short"]
        });
        assert_eq!(shortened(&config), expected);
    }

    #[test]
    fn numbers_are_short() {
        for (number, want) in [
            (json!(0.001), "0.001"),
            (json!(0.00025), "2.5e-4"),
            (json!(-0.00001), "-1e-5"),
            (json!(0.0), "0"),
            (json!(2.0), "2"),
            (json!(12345), "12345"),
        ] {
            let Value::Number(number) = number else { panic!("{number} is a number") };
            assert_eq!(rounded(&number), want);
        }
    }
}
