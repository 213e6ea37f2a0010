//! What a run that replaces another one was started from, and what its config changed, key by key.
//!
//! Three configs can differ: the replaced run's own, the one that the checkpoint was trained with (the lineage may
//! have been restarted since), and the new one. A key is told of when the new config differs from either.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::config::canonical;
use wire::{ChangedKey, ResumeFrom};

use crate::resume::{Reached, Start};

/// What a successor was started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Origin {
    /// Where it starts.
    pub(crate) start: Start,
    /// The config of the run that it replaces.
    pub(crate) before: Option<Value>,
    /// The newest checkpoint of the lineage, also where it is not gone on from: a later successor may.
    pub(crate) reached: Option<Reached>,
}

impl Origin {
    /// The checkpoint that the run goes on from.
    pub(crate) fn resume(&self) -> Option<&ResumeFrom> {
        match &self.start {
            Start::At(from) => Some(from),
            Start::Scratch(_) => None,
        }
    }

    /// The keys that `wanted` changes; `used` is what the executor reports to use.
    pub(crate) fn changed(&self, wanted: Option<&Value>, used: Option<&Value>) -> Vec<ChangedKey> {
        let checkpoint = match &self.start {
            Start::At(_) => self.reached.as_ref(),
            Start::Scratch(_) => None,
        };
        let sides = Sides {
            before: self.before.as_ref(),
            asked: checkpoint.and_then(|reached| reached.config.as_ref()),
            in_checkpoint: checkpoint.and_then(|reached| reached.used.as_ref()),
            wanted,
            effective: used,
        };
        let mut changed = Vec::new();
        walk("config", sides, checkpoint.is_some(), &mut changed);
        changed
    }
}

/// One place in each of the configs.
#[derive(Debug, Clone, Copy)]
struct Sides<'a> {
    before: Option<&'a Value>,
    /// What the checkpoint's job was created with.
    asked: Option<&'a Value>,
    /// What its executor reported to use, which has defaults too.
    in_checkpoint: Option<&'a Value>,
    wanted: Option<&'a Value>,
    effective: Option<&'a Value>,
}

impl<'a> Sides<'a> {
    fn each(self, step: impl Fn(&'a Value) -> Option<&'a Value>) -> Self {
        Self {
            before: self.before.and_then(&step),
            asked: self.asked.and_then(&step),
            in_checkpoint: self.in_checkpoint.and_then(&step),
            wanted: self.wanted.and_then(&step),
            effective: self.effective.and_then(&step),
        }
    }

    /// The configs that somebody wrote.
    fn written(self) -> impl Iterator<Item = &'a Value> {
        [self.before, self.asked, self.wanted].into_iter().flatten()
    }
}

/// `resumed` says whether there is a checkpoint to differ from.
fn walk(path: &str, sides: Sides<'_>, resumed: bool, changed: &mut Vec<ChangedKey>) {
    if sides.written().next().is_some() && sides.written().all(Value::is_object) {
        let mut keys: Vec<&String> = Vec::new();
        for key in sides.written().filter_map(Value::as_object).flat_map(|object| object.keys()) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            walk(&wire::config::step(path, key), sides.each(|value| value.get(key)), resumed, changed);
        }
        return;
    }
    let wanted = sides.wanted.map(canonical);
    let same = |other: Option<&Value>| other.map(canonical) == wanted;
    if same(sides.before) && (!resumed || same(sides.asked)) {
        return;
    }
    let in_checkpoint = sides.in_checkpoint.or(sides.asked);
    changed.push(ChangedKey {
        path: path.to_owned(),
        before: sides.before.map(brief),
        in_checkpoint: in_checkpoint.map(brief),
        wanted: sides.wanted.map(brief),
        effective: sides.effective.map(brief),
    });
}

/// Longest text that is told whole, in characters: a config may hold a dataset, and every client gets every change.
const LONGEST_TEXT: usize = 200;
/// Most items of a list that are told.
const MOST_ITEMS: usize = 50;

