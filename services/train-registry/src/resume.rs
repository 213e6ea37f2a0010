//! Where a successor starts: a pure function from what its lineage reached and what the new build wants.
//!
//! What must hold:
//!
//! - a successor goes on only from a checkpoint that a run of its lineage told of, and from the newest such;
//! - it does so only when every key that differs from the config of the checkpoint's job is one that the executor of
//!   that job declared resumable; else it starts from scratch, and what forced that is named.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::ResumeFrom;
use wire::config::canonical;

/// Where the server was told that successors start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartFrom {
    /// At the checkpoint that the early stop reached, where that is possible.
    #[default]
    Checkpoint,
    /// At the first step, always.
    Scratch,
}

/// The newest checkpoint of a lineage, and what is known of the job that saved it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reached {
    /// The checkpoint.
    pub(crate) from: ResumeFrom,
    /// The config that the job was created with, if its trainer tells.
    pub(crate) config: Option<Value>,
    /// The config that its executor reported to use.
    pub(crate) used: Option<Value>,
    /// The keys that its executor lets differ; absent when it does not say.
    pub(crate) resumable: Option<Vec<String>>,
}

/// Where a successor starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Start {
    /// At a checkpoint.
    At(ResumeFrom),
    /// At the first step, for this reason.
    Scratch(String),
}

impl fmt::Display for Start {
    /// `resumes at step 40`, `from scratch: config.model changed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(ResumeFrom { step, .. }) => write!(f, "resumes at step {step}"),
            Self::Scratch(why) => write!(f, "from scratch: {why}"),
        }
    }
}

/// Decides where a successor with the config `wanted` starts.
pub(crate) fn decide(policy: RestartFrom, reached: Option<&Reached>, wanted: Option<&Value>) -> Start {
    match possible(policy, reached, wanted) {
        Ok(from) => Start::At(from.clone()),
        Err(why) => Start::Scratch(why),
    }
}

fn possible<'a>(
    policy: RestartFrom,
    reached: Option<&'a Reached>,
    wanted: Option<&Value>,
) -> Result<&'a ResumeFrom, String> {
    if policy == RestartFrom::Scratch {
        return Err("restart.from is \"scratch\"".into());
    }
    let reached = reached.ok_or("no checkpoint was reached")?;
    let Some(resumable) = &reached.resumable else {
        return Err("its executor does not say which keys may change".into());
    };
    let (Some(Value::Object(before)), Some(Value::Object(wanted))) = (&reached.config, wanted) else {
        return Err("this trainer does not tell its config".into());
    };
    let keys: BTreeSet<&String> = before.keys().chain(wanted.keys()).collect();
    let same = |key: &str| before.get(key).map(canonical) == wanted.get(key).map(canonical);
    let fixed = |key: &str| !resumable.iter().any(|resumable| resumable == key);
    let forcing: Vec<&str> =
        keys.into_iter().map(String::as_str).filter(|key| !same(key) && fixed(key)).collect();
    match forcing.as_slice() {
        [] => Ok(&reached.from),
        keys => Err(format!("{} changed", list(keys))),
    }
}

/// Keys that are named in a sentence; the rest is counted.
const NAMED: usize = 3;

