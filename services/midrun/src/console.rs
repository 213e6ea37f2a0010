//! The dev server's console: the address, then one line a save, then what becomes of each run.
//!
//! Everything a line says comes from the event stream that every client sees.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use peer::{Feed, Start};
use serde_json::json;
use wire::event::{DevEvent, ErrorFrame, RebuildFrame, RebuildKind, RunFrame, SwapFrame};
use wire::{Decision, RunId, RunStatus};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For people; with colours or without.
    Text { colours: bool },
    /// One JSON object a line.
    Json,
}

impl Style {
    /// What standard output and the environment ask for.
    pub(crate) fn of(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        Self::for_people(std::io::stdout().is_terminal(), |name| std::env::var_os(name))
    }

    fn for_people(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // An empty variable is one that is not set.
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        Self::Text { colours: terminal && !is_set("NO_COLOR") && !is_set("CI") }
    }
}

/// What is said first.
pub(crate) struct Greeting<'a> {
    pub(crate) url: &'a str,
    pub(crate) token: &'a str,
    pub(crate) project: &'a str,
    pub(crate) since_start: Duration,
    /// The port that was asked for, if another one was taken.
    pub(crate) instead_of: Option<u16>,
}

/// The console.
pub(crate) struct Console {
    style: Style,
    /// What each run last said of itself, so that a line is not repeated.
    said: HashMap<RunId, (RunStatus, Option<String>)>,
}

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const CYAN: &str = "36";
const DIM: &str = "2";
const BOLD: &str = "1";