fn brief(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(LONGEST_TEXT) {
            Some((end, _)) => Value::from(format!("{}…", &text[..end])),
            None => value.clone(),
        },
        Value::Array(items) => {
            let more = (items.len() > MOST_ITEMS).then(|| Value::from("…"));
            items.iter().take(MOST_ITEMS).map(brief).chain(more).collect()
        }
        Value::Object(fields) => {
            let fields = fields.iter().take(MOST_ITEMS).map(|(key, value)| (key.clone(), brief(value)));
            Value::Object(fields.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn origin(before: Value, asked: Value, used: Value) -> Origin {
        let from = ResumeFrom { job: "j1".into(), step: 40 };
        let reached =
            Reached { from: from.clone(), config: Some(asked), used: Some(used), resumable: Some(vec![]) };
        Origin { start: Start::At(from), before: Some(before), reached: Some(reached) }
    }

    fn row(path: &str, [before, in_checkpoint, wanted, effective]: [Value; 4]) -> ChangedKey {
        let set = |value: Value| (!value.is_null()).then_some(value);
        ChangedKey {
            path: path.to_owned(),
            before: set(before),
            in_checkpoint: set(in_checkpoint),
            wanted: set(wanted),
            effective: set(effective),
        }
    }

    #[test]
    fn a_key_is_told_in_all_its_values() {
        let config = json!({"learningRate": 0.001, "model": "m"});
        let origin = origin(
            config.clone(),
            config,
            json!({"learningRate": 0.001, "warmupSteps": 0, "maxGradNorm": 1.0, "model": "m:64"}),
        );
        let wanted = json!({"learningRate": 0.0003, "model": "m", "warmupSteps": 10});
        let before_start = origin.changed(Some(&wanted), None);
        let want = [
            row("config.learningRate", [json!(0.001), json!(0.001), json!(0.0003), json!(null)]),
            row("config.warmupSteps", [json!(null), json!(0), json!(10), json!(null)]),
        ];
        assert_eq!(before_start, want, "a default that nobody changed is no change");
        let used = json!({"learningRate": 0.0003, "warmupSteps": 10, "maxGradNorm": 1.0, "model": "m:64"});
        let effective: Vec<_> = origin.changed(Some(&wanted), Some(&used));
        let effective: Vec<_> = effective.into_iter().map(|row| row.effective).collect();
        assert_eq!(effective, [Some(json!(0.0003)), Some(json!(10))]);
    }

    #[test]
    fn the_checkpoint_may_be_older_than_the_replaced_run() {
        let origin = origin(json!({"lr": 2}), json!({"lr": 1}), json!({"lr": 1}));
        let want = row("config.lr", [json!(2), json!(1), json!(3), json!(null)]);
        assert_eq!(origin.changed(Some(&json!({"lr": 3})), None), [want]);
        // Changed back to what the checkpoint has: it still differs from the run that is replaced.
        let back = row("config.lr", [json!(2), json!(1), json!(1), json!(null)]);
        assert_eq!(origin.changed(Some(&json!({"lr": 1})), None), [back]);
        // As in the replaced run, but not as in the checkpoint.
        let kept = row("config.lr", [json!(2), json!(1), json!(2), json!(null)]);
        assert_eq!(origin.changed(Some(&json!({"lr": 2})), None), [kept]);
    }

    #[test]
    fn from_scratch_there_is_no_checkpoint_to_differ_from() {
        let mut origin = origin(json!({"model": "a"}), json!({"model": "x"}), json!({"model": "x"}));
        origin.start = Start::Scratch("config.model changed".into());
        let want = row("config.model", [json!("a"), json!(null), json!("b"), json!(null)]);
        assert_eq!(origin.changed(Some(&json!({"model": "b"})), None), [want]);
        assert_eq!(origin.changed(Some(&json!({"model": "a"})), None), []);
    }

    #[test]
    fn a_place_inside_is_named_and_a_dataset_is_cut() {
        let before = json!({"data": {"text": "a".repeat(1000), "kind": "inline"}, "gone": 1});
        let after = json!({"data": {"text": "b".repeat(1000), "kind": "inline"}});
        let origin = origin(before.clone(), before.clone(), json!({"gone": 1}));
        let changed = origin.changed(Some(&after), Some(&json!({})));
        let cut = |letter: &str| json!(format!("{}…", letter.repeat(LONGEST_TEXT)));
        let want = [
            row("config.data.text", [cut("a"), cut("a"), cut("b"), json!(null)]),
            row("config.gone", [json!(1), json!(1), json!(null), json!(null)]),
        ];
        assert_eq!(changed, want);
    }
}
