//! `midrun start`: builds a trainer and runs it in this terminal, with no server.
//!
//! This process stays to lend the runner a control plane ([`Plane`]) and to hand on what it is sent ([`attend`]). What
//! must hold: the runner's exit status is this command's; the runner does not outlive this process; a job that the
//! runner left behind is cancelled.

mod attend;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use process::Launch;
use reqwest::{StatusCode, Url};
use serde_json::Value;
use wire::{ControlPlane, EntryPath, RunId};

use self::attend::attend;
use super::screen::{Own, Screen};
use super::{Failure, Outcome, here, place};
use crate::client::Client;
use crate::credentials::Lent;
use crate::project::Project;
use crate::{cli, control, credentials, sdk};

/// How long the control plane may take to be told that a run is over.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// Set by those who choose a control plane by variables alone; the runner reads it.
const TOKEN_VARIABLE: &str = "MIDRUN_CONTROL_PLANE_TOKEN";

/// Carries out `midrun start`.
pub(crate) async fn command(args: &cli::Start) -> Result<Outcome, Failure> {
    let (root, entry) = target(&here()?, args.file.as_deref())?;
    let project = Project::open(&root)?.with_profile_account();
    let state_dir = project.make_state_dir()?;
    let node = &project.settings.run.node;
    manifest_inspector::check_node(node, &project.root).await.map_err(|unfit| unfit.to_string())?;
    let sdk = sdk::make(&project.root, &state_dir)?;
    let artifact = build_watcher::build_once(&project.root, &entry)?;
    let plane = Plane::of(&project, &mut Own::outputs().screen()).await?;
    let run = RunId::fresh();
    let runner = Launch::new(node)
        .arg(&sdk.runner)
        .args(["--artifact", artifact.path.as_str()])
        .current_dir(&project.root);
    let runner = surroundings(runner, &project)?;
    let lent = plane.as_ref().map(|plane| plane.lend(&state_dir, &run)).transpose()?;
    let runner = match plane.as_ref().zip(lent.as_ref()) {
        Some((plane, lent)) => plane.surroundings(runner, lent),
        None => runner,
    };
    let grace = Duration::from_millis(project.settings.run.kill_grace_ms);
    let ended = attend(runner, &run, grace).await;
    drop(lent);
    if let Some(plane) = plane {
        plane.leave(&project, &run, ended.as_ref().is_ok_and(ExitStatus::success)).await;
    }
    match ended {
        Ok(status) => Ok(outcome(status)),
        Err(error) => Err(Failure::with_advice(
            format!("the runner cannot be started and seen to its end: {error}"),
            "`midrun doctor` looks for node",
        )),
    }
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
fn surroundings(runner: Launch, project: &Project) -> Result<Launch, Failure> {
    let wanted = &project.settings.run;
    let signal = wanted.hot_swap_signal_number().map_err(|error| Failure::plain(error.to_string()))?;
    Ok(runner
        .env("MIDRUN_EARLY_STOP_TIMEOUT_MS", wanted.early_stop_timeout_ms.to_string())
        .env("MIDRUN_HOT_SWAP_SIGNAL", signal.to_string())
        // There is no run-host, even where this is called from within a run.
        .env_remove("MIDRUN_CONTROL_FD"))
}

/// A control plane that the runner is told of, where its environment does not say.
struct Plane {
    at: ControlPlane,
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
        if control::elsewhere(project).is_none()
            && let Some(client) = Client::of(&project.root)
        {
            let answer: Value = client?.get(&["api", "credentials"]).await?;
            let Some(url) = answer["baseUrl"].as_str() else {
                return Err(Failure::plain("the running server does not say where its control plane is"));
            };
            // It may have been told of another one than its own, which must not see the project's account.
            let file = credentials::user_config_dir().join("credentials.json");
            let (file, is_own) = control::account_at(project, url, file);
            let at = credentials::sign_in(url, &file, &project.name(), is_own).await?;
            return Ok(Some(Self { at, own: None }));
        }
        let (at, own) = control::connect_once(project).await;
        let Some(at) = at else {
            screen.say(
                "there is no control plane to train on. A trainer that needs none runs all the same; for the others, \
                 correct what is said above",
            );
            return Ok(None);
        };
        Ok(Some(Self { at, own: Some(own) }))
    }

    /// The account, for the runner of `run` alone.
    fn lend(&self, state_dir: &Path, run: &RunId) -> Result<Lent, Failure> {
        let file = state_dir.join(format!("start-{run}.json"));
        Lent::write(file, &self.at)
            .map_err(|error| Failure::plain(format!("the account cannot be lent to the runner: {error}")))
    }

    fn surroundings(&self, runner: Launch, lent: &Lent) -> Launch {
        runner
            .env("MIDRUN_CONTROL_PLANE_URL", &self.at.url)
            .env("ARKOR_CLOUD_API_URL", &self.at.url)
            .env("MIDRUN_ORG_SLUG", &self.at.org_slug)
            .env("MIDRUN_PROJECT_SLUG", &self.at.project_slug)
            .env("MIDRUN_CREDENTIALS_FILE", lent.path())
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

    #[test]
    fn the_runners_end_is_ours() {
        for (status, want) in [(7 << 8, 7), (9, 137), (0, 0)] {
            assert_eq!(outcome(ExitStatus::from_raw(status)), Outcome::of_run(want), "{status}");
        }
    }
}
