//! `midrun term`: shells on the running server.
//!
//! What a waited command wrote is what stands in the session's log between the record that the shell took it and the
//! record of its end; it is shown as it comes.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use wire::CommandId;
use wire::terminal::{Commanded, Terminal};

use super::follow::Reading;
use super::log::{LogWriter, Shown};
use super::screen::{Own, Screen};
use super::table::{self, NoMatch, ago, cell, matching};
use super::{Failure, Outcome, connect, here};
use crate::cli::{Term, TermAction};
use crate::client::{Client, Event, Events};

const SIGINT: u8 = 2;
/// What an answer may take besides the time that is waited for.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the rest of what a command wrote may take to come when its end is known.
const REST: Duration = Duration::from_secs(10);

/// Carries out `midrun term`.
pub(crate) async fn command(args: Term) -> Result<Outcome, Failure> {
    let client = connect(&here()?)?;
    let mut own = Own::outputs();
    act(&client, args, &mut own.screen()).await
}

async fn act(client: &Client, args: Term, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
    let json = args.json;
    match args.action.unwrap_or(TermAction::Ls) {
        TermAction::Ls => list(client, json, screen).await?,
        TermAction::New { name, shell, cwd } => open(client, name, shell, cwd, json, screen).await?,
        TermAction::Run { id, no_wait, timeout, command } => {
            let terminal = find(client, &id).await?;
            let text = command.join(" ");
            if no_wait {
                hand_over(client, &terminal, &text, json, screen).await?;
            } else {
                return Waited { client, terminal, json }.run(&text, seconds(timeout)?, screen).await;
            }
        }
        TermAction::Log { id, follow } => {
            log(client, &find(client, &id).await?, follow, json, screen).await?;
        }
        TermAction::Kill { id } => kill(client, &find(client, &id).await?, json, screen).await?,
    }
    Ok(Outcome::DONE)
}

fn odd(error: impl std::fmt::Display) -> Failure {
    Failure::plain(format!("the server's answer is not understood: {error}"))
}

fn seconds(number: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(number).map_err(|_| {
        Failure::Usage(format!("--timeout {number}: it is a number of seconds, such as 30 or 1.5"))
    })
}

async fn all(client: &Client) -> Result<Vec<Terminal>, Failure> {
    let mut answer: Value = client.get(&["api", "terminals"]).await?;
    serde_json::from_value(answer["terminals"].take()).map_err(odd)
}

/// The terminal that `asked` names, by its id, the beginning of it, or its name.
async fn find(client: &Client, asked: &str) -> Result<Terminal, Failure> {
    let mut terminals = all(client).await?;
    let named = terminals
        .iter()
        .position(|terminal| terminal.status.is_live() && terminal.name.as_deref() == Some(asked));
    let place = match (named, matching(terminals.iter().map(|terminal| terminal.id.as_str()), asked)) {
        (Some(place), _) => place,
        (None, Ok(id)) => {
            terminals.iter().position(|terminal| terminal.id.as_str() == id).expect("it was just found there")
        }
        (None, Err(NoMatch::None)) => {
            return Err(Failure::with_advice(
                format!("there is no terminal {asked}"),
                "`midrun term ls` lists those there are, `midrun term new` opens one",
            ));
        }
        (None, Err(NoMatch::Several(ids))) => {
            let ids = ids.join(", ");
            return Err(Failure::plain(format!(
                "more than one terminal begins with {asked}: {ids}; give more of the id"
            )));
        }
    };
    Ok(terminals.swap_remove(place))
}

