//! `midrun start`: builds a trainer and runs it in this terminal, with no server.
//!
//! The runner is in this terminal's process group, so Ctrl-C is its own to handle. This process stays to lend it a
//! control plane, and hands on what is sent to this process alone. What must hold: the runner's exit status is this
//! command's; the runner does not outlive this process; a job that the runner left behind is cancelled.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use process::{Child, Launch, Spawner};
use reqwest::{StatusCode, Url};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::{ControlPlane, EntryPath, RunId};

use super::screen::{Own, Screen};
use super::{Failure, Outcome, here, place};
use crate::client::Client;
use crate::project::Project;
use crate::{cli, control, credentials, sdk};

/// How long the control plane may take to be told that a run is over.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// Set by those who choose a control plane by variables alone; the runner reads it.
const TOKEN_VARIABLE: &str = "MIDRUN_CONTROL_PLANE_TOKEN";

/// Carries out `midrun start`.
pub(crate) async fn command(args: &cli::Start) -> Result<Outcome, Failure> {
    let (root, entry) = target(&here()?, args.file.as_deref())?;
    let project = Project::open(&root)?;
    let state_dir = project.make_state_dir()?;
    let sdk = sdk::make(&project.root, &state_dir)?;
    let artifact = build_watcher::build_once(&project.root, &entry)?;
    let plane = Plane::of(&project, &mut Own::outputs().screen()).await?;
    let run = RunId::fresh();
    let runner = Launch::new(&project.settings.run.node)
        .arg(&sdk.runner)
        .args(["--artifact", artifact.path.as_str()])
        .current_dir(&project.root);
    let runner = surroundings(runner, &project, &run)?;
    let runner = match &plane {
        Some(plane) => plane.surroundings(runner),
        None => runner,
    };
    let ended = attend(runner).await;
    if let Some(plane) = plane {
        plane.leave(&project, &run, ended.as_ref().is_ok_and(ExitStatus::success)).await;
    }
    Ok(outcome(ended?))
}

/// The project, and the source file to start from.
fn target(here: &Path, file: Option<&Path>) -> Result<(PathBuf, EntryPath), Failure> {
    let none = || {
        Failure::with_advice(
            format!("no trainer in {} or above it", here.display()),
            "write src/midrun/index.ts (`midrun init` writes one that trains), or name a file: `midrun start FILE`",
        )
    };
    let (root, entry) = match file {
        None => {
            let root = place::project_of(here).ok_or_else(none)?;
            let entry = place::entry_of(&root).ok_or_else(none)?;
            (root, entry)
        }
        Some(file) => {
            let entry = here
                .join(file)
                .canonicalize()
                .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
            if !entry.is_file() {
                return Err(Failure::Usage(format!(
                    "{} is not a file; name a trainer's source file",
                    file.display()
                )));
            }
            let root = entry.parent().and_then(place::project_of).unwrap_or_else(|| here.to_owned());
            (root, entry)
        }
    };
    let text = entry.to_str().ok_or_else(|| Failure::Usage(format!("{} is not UTF-8", entry.display())))?;
    Ok((root, EntryPath::from(text)))
}

/// What every runner is told, besides where to train.
fn surroundings(runner: Launch, project: &Project, run: &RunId) -> Result<Launch, Failure> {
    let wanted = &project.settings.run;
    let signal = wanted.hot_swap_signal_number().map_err(|error| Failure::plain(error.to_string()))?;
    Ok(runner
        .env("MIDRUN_RUN_ID", run.as_str())
        .env("MIDRUN_EARLY_STOP_TIMEOUT_MS", wanted.early_stop_timeout_ms.to_string())
        .env("MIDRUN_HOT_SWAP_SIGNAL", signal.to_string())
        // There is no run-host, even where this is called from within a run.
        .env_remove("MIDRUN_CONTROL_FD"))
}

/// A control plane that the runner is told of, where its environment does not say.
struct Plane {
    at: ControlPlane,
    /// The file with the token.
    credentials: PathBuf,
    /// The control plane itself, when it is in this process.
    own: Option<control::Own>,
}

