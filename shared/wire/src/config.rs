//! The job config's identity and what changed between two of them.
//!
//! The hash is over the canonical form of RFC 8785, so it does not depend on the order of keys or on how numbers
//! were spelled. The runner computes the same hash in TypeScript.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Digest as _;

/// SHA-256 of the canonical JSON (RFC 8785) of a job config, lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigHash(String);

impl ConfigHash {
    /// The hash of `config`.
    pub fn of(config: &Value) -> Self {
        Self(crate::id::hex(&sha2::Sha256::digest(canonical(config))))
    }

    /// The hash as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ConfigHash {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The canonical JSON of `value` (RFC 8785).
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("a JSON value always has a canonical form")
}

/// One place where two configs differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Where, such as `config.learningRate` or `config.stages[2].name`.
    pub path: String,
    /// The value before; absent when the key is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The value now; absent when the key is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

impl std::fmt::Display for ConfigChange {
    /// `config.learningRate 0.001 -> 0.0003`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.path, brief(self.from.as_ref()), brief(self.to.as_ref()))
    }
}

/// Longest value that is shown whole in a sentence, in characters.
const BRIEF: usize = 40;

fn brief(value: Option<&Value>) -> String {
    let Some(value) = value else { return "(absent)".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(BRIEF) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Every place where `from` and `to` differ, in the order of the keys. Arrays are compared by position.
pub fn diff(from: &Value, to: &Value) -> Vec<ConfigChange> {
    let mut changes = Vec::new();
    walk("config", Some(from), Some(to), &mut changes);
    changes
}

fn walk(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<ConfigChange>) {
    match (from, to) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                walk(&step(path, key), a.get(key), b.get(key), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for place in 0..a.len().max(b.len()) {
                walk(&format!("{path}[{place}]"), a.get(place), b.get(place), changes);
            }
        }
        (from, to) => {
            let same = match (from, to) {
                (Some(a), Some(b)) => canonical(a) == canonical(b),
                (None, None) => true,
                _ => false,
            };
            if !same {
                changes.push(ConfigChange { path: path.to_owned(), from: from.cloned(), to: to.cloned() });
            }
        }
    }
}

/// The place of `key` inside the object at `path`: `config.key`, or `config["odd key"]`.
pub fn step(path: &str, key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$') && !key.is_empty();
    if plain { format!("{path}.{key}") } else { format!("{path}[{}]", Value::from(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_hash_ignores_order_and_spelling_of_numbers() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":{"x":1e2,"y":0.5}}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b":{"y":5e-1,"x":100.0},"a":1.0}"#).unwrap();
        assert_eq!(ConfigHash::of(&a), ConfigHash::of(&b));
        assert_eq!(diff(&a, &b), []);
    }

    #[test]
    fn a_difference_names_its_place() {
        let a = json!({"learningRate": 0.001, "stages": [{"n": 1}], "gone": true, "odd key": 1});
        let b = json!({"learningRate": 0.0003, "stages": [{"n": 2}, {}], "odd key": 2, "new": null});
        let said: Vec<_> = diff(&a, &b).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "config.learningRate 0.001 -> 0.0003",
                "config.stages[0].n 1 -> 2",
                "config.stages[1] (absent) -> {}",
                "config.gone true -> (absent)",
                r#"config["odd key"] 1 -> 2"#,
                "config.new (absent) -> null",
            ]
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn configs_hash_alike_exactly_when_nothing_differs(a in any_json(), b in any_json()) {
            prop_assert_eq!(ConfigHash::of(&a) == ConfigHash::of(&b), diff(&a, &b).is_empty());
            prop_assert!(diff(&a, &a).is_empty());
        }
    }
}