async fn list(client: &Client, json: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let terminals = all(client).await?;
    if json {
        return Ok(terminals.iter().try_for_each(|terminal| screen.json(terminal))?);
    }
    if terminals.is_empty() {
        screen.say("no terminals yet; `midrun term new` opens one");
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<_> = terminals.iter().map(|terminal| row(terminal, now)).collect();
    let header = ["ID", "STATUS", "NAME", "SHELL", "STARTED", "EXIT", "REASON"];
    screen.out.write_all(table::table(&header, &rows).as_bytes())?;
    Ok(())
}

fn row(terminal: &Terminal, now: jiff::Timestamp) -> Vec<String> {
    let status = serde_json::to_value(terminal.status).ok();
    vec![
        cell(Some(terminal.id.as_str())),
        cell(status.as_ref().and_then(Value::as_str)),
        cell(terminal.name.as_deref()),
        cell(Some(&terminal.shell)),
        ago(&terminal.started_at, now),
        cell(terminal.exit_code.map(|code| code.to_string()).as_deref()),
        cell(terminal.reason.as_deref()),
    ]
}

async fn open(
    client: &Client,
    name: Option<String>,
    shell: Option<String>,
    cwd: Option<PathBuf>,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    // The server's own folder may be another one, so it gets a path from the root.
    let cwd = cwd.map(|cwd| here().map(|here| here.join(cwd))).transpose()?;
    let body = json!({ "name": name, "shell": shell, "cwd": cwd });
    let mut answer: Value = client.post_within(&["api", "terminals"], &body, ANSWER).await?;
    if json {
        return Ok(screen.json(&answer)?);
    }
    let terminal: Terminal = serde_json::from_value(answer["terminal"].take()).map_err(odd)?;
    screen.line(terminal.id.as_str())?;
    screen.say(&format!("`midrun term run {} -- COMMAND` runs a command in it", terminal.id));
    Ok(())
}

async fn hand_over(
    client: &Client,
    terminal: &Terminal,
    text: &str,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let body = json!({ "command": text, "wait": false });
    let commanded: Commanded = client.post(&["api", "terminals", terminal.id.as_str(), "run"], &body).await?;
    if json {
        return Ok(screen.json(&commanded)?);
    }
    screen.line(commanded.command.as_str())?;
    screen.say(&format!("`midrun term log {}` shows what it writes", terminal.id));
    Ok(())
}

/// A command whose end is waited for.
struct Waited<'a> {
    client: &'a Client,
    terminal: Terminal,
    json: bool,
}

impl Waited<'_> {
    async fn run(self, text: &str, limit: Duration, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
        let (id, command) = (self.terminal.id.as_str(), CommandId::fresh());
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "command": text, "id": command, "timeoutMs": millis });
        let mut events =
            self.client.events(&["api", "terminals", id, "events"]).behind(self.terminal.newest_seq);
        let mut listener =
            Listener { command, gathered: self.json.then(Vec::new), place: Place::Before, seq: 0 };
        let path = ["api", "terminals", id, "run"];
        let asked = self.client.post_within::<Commanded>(&path, &body, limit + ANSWER);
        tokio::pin!(asked);
        let commanded = loop {
            tokio::select! {
                commanded = &mut asked => break commanded?,
                event = events.next(), if listener.place != Place::Over => {
                    // Without its output, its end is still to be told.
                    let Ok(Some(event)) = event else { listener.place = Place::Over; continue };
                    listener.take(&event, screen)?;
                }
                _ = tokio::signal::ctrl_c() => {
                    screen.say(&format!("\ndetached: the command goes on; `midrun term log {id}` shows it"));
                    return Ok(Outcome::by_signal(SIGINT));
                }
            }
        };
        listener.rest(&mut events, &commanded, screen).await?;
        self.tell(&commanded, listener.gathered, screen)
    }

    fn tell(
        &self,
        commanded: &Commanded,
        output: Option<Vec<u8>>,
        screen: &mut Screen<'_>,
    ) -> Result<Outcome, Failure> {
        if let Some(output) = output {
            let mut object = serde_json::to_value(commanded).map_err(odd)?;
            object["output"] = String::from_utf8_lossy(&output).into();
            screen.json(&object)?;
        }
        let id = &self.terminal.id;
        match commanded {
            Commanded { completed: true, exit_code: Some(code), .. } => Ok(Outcome::of_run(*code)),
            Commanded { exited: true, exit_code, .. } => {
                screen.say(&format!("the shell of terminal {id} ended before the command"));
                Ok(exit_code.map_or(Outcome::FAILED, Outcome::of_run))
            }
            Commanded { withdrawn: true, .. } => {
                screen.say("the shell was busy all the time: the command was not begun and will not be");
                Ok(Outcome::TIMED_OUT)
            }
            _ => {
                screen.say(&format!(
                    "the command has not ended in time and goes on; `midrun term log {id}` shows it"
                ));
                Ok(Outcome::TIMED_OUT)
            }
        }
    }
}