impl Console {
    pub(crate) fn new(style: Style) -> Self {
        Self { style, said: HashMap::new() }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.style {
            Style::Text { colours: true } => format!("\x1b[{colour}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    pub(crate) fn greet(&self, greeting: &Greeting<'_>) {
        if self.style == Style::Json {
            return print(
                &json!({
                    "event": "listening",
                    "url": greeting.url,
                    "token": greeting.token,
                    "pid": std::process::id(),
                })
                .to_string(),
            );
        }
        let mut text = format!(
            "\n  {} {}  ready in {} ms\n",
            self.paint(GREEN, &self.paint(BOLD, "MIDRUN")),
            env!("CARGO_PKG_VERSION"),
            greeting.since_start.as_millis()
        );
        if let Some(port) = greeting.instead_of {
            let said = format!("\n  port {port} is taken, so another one was chosen\n");
            text.push_str(&self.paint(YELLOW, &said));
        }
        let _ = write!(
            text,
            "\n  {}  Studio:   {}\n  {}  Project:  {}\n",
            self.paint(GREEN, "➜"),
            self.paint(CYAN, greeting.url),
            self.paint(DIM, "➜"),
            greeting.project
        );
        print(&text);
    }

    /// Which services this process has, and where the others find it.
    pub(crate) fn serving(&self, services: &[&str], url: &str) {
        match self.style {
            Style::Json => print(
                &json!({ "event": "serving", "services": services, "url": url, "pid": std::process::id() })
                    .to_string(),
            ),
            Style::Text { .. } => self.line(GREEN, "serve", &format!("{} at {url}", services.join(", "))),
        }
    }

    /// Where the control plane of this process is.
    pub(crate) fn control_plane(&self, url: &str) {
        match self.style {
            Style::Json => print(&json!({ "event": "control-plane", "url": url }).to_string()),
            Style::Text { .. } => self.line(GREEN, "serve", &format!("jobs at {url}")),
        }
    }

    /// A line of the server's own.
    pub(crate) fn note(&self, text: &str) {
        match self.style {
            Style::Json => print(&json!({ "event": "note", "text": text }).to_string()),
            Style::Text { .. } => self.line(DIM, "note", text),
        }
    }

    /// Something a person should look at, or that is well again.
    pub(crate) fn warn(&self, text: &str) {
        match self.style {
            Style::Json => print(&json!({ "event": "warning", "text": text }).to_string()),
            Style::Text { .. } => self.line(YELLOW, "warning", text),
        }
    }

    fn line(&self, colour: &str, word: &str, text: &str) {
        let at = wire::now();
        // HH:MM:SS of an RFC 3339 time.
        let clock = at.get(11..19).unwrap_or_default();
        print(&format!("{} {} {text}", self.paint(DIM, clock), self.paint(colour, word)));
    }

    /// Tells of everything that happens until the feed ends.
    pub(crate) async fn follow(mut self, events: Feed<DevEvent>) {
        let mut reader = events.read(Start::Snapshot);
        while let Some(delivery) = reader.next().await {
            self.event(&delivery.event);
        }
    }

    fn event(&mut self, event: &DevEvent) {
        if self.style == Style::Json {
            if let Ok(data) = serde_json::to_value(event) {
                print(&json!({ "event": event.name(), "data": data }).to_string());
            }
            return;
        }
        match event {
            DevEvent::Rebuild(frame) => self.rebuild(frame),
            DevEvent::Error(frame) => self.error(frame),
            DevEvent::Swap(frame) => self.swap(frame),
            DevEvent::Run(frame) => self.run(frame),
        }
    }

    fn rebuild(&self, frame: &RebuildFrame) {
        let total = self.paint(DIM, &format!("{:.1} ms", frame.timings.total_ms));
        if frame.kind == RebuildKind::Ready {
            let what = match &frame.trainer_name {
                Some(name) => format!("trainer {}", self.paint(BOLD, name)),
                None => format!("no trainer in {} yet: export one", frame.entry),
            };
            return self.line(GREEN, "ready", &format!("{what} {total}"));
        }
        let changed = match frame.changed.as_slice() {
            [] => frame.entry.clone(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        if frame.trainer_name.is_none() {
            let text = format!("{changed}: no trainer in {} any more {total}", frame.entry);
            return self.line(YELLOW, "rebuild", &text);
        }
        if frame.decisions.is_empty() {
            return self.line(GREEN, "rebuild", &format!("{changed} {total}"));
        }
        for decided in &frame.decisions {
            let (colour, word) = match decided.decision {
                Decision::HotSwap => (GREEN, "hot swap"),
                Decision::Restart => (YELLOW, "restart"),
                Decision::WouldRestart => (YELLOW, "would restart"),
                Decision::Wait => (CYAN, "waits"),
                Decision::Nothing => (DIM, "unchanged"),
            };
            let run = self.paint(DIM, decided.run.as_str());
            self.line(colour, word, &format!("{changed}: {} {run} {total}", decided.why));
        }
    }

    fn error(&self, frame: &ErrorFrame) {
        let place = frame.diagnostics.first().and_then(|diagnostic| {
            let file = diagnostic.file.as_ref()?;
            Some(match (diagnostic.line, diagnostic.column) {
                (Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
                (Some(line), None) => format!("{file}:{line}: "),
                _ => format!("{file}: "),
            })
        });
        let message = match frame.diagnostics.first() {
            Some(diagnostic) => &diagnostic.message,
            None => &frame.message,
        };
        self.line(RED, "error", &format!("{}{message}", place.unwrap_or_default()));
        if let Some(code) = frame.diagnostics.first().and_then(|diagnostic| diagnostic.frame.as_ref()) {
            print(code);
        }
    }

    fn swap(&self, frame: &SwapFrame) {
        let run = self.paint(DIM, frame.run.as_str());
        match (&frame.reason, frame.ok) {
            (_, true) => {
                let took = frame.took_ms.map(|ms| format!(" in {ms:.1} ms")).unwrap_or_default();
                self.line(GREEN, "swapped", &format!("the run took the new callbacks{took} {run}"));
            }
            (Some(reason), false) if reason == "superseded" => {}
            (reason, false) => {
                let why = reason.as_deref().unwrap_or("it did not say why");
                self.line(RED, "not swapped", &format!("{why} {run}"));
            }
        }
    }

    fn run(&mut self, frame: &RunFrame) {
        let now = (frame.status, frame.reason.clone());
        if self.said.insert(frame.run.clone(), now.clone()) == Some(now) {
            return;
        }
        let run = self.paint(DIM, frame.run.as_str());
        let reason = frame.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let pid = frame.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        match frame.status {
            RunStatus::Starting => {}
            RunStatus::Running => self.line(GREEN, "running", &format!("training{pid}{reason} {run}")),
            RunStatus::EarlyStopping => {
                self.line(YELLOW, "stopping", &format!("at the next checkpoint{reason} {run}"));
            }
            RunStatus::Restarting => self.line(YELLOW, "restarting", &format!("{run}{reason}")),
            RunStatus::Stopping => self.line(YELLOW, "stopping", &format!("now{reason} {run}")),
            RunStatus::Exited => {
                self.said.remove(&frame.run);
                let code = frame.exit_code.map(|code| format!(" with {code}")).unwrap_or_default();
                self.line(DIM, "ended", &format!("{run}{code}{reason}"));
            }
            RunStatus::Lost => self.line(RED, "lost", &format!("{run}{reason}")),
        }
    }
}

/// Standard output may be closed; the server goes on.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_takes_no_colours_away() {
        let with = |name: &'static str, value: &'static str| {
            Style::for_people(true, move |asked| (asked == name).then(|| value.into()))
        };
        for name in ["NO_COLOR", "CI"] {
            assert_eq!(with(name, ""), Style::Text { colours: true }, "{name}");
            assert_eq!(with(name, "1"), Style::Text { colours: false }, "{name}");
        }
        assert_eq!(Style::for_people(false, |_| None), Style::Text { colours: false });
    }
}
