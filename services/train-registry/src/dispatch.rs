//! The dispatch decision: a pure function from a run and a good build to what happens to the run.
//!
//! It knows no clock, no process and no actor. What must hold:
//!
//! - a run that executes, or was told to execute, the build's bytes is left alone;
//! - a run that is not armed is left alone until it is;
//! - a run that is ending is left alone: its successor starts on the newest good build;
//! - callbacks are swapped only into a run whose config is known to equal the build's.

use serde_json::Value;
use wire::config::{ConfigChange, diff};
use wire::manifest::{Good, Manifest};
use wire::{ConfigHash, ContentHash, Decision};

use crate::resume::RestartFrom;

/// Where a run stands, as far as the decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not armed yet.
    Starting,
    /// Armed.
    Running,
    /// Asked to end after its next checkpoint.
    EarlyStopping,
    /// Being ended now.
    Stopping,
}

/// A live run, as far as the decision depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Subject<'a> {
    /// Where it stands.
    pub(crate) stage: Stage,
    /// The bytes it executes, or was last told to execute.
    pub(crate) told: &'a ContentHash,
    /// The config it was started with.
    pub(crate) config_hash: Option<&'a ConfigHash>,
    /// That config; absent when its trainer does not tell, or what it was started with is not known.
    pub(crate) config: Option<&'a Value>,
    /// What the bytes it was last told to execute say; absent when that is not known.
    pub(crate) manifest: Option<&'a Manifest>,
    /// Whether its trainer can take new callbacks.
    pub(crate) can_swap: bool,
}

/// What the server was told to do and not to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Never restart a run by itself.
    pub hot_only: bool,
    /// Where successors start.
    pub restart_from: RestartFrom,
}

/// A decision and what decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What happens.
    pub(crate) decision: Decision,
    /// What decided it, for a person.
    pub(crate) why: String,
}

/// Decides what `build` means for `run`.
pub(crate) fn decide(run: &Subject<'_>, build: &Good, policy: Policy) -> Verdict {
    let verdict = |decision, why: String| Verdict { decision, why };
    match run.stage {
        Stage::Starting => return verdict(Decision::Wait, "its runner is not armed yet".into()),
        Stage::EarlyStopping => {
            return verdict(Decision::Nothing, "already stopping; the newest good build starts next".into());
        }
        Stage::Stopping => return verdict(Decision::Nothing, "already being stopped".into()),
        Stage::Running => {}
    }
    if *run.told == build.artifact.content_hash {
        return verdict(Decision::Nothing, "same bytes".into());
    }
    if build.manifest.trainer.is_none() {
        return verdict(Decision::Nothing, "the new build exposes no trainer".into());
    }
    let same_config = run.config_hash.is_some() && run.config_hash == build.manifest.config_hash.as_ref();
    if same_config && run.can_swap && build.manifest.can_swap {
        return verdict(Decision::HotSwap, changed_callbacks(run.manifest, &build.manifest));
    }
    let why = if same_config {
        "this trainer cannot take new callbacks".to_owned()
    } else {
        changed_config(run, &build.manifest)
    };
    verdict(if policy.hot_only { Decision::WouldRestart } else { Decision::Restart }, why)
}

/// Names the callbacks whose text differs.
fn changed_callbacks(before: Option<&Manifest>, now: &Manifest) -> String {
    let Some(before) = before else { return "only callbacks changed".into() };
    let edited = now.callbacks.iter().filter(|(name, text)| before.callbacks.get(*name) != Some(*text));
    let removed = before.callbacks.keys().filter(|name| !now.callbacks.contains_key(*name));
    let mut names: Vec<&str> = edited.map(|(name, _)| name).chain(removed).map(String::as_str).collect();
    names.sort_unstable();
    if names.is_empty() {
        // The text of each callback is the same, so what they call has changed.
        "only code behind the callbacks changed".into()
    } else {
        format!("only callbacks changed: {}", names.join(", "))
    }
}

/// The first few places where the config differs.
fn changed_config(run: &Subject<'_>, now: &Manifest) -> String {
    if run.config_hash.is_none() || now.config_hash.is_none() {
        return "this trainer does not tell its config, so a change to it cannot be ruled out".into();
    }
    match (run.config, now.config.as_ref()) {
        (Some(before), Some(after)) => say(&diff(before, after)),
        _ => "the config changed".into(),
    }
}

/// Changes that are named in a sentence; the rest is counted.
const NAMED: usize = 3;