/// Where a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the command was taken.
    Before,
    /// In what it writes.
    Within,
    /// Behind its end.
    Over,
}

/// Shows or gathers what one command writes.
struct Listener {
    command: CommandId,
    gathered: Option<Vec<u8>>,
    place: Place,
    /// The newest record seen.
    seq: u64,
}

/// What is needed of a record.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(default)]
    seq: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    command: Option<CommandId>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    base64: Option<String>,
}

impl Listener {
    fn take(&mut self, event: &Event, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let record: Record = serde_json::from_str(&event.data).map_err(odd)?;
        if record.seq <= self.seq && record.seq > 0 {
            return Ok(());
        }
        self.seq = self.seq.max(record.seq);
        let own = record.command.as_ref() == Some(&self.command);
        match (self.place, record.kind.as_str()) {
            (Place::Before, "input") if own => self.place = Place::Within,
            (_, "completed") if own => self.place = Place::Over,
            (_, "exit") => self.place = Place::Over,
            (Place::Within, "output") => self.show(&record, screen)?,
            _ => {}
        }
        Ok(())
    }

    fn show(&mut self, record: &Record, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let decoded;
        let bytes = match (&record.text, &record.base64) {
            (Some(text), _) => text.as_bytes(),
            (None, Some(encoded)) => {
                decoded = BASE64.decode(encoded).map_err(odd)?;
                &decoded
            }
            (None, None) => return Ok(()),
        };
        if let Some(gathered) = &mut self.gathered {
            gathered.extend_from_slice(bytes);
            return Ok(());
        }
        screen.out.write_all(bytes)?;
        Ok(screen.out.flush()?)
    }

    /// Reads on to the command's end, or to where the log was when the waiting ended.
    async fn rest(
        &mut self,
        events: &mut Events,
        commanded: &Commanded,
        screen: &mut Screen<'_>,
    ) -> Result<(), Failure> {
        let until = Instant::now() + REST;
        let last = commanded.complete_seq.unwrap_or(commanded.newest_seq);
        let is_there = |listener: &Self| listener.place == Place::Over || listener.seq >= last;
        while !commanded.withdrawn && !is_there(self) {
            match timeout_at(until, events.next()).await {
                Ok(Ok(Some(event))) => self.take(&event, screen)?,
                Ok(_) | Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

async fn log(
    client: &Client,
    terminal: &Terminal,
    follow: bool,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let events = client.events(&["api", "terminals", terminal.id.as_str(), "events"]);
    let to_the_end = follow || !terminal.status.is_live();
    let mut reading = if to_the_end { Reading::to_the_end(events) } else { Reading::up_to_now(events) };
    let mut log = LogWriter::new(if json { Shown::Records } else { Shown::Output });
    while let Some(event) = reading.next().await? {
        if log.take(&event, screen)?.is_some() {
            break;
        }
    }
    Ok(())
}

async fn kill(
    client: &Client,
    terminal: &Terminal,
    json: bool,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let answer: Value = client.delete(&["api", "terminals", terminal.id.as_str()]).await?;
    if json {
        return Ok(screen.json(&answer)?);
    }
    let how = if terminal.status.is_live() { "is being ended" } else { "has ended" };
    Ok(screen.line(&format!("terminal {} {how}", terminal.id))?)
}