/// `config.a, config.b, config.c and 2 more`.
fn list(keys: &[&str]) -> String {
    let named: Vec<String> = keys.iter().take(NAMED).map(|key| format!("config.{key}")).collect();
    match keys.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reached(config: Value) -> Reached {
        Reached {
            from: ResumeFrom { job: "j1".into(), step: 40 },
            config: Some(config),
            used: None,
            resumable: Some(vec!["learningRate".into(), "maxSteps".into(), "schedule".into()]),
        }
    }

    #[test]
    fn the_table() {
        use RestartFrom::{Checkpoint, Scratch};
        let base = || {
            reached(
                json!({"model": "m", "learningRate": 0.001, "seed": 1, "schedule": {"warmup": 1}, "data": [1, 2]}),
            )
        };
        let wanted = |change: Value| {
            let mut config = base().config.expect("it has one");
            for (key, value) in change.as_object().expect("an object") {
                config[key] = value.clone();
            }
            config
        };
        let without = |key: &str| {
            let mut config = base().config.expect("it has one");
            config.as_object_mut().expect("an object").remove(key);
            config
        };
        let resumes = "resumes at step 40";
        let table = [
            ("nothing changed", base(), Checkpoint, Some(wanted(json!({}))), resumes),
            ("a resumable key", base(), Checkpoint, Some(wanted(json!({"learningRate": 0.0003}))), resumes),
            ("another spelling of a number", base(), Checkpoint, Some(wanted(json!({"seed": 1.0}))), resumes),
            (
                "a resumable key that is new",
                base(),
                Checkpoint,
                Some(wanted(json!({"maxSteps": 9}))),
                resumes,
            ),
            ("a resumable key that is gone", base(), Checkpoint, Some(without("learningRate")), resumes),
            (
                "inside a resumable key",
                base(),
                Checkpoint,
                Some(wanted(json!({"schedule": {"warmup": 2}}))),
                resumes,
            ),
            (
                "another key",
                base(),
                Checkpoint,
                Some(wanted(json!({"model": "n"}))),
                "from scratch: config.model changed",
            ),
            (
                "another key beside a resumable one",
                base(),
                Checkpoint,
                Some(wanted(json!({"model": "n", "learningRate": 1}))),
                "from scratch: config.model changed",
            ),
            (
                "a key that is gone",
                base(),
                Checkpoint,
                Some(without("seed")),
                "from scratch: config.seed changed",
            ),
            (
                "a key that nobody knows",
                base(),
                Checkpoint,
                Some(wanted(json!({"learningrate": 1}))),
                "from scratch: config.learningrate changed",
            ),
            (
                "inside another key",
                base(),
                Checkpoint,
                Some(wanted(json!({"data": [1, 3]}))),
                "from scratch: config.data changed",
            ),
            (
                "many keys",
                base(),
                Checkpoint,
                Some(wanted(json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}))),
                "from scratch: config.a, config.b, config.c and 2 more changed",
            ),
            (
                "told to start from scratch",
                base(),
                Scratch,
                Some(wanted(json!({"learningRate": 1}))),
                "from scratch: restart.from is \"scratch\"",
            ),
            (
                "an executor that declares nothing resumable",
                Reached { resumable: Some(vec![]), ..base() },
                Checkpoint,
                Some(wanted(json!({"learningRate": 1}))),
                "from scratch: config.learningRate changed",
            ),
            (
                "such an executor, and nothing changed",
                Reached { resumable: Some(vec![]), ..base() },
                Checkpoint,
                Some(wanted(json!({}))),
                resumes,
            ),
            (
                "an executor that does not say",
                Reached { resumable: None, ..base() },
                Checkpoint,
                Some(wanted(json!({}))),
                "from scratch: its executor does not say which keys may change",
            ),
            (
                "the new trainer tells no config",
                base(),
                Checkpoint,
                None,
                "from scratch: this trainer does not tell its config",
            ),
            (
                "the old trainer told none",
                Reached { config: None, ..base() },
                Checkpoint,
                Some(wanted(json!({}))),
                "from scratch: this trainer does not tell its config",
            ),
        ];
        for (what, reached, policy, wanted, want) in table {
            assert_eq!(decide(policy, Some(&reached), wanted.as_ref()).to_string(), want, "{what}");
        }
        let nowhere = decide(Checkpoint, None, Some(&wanted(json!({}))));
        assert_eq!(nowhere.to_string(), "from scratch: no checkpoint was reached");
    }

    #[test]
    fn what_is_resumed_is_what_was_reached() {
        let reached = reached(json!({"learningRate": 1}));
        let start = decide(RestartFrom::Checkpoint, Some(&reached), Some(&json!({"learningRate": 2})));
        assert_eq!(start, Start::At(ResumeFrom { job: "j1".into(), step: 40 }));
    }
}
