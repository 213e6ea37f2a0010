//! `midrun doctor`: what is here, and what to do about what is not as it should be.
//!
//! It looks and changes nothing. A check that fails is something midrun cannot work with; a warning is something it
//! can.

mod machine;
mod project;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use settings::Settings;

use super::place;
use super::screen::{Own, Screen};
use super::{Failure, Outcome, environment, here};
use crate::project::socket_dir;
use crate::state::{self, ServerFile};
use crate::{cli, credentials};

const STATE_ADVICE: &str =
    "make it a folder that you can write to; midrun keeps runs, logs and artifacts there";
const CONFIG_ADVICE: &str = "set XDG_CONFIG_HOME to a folder that you can write to";
const RUNTIME_ADVICE: &str = "set XDG_RUNTIME_DIR to a folder that you can write to";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Works, but.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, state: State::Ok, what: what.into(), advice: None }
    }

    fn warn(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Warn, what: what.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Fail, what: what.into(), advice: Some(advice.into()) }
    }
}

/// The folders of this user that midrun writes into. None of them has to exist.
struct UserFolders {
    /// Credentials.
    config: PathBuf,
    /// The sockets of run-hosts.
    runtime: PathBuf,
}

/// Carries out `midrun doctor`.
pub(crate) async fn command(args: cli::Doctor) -> Result<Outcome, Failure> {
    let here = here()?;
    let project = place::project_of(&here);
    let folders = UserFolders { config: credentials::user_config_dir(), runtime: socket_dir() };
    let checks = examine(project.as_deref(), &here, &folders, environment()).await;
    Ok(tell(&checks, args.json, &mut Own::outputs().screen())?)
}

/// Every check, for the project at `project` if there is one, else for what could be one at `here`.
async fn examine(
    project: Option<&Path>,
    here: &Path,
    folders: &UserFolders,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<Check> {
    let loaded = settings::load(project.unwrap_or(here), variables);
    let server = project.and_then(ServerFile::read);
    let known = match &loaded {
        Ok(settings) => settings.clone(),
        Err(_) => Settings::default(),
    };
    let mut checks = vec![
        machine::node(&known.run.node, project.unwrap_or(here)).await,
        machine::watches(Path::new(machine::INOTIFY)),
        project::entry(project, here),
        project::settings(&loaded),
        project::server(project, server.as_ref()).await,
        machine::port(&known.gateway, server.as_ref()),
    ];
    checks.extend(project.map(|project| project::runs(project, server.is_some())));
    checks.extend(project.and_then(|project| project::executors(project, server.is_some())));
    let state_dir = state::state_dir(project.unwrap_or(here));
    checks.push(machine::folder("state folder", &state_dir, STATE_ADVICE));
    checks.push(machine::folder("config folder", &folders.config, CONFIG_ADVICE));
    checks.push(machine::folder("runtime folder", &folders.runtime, RUNTIME_ADVICE));
    checks.push(machine::sockets(&folders.runtime));
    checks.push(project::control_plane(known.control_plane.url.as_deref()).await);
    checks
}

fn tell(checks: &[Check], json: bool, screen: &mut Screen<'_>) -> io::Result<Outcome> {
    let works = checks.iter().all(|check| check.state != State::Fail);
    if json {
        screen.json(&json!({ "ok": works, "checks": checks }))?;
    } else {
        let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in checks {
            let mark = mark(check.state, screen.colours);
            screen.line(&format!("{mark}  {:width$}  {}", check.name, check.what))?;
            if let Some(advice) = &check.advice {
                screen.line(&format!("      {:width$}  {advice}", ""))?;
            }
        }
    }
    Ok(if works { Outcome::DONE } else { Outcome::FAILED })
}

fn mark(state: State, colours: bool) -> String {
    let (word, colour) = match state {
        State::Ok => ("ok  ", 32),
        State::Warn => ("warn", 33),
        State::Fail => ("fail", 31),
    };
    if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(checks: &[Check], json: bool, colours: bool) -> (String, Outcome) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = tell(checks, json, &mut Screen { out: &mut out, err: &mut err, colours }).unwrap();
        assert!(err.is_empty());
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[test]
    fn a_warning_is_no_failure() {
        let ok = Check::ok("node", "20.1");
        let warn = Check::warn("settings", "odd", "mend it");
        let fail = Check::fail("server", "silent", "start it");
        let (text, outcome) = told(&[ok.clone(), warn.clone()], false, false);
        assert_eq!(text, "ok    node      20.1\nwarn  settings  odd\n                mend it\n");
        assert_eq!(outcome, Outcome::DONE);
        assert_eq!(told(&[ok.clone(), fail.clone()], false, false).1, Outcome::FAILED);
        assert!(told(std::slice::from_ref(&ok), false, true).0.starts_with("\u{1b}[32mok"));
        let (text, outcome) = told(&[ok, warn, fail], true, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outcome, Outcome::FAILED);
        assert_eq!(value["ok"], false);
        assert_eq!(value["checks"][0], json!({"name": "node", "state": "ok", "what": "20.1"}));
        assert_eq!(value["checks"][2]["advice"], "start it");
        assert_eq!(text.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_crafted_project_gets_its_findings() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().join("project");
        std::fs::create_dir_all(here.join("src/midrun")).unwrap();
        std::fs::write(here.join("src/midrun/index.ts"), "").unwrap();
        std::fs::create_dir(here.join("midrun.toml")).unwrap();
        let folders = UserFolders {
            config: dir.path().join("config/midrun"),
            runtime: dir.path().join("r".repeat(120)),
        };
        let checks = examine(Some(&here), &here, &folders, []).await;
        let state = |name: &str| {
            let found: Vec<_> = checks.iter().filter(|check| check.name == name).collect();
            assert_eq!(found.len(), 1, "{name}: {checks:?}");
            found[0].state
        };
        assert_eq!(state("project"), State::Ok);
        assert_eq!(state("settings"), State::Fail);
        assert_eq!(state("state folder"), State::Ok);
        assert_eq!(state("server"), State::Ok);
        assert_eq!(state("sockets"), State::Fail);
        assert_eq!(state("runs"), State::Ok);
        assert_eq!(state("control plane"), State::Ok);
        assert!(!here.join(".midrun").exists() && !folders.runtime.exists(), "it changes nothing");
        std::fs::write(here.join(".midrun"), "").unwrap();
        let checks = examine(Some(&here), &here, &folders, []).await;
        let state_folder = checks.iter().find(|check| check.name == "state folder").unwrap();
        assert_eq!(state_folder.state, State::Fail, "{}", state_folder.what);
    }
}