/// `config.learningRate 0.001 -> 0.0003, … and 2 more`.
pub(crate) fn say(changes: &[ConfigChange]) -> String {
    if changes.is_empty() {
        return "the config the run reported differs from the one the build reports".into();
    }
    let mut text: Vec<String> = changes.iter().take(NAMED).map(ToString::to_string).collect();
    if changes.len() > NAMED {
        text.push(format!("and {} more", changes.len() - NAMED));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wire::Artifact;

    fn manifest(config: Option<Value>, on_log: &str) -> Manifest {
        Manifest {
            trainer: Some("t".into()),
            config_hash: config.as_ref().map(ConfigHash::of),
            config,
            callbacks: [("onLog".to_owned(), on_log.to_owned()), ("onStarted".to_owned(), "s".to_owned())]
                .into_iter()
                .collect(),
            can_swap: true,
        }
    }

    fn good(bytes: &str, manifest: Manifest) -> Good {
        let content_hash = ContentHash::of(bytes.as_bytes());
        Good { artifact: Artifact { content_hash, path: format!("/{bytes}"), size: 1 }, manifest }
    }

    /// One row of the table: a run (stage, told bytes, config, swaps?), a build (bytes, config), the decision.
    struct Row {
        what: &'static str,
        stage: Stage,
        told: &'static str,
        run_config: Option<Value>,
        can_swap: bool,
        build: Good,
        policy: Policy,
        want: (Decision, &'static str),
    }

    fn table() -> Vec<Row> {
        let lr = |x: f64| Some(json!({"learningRate": x}));
        let base = |what, want| Row {
            what,
            stage: Stage::Running,
            told: "a",
            run_config: lr(0.001),
            can_swap: true,
            build: good("b", manifest(lr(0.001), "2")),
            policy: Policy::default(),
            want,
        };
        let other_config = good("b", manifest(lr(0.0003), "1"));
        let restart = "config.learningRate 0.001 -> 0.0003";
        let no_tell = "this trainer does not tell its config, so a change to it cannot be ruled out";
        let mut no_trainer = good("b", manifest(None, "1"));
        no_trainer.manifest.trainer = None;
        vec![
            Row { told: "b", ..base("already runs these bytes", (Decision::Nothing, "same bytes")) },
            Row {
                told: "b",
                run_config: lr(9.0),
                ..base("these bytes, whatever the config says", (Decision::Nothing, "same bytes"))
            },
            Row {
                stage: Stage::EarlyStopping,
                build: other_config.clone(),
                ..base(
                    "is early-stopping",
                    (Decision::Nothing, "already stopping; the newest good build starts next"),
                )
            },
            Row {
                stage: Stage::Stopping,
                ..base("is stopping", (Decision::Nothing, "already being stopped"))
            },
            Row {
                stage: Stage::Starting,
                build: other_config.clone(),
                ..base("is not armed", (Decision::Wait, "its runner is not armed yet"))
            },
            base("same config, new bytes", (Decision::HotSwap, "only callbacks changed: onLog")),
            Row {
                build: good("b", manifest(lr(0.001), "1")),
                ..base(
                    "same callbacks, new bytes",
                    (Decision::HotSwap, "only code behind the callbacks changed"),
                )
            },
            Row {
                can_swap: false,
                ..base(
                    "same config, can't swap",
                    (Decision::Restart, "this trainer cannot take new callbacks"),
                )
            },
            Row { build: other_config.clone(), ..base("other config", (Decision::Restart, restart)) },
            Row {
                build: other_config,
                policy: Policy { hot_only: true, ..Policy::default() },
                ..base("other config, hot only", (Decision::WouldRestart, restart))
            },
            Row { run_config: None, ..base("the run tells no config", (Decision::Restart, no_tell)) },
            Row {
                build: good("b", manifest(None, "1")),
                ..base("the build tells no config", (Decision::Restart, no_tell))
            },
            Row {
                run_config: None,
                build: good("b", manifest(None, "1")),
                ..base("neither tells a config", (Decision::Restart, no_tell))
            },
            Row {
                build: no_trainer,
                ..base("no trainer", (Decision::Nothing, "the new build exposes no trainer"))
            },
        ]
    }

    #[test]
    fn the_table() {
        for row in table() {
            let before = manifest(row.run_config.clone(), "1");
            let told = ContentHash::of(row.told.as_bytes());
            let run = Subject {
                stage: row.stage,
                told: &told,
                config_hash: before.config_hash.as_ref(),
                config: before.config.as_ref(),
                manifest: Some(&before),
                can_swap: row.can_swap,
            };
            let got = decide(&run, &row.build, row.policy);
            assert_eq!((got.decision, got.why.as_str()), row.want, "{}", row.what);
        }
    }

    #[test]
    fn many_changes_are_counted() {
        let a = json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1});
        let b = json!({"a": 2, "b": 2, "c": 2, "d": 2, "e": 2});
        assert_eq!(say(&diff(&a, &b)), "config.a 1 -> 2, config.b 1 -> 2, config.c 1 -> 2, and 2 more");
    }
}