impl Plane {
    /// The one that the settings name, else that of the project's running server, else one of our own. Nothing when
    /// the environment says where to train, or when there is none.
    async fn of(project: &Project, screen: &mut Screen<'_>) -> Result<Option<Self>, Failure> {
        if std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty()) {
            return Ok(None);
        }
        let own_file = project.state_dir().join("control-plane/credentials.json");
        let configured = project.settings.control_plane.url.is_some();
        if !configured && let Some(client) = Client::of(&project.root) {
            let answer: Value = client?.get(&["api", "credentials"]).await?;
            let Some(url) = answer["baseUrl"].as_str() else {
                return Err(Failure::plain("the running server does not say where its control plane is"));
            };
            let at = credentials::sign_in(url, &own_file, &project.name(), true).await?;
            return Ok(Some(Self { at, credentials: own_file, own: None }));
        }
        let (at, own) = control::connect_once(project).await;
        let Some(at) = at else {
            screen.say(
                "there is no control plane to train on. A trainer that needs none runs all the same; for the others, \
                 correct MIDRUN_CONTROL_PLANE_URL or controlPlane.url in midrun.toml, or leave both out",
            );
            return Ok(None);
        };
        let credentials =
            if configured { credentials::user_config_dir().join("credentials.json") } else { own_file };
        Ok(Some(Self { at, credentials, own: Some(own) }))
    }

    fn surroundings(&self, runner: Launch) -> Launch {
        runner
            .env("MIDRUN_CONTROL_PLANE_URL", &self.at.url)
            .env("ARKOR_CLOUD_API_URL", &self.at.url)
            .env("MIDRUN_ORG_SLUG", &self.at.org_slug)
            .env("MIDRUN_PROJECT_SLUG", &self.at.project_slug)
            .env("MIDRUN_CREDENTIALS_FILE", &self.credentials)
    }

    /// Cancels what a runner that ended badly may have left behind, and takes down what is ours.
    async fn leave(self, project: &Project, run: &RunId, well: bool) {
        if !well && let Err(why) = cancel(&self.at, run).await {
            eprintln!("warning: the job of this run may go on at {}: {why}", self.at.url);
        }
        if let Some(own) = self.own {
            own.shutdown(Duration::from_millis(project.settings.control_plane.stop_grace_ms)).await;
        }
    }
}

/// Cancels the job that `run` created, if it did and the job is not over.
async fn cancel(at: &ControlPlane, run: &RunId) -> Result<(), String> {
    let query = [
        ("clientRunId", run.as_str()),
        ("orgSlug", at.org_slug.as_str()),
        ("projectSlug", at.project_slug.as_str()),
    ];
    let url =
        Url::parse_with_params(&format!("{}/v1/jobs/cancel", at.url), query).map_err(|e| e.to_string())?;
    let client = reqwest::Client::builder().timeout(CANCEL_LIMIT).build().map_err(|e| e.to_string())?;
    let answer = client.post(url).bearer_auth(at.token.expose()).send().await;
    match answer.map_err(|error| crate::client::innermost(&error))?.status() {
        StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(()),
        status if status.is_success() => Ok(()),
        status => Err(format!("it answered {status}")),
    }
}

/// Starts `runner` and stays until it has ended.
async fn attend(runner: Launch) -> Result<ExitStatus, Failure> {
    let failed = |error: std::io::Error| {
        Failure::with_advice(
            format!("the runner cannot be started: {error}"),
            "`midrun doctor` looks for node",
        )
    };
    // Before the runner is there: from now on the terminal's signals are its own.
    let mut signals = Signals::arm().map_err(failed)?;
    let runner = runner.dies_with_parent(process::signal::SIGTERM);
    let mut runner = Spawner::get().spawn(runner).await.map_err(failed)?;
    loop {
        tokio::select! {
            ended = runner.wait() => {
                return ended.map_err(|error| Failure::plain(format!("the runner's end was not seen: {error}")));
            }
            () = signals.for_us_alone() => hand_on(&runner),
        }
    }
}

/// A runner that has just ended needs it no more.
fn hand_on(runner: &Child) {
    let _ = runner.pidfd().send(process::signal::SIGTERM);
}

/// The signals that end a program, which must not end this one before its runner.
struct Signals {
    terminate: Signal,
    _for_the_runner: [Signal; 3],
}

impl Signals {
    fn arm() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            // A terminal sends these to the runner too.
            _for_the_runner: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::quit())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    /// SIGTERM: no terminal sends it, so nobody else got it.
    async fn for_us_alone(&mut self) {
        self.terminate.recv().await;
    }
}

fn outcome(ended: ExitStatus) -> Outcome {
    match (ended.code(), ended.signal().and_then(|number| u8::try_from(number).ok())) {
        (Some(code), _) => Outcome::of_run(code),
        (None, Some(number)) => Outcome::by_signal(number),
        (None, None) => Outcome::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_projects_own_entry_or_the_named_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let source = root.join("src/midrun");
        std::fs::create_dir_all(&source).unwrap();
        assert!(matches!(target(&source, None), Err(Failure::Failed { advice: Some(_), .. })));
        for file in ["src/midrun/index.ts", "src/midrun/other.ts"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let entry = |name: &str| EntryPath::from(source.join(name).to_str().unwrap());
        assert_eq!(target(&source, None).unwrap(), (root.clone(), entry("index.ts")));
        assert_eq!(target(&source, Some(Path::new("other.ts"))).unwrap(), (root.clone(), entry("other.ts")));
        assert_eq!(
            target(Path::new("/"), Some(&source.join("other.ts"))).unwrap(),
            (root, entry("other.ts"))
        );
        for odd in ["none.ts", "."] {
            assert!(matches!(target(&source, Some(Path::new(odd))), Err(Failure::Usage(_))), "{odd}");
        }
    }

    #[tokio::test]
    async fn the_runners_end_is_ours() {
        for (script, want) in [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)] {
            let ended = attend(Launch::new("sh").args(["-c", script])).await.unwrap();
            assert_eq!(outcome(ended), Outcome::of_run(want), "{script}");
        }
        let missing = attend(Launch::new("no-such-program-anywhere")).await;
        assert!(matches!(missing, Err(Failure::Failed { advice: Some(_), .. })));
    }
}
