//! What each command does, except `dev`: a command takes its arguments and gives an [`Outcome`] or a [`Failure`].
//!
//! What must hold: standard output carries what was asked for and nothing else; everything that is said besides, errors
//! included, goes to standard error; a reader that goes away ends a command quietly.

mod build;
mod doctor;
mod follow;
mod init;
mod jobs;
mod log;
mod place;
mod reap;
mod run;
mod runs;
mod screen;
mod start;
mod table;
mod term;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wire::Diagnostic;

use crate::cli::Command;
use crate::client::{Client, ClientError};
use crate::ending;

/// Carries out `command`, which is none of those that `main` carries out itself.
pub(crate) fn command(command: Command) -> ExitCode {
    conclude(ending::run(async {
        match command {
            Command::Run(args) => run::command(args).await,
            Command::Runs(args) => runs::command(args).await,
            Command::Jobs(args) => jobs::command(args).await,
            Command::Reap(args) => reap::command(args).await,
            Command::Term(args) => term::command(args).await,
            Command::Doctor(args) => doctor::command(args).await,
            Command::Init(args) => init::command(&args),
            Command::Start(args) => start::command(&args).await,
            Command::Build(args) => build::command(&args).await,
            Command::Dev(_) | Command::Serve(_) | Command::RunHost(_) | Command::Executor(_) => {
                unreachable!("main does not pass these on")
            }
        }
    }))
}

/// How a command ended, as its exit status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome(u8);

impl Outcome {
    /// What was asked for is done.
    pub(crate) const DONE: Self = Self(0);
    /// It is not; what was asked for says so itself.
    pub(crate) const FAILED: Self = Self(1);

    /// What was waited for has not ended in time.
    pub(crate) const TIMED_OUT: Self = Self(124);

    /// Ended as signal `number` ends a program.
    pub(crate) const fn by_signal(number: u8) -> Self {
        Self(128 + number)
    }

    /// Ended as a run did.
    pub(crate) fn of_run(exit_code: i32) -> Self {
        u8::try_from(exit_code).map_or(Self::FAILED, Self)
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.0)
    }
}

/// Why a command did not do what was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense.
    Usage(String),
    /// It could not be done.
    Failed {
        /// What went wrong.
        what: String,
        /// What to do about it, where that is not plain.
        advice: Option<String>,
    },
    /// Nobody reads standard output any more.
    ReaderGone,
}

impl Failure {
    /// A failure that needs no advice.
    pub(crate) fn plain(what: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), advice: None }
    }

    /// A failure, and what to do about it.
    pub(crate) fn with_advice(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), advice: Some(advice.into()) }
    }

    /// What a person is told; nothing when there is nobody to tell.
    fn words(&self) -> Option<String> {
        match self {
            Self::Usage(what) | Self::Failed { what, advice: None } => Some(format!("error: {what}")),
            Self::Failed { what, advice: Some(advice) } => Some(format!("error: {what}\n  {advice}")),
            Self::ReaderGone => None,
        }
    }

    const fn outcome(&self) -> Outcome {
        match self {
            Self::Usage(_) => Outcome(2),
            Self::Failed { .. } => Outcome::FAILED,
            Self::ReaderGone => Outcome::by_signal(SIGPIPE),
        }
    }
}

const SIGPIPE: u8 = 13;

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let mut what = error.to_string();
        let advice = match &error {
            ClientError::Away { .. } => Some("`midrun doctor` looks whether it is running".to_owned()),
            ClientError::Refused(refusal) => {
                what = with_frames(&refusal.message, &refusal.diagnostics);
                let foreign = refusal.status == 401;
                foreign.then(|| "another server may have taken its place: look at `midrun doctor`".to_owned())
            }
            ClientError::Strange { .. } => {
                Some("is the server of the same version? Start it again with `midrun dev`".to_owned())
            }
        };
        Self::Failed { what, advice }
    }
}

/// A build or an inspection that failed.
impl From<wire::Failure> for Failure {
    fn from(failure: wire::Failure) -> Self {
        Self::plain(with_frames(&failure.message, &failure.diagnostics))
    }
}

/// What is said already, with what to do.
impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::plain(what)
    }
}

/// What cannot be written to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::plain(format!("the output cannot be written: {error}")),
        }
    }
}

/// Ends a command: says on standard error what went wrong, and gives its exit status.
fn conclude(result: Result<Outcome, Failure>) -> ExitCode {
    match result {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            if let Some(words) = failure.words() {
                eprintln!("{words}");
            }
            failure.outcome().into()
        }
    }
}

/// `message`, and below it the places that `diagnostics` name, with their code frames. What the message says
/// already is not said twice.
fn with_frames(message: &str, diagnostics: &[Diagnostic]) -> String {
    let mut text = message.to_owned();
    for diagnostic in diagnostics {
        let place = place_of(diagnostic);
        let head = match (message.contains(&diagnostic.message), message.contains(&place)) {
            (true, true) if diagnostics.len() == 1 => String::new(),
            (true, _) => place,
            (false, _) if place.is_empty() => diagnostic.message.clone(),
            (false, _) => format!("{place}: {}", diagnostic.message),
        };
        let frame = diagnostic.frame.as_deref().map(str::trim_end).unwrap_or_default();
        let parts: Vec<_> = [head.as_str(), frame].into_iter().filter(|part| !part.is_empty()).collect();
        if !parts.is_empty() {
            text.push_str("\n\n");
            text.push_str(&parts.join("\n"));
        }
    }
    text
}

/// `src/midrun/index.ts:3:7`, as far as it is known.
fn place_of(diagnostic: &Diagnostic) -> String {
    let numbers = [diagnostic.line, diagnostic.column].into_iter().map_while(|number| number);
    let numbers = numbers.map(|number| number.to_string());
    diagnostic.file.iter().cloned().chain(numbers).collect::<Vec<_>>().join(":")
}

/// The folder that this command was called in.
fn here() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| Failure::plain(format!("the current folder is gone: {error}")))
}

/// The server of the project that `dir` is in.
fn connect(dir: &Path) -> Result<Client, Failure> {
    let Some(project) = place::project_of(dir) else {
        return Err(Failure::with_advice(
            format!("no project in {} or above it", dir.display()),
            "a project has src/midrun/index.ts; `midrun init` makes one",
        ));
    };
    match Client::of(&project) {
        Some(client) => Ok(client?),
        None => Err(Failure::plain(format!(
            "no midrun server is running for {}; start one with `midrun dev`",
            project.display()
        ))),
    }
}

/// The environment, without what is no text: settings are.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
