//! From a worker's facts to a manifest, and the manifests of bytes that were seen before.

use std::collections::VecDeque;

use serde_json::Value;
use wire::{ConfigHash, ContentHash, Failure, Manifest};

use crate::protocol::Facts;

/// The manifest that `facts` amount to.
///
/// # Errors
/// The config is text that no JSON reader has to accept, such as half of a surrogate pair.
pub(crate) fn manifest(facts: Facts) -> Result<Manifest, Failure> {
    let config = facts.config.map(|text| serde_json::from_str::<Value>(&text)).transpose();
    let config = config.map_err(|error| {
        Failure::plain(format!(
            "the config cannot be sent: {error}; a string in it may hold half of a surrogate pair, or objects may be \
             nested too deeply"
        ))
    })?;
    Ok(Manifest {
        trainer: facts.trainer.map(|trainer| trainer.name),
        config_hash: config.as_ref().map(ConfigHash::of),
        config,
        callbacks: facts.callbacks,
        can_swap: facts.can_swap,
    })
}

/// Manifests by the bytes that they are of. Failures are not kept: they may have had reasons outside the bytes.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Oldest first, each with about how many bytes it holds.
    kept: VecDeque<(ContentHash, Manifest, usize)>,
    bytes: usize,
}

/// Going back further than this costs an evaluation.
const MOST_KEPT: usize = 32;

/// A config may have a whole dataset in it.
const MOST_BYTES: usize = 1 << 20;

impl Known {
    pub(crate) fn get(&self, hash: &ContentHash) -> Option<&Manifest> {
        self.kept.iter().find(|(known, ..)| known == hash).map(|(_, manifest, _)| manifest)
    }

    /// Keeps `manifest`, whose config was `size` bytes of text.
    pub(crate) fn put(&mut self, hash: ContentHash, manifest: Manifest, size: usize) {
        self.kept.retain(|(known, _, size)| {
            let other = *known != hash;
            self.bytes -= if other { 0 } else { *size };
            other
        });
        self.bytes += size;
        self.kept.push_back((hash, manifest, size));
        while self.kept.len() > MOST_KEPT || self.bytes > MOST_BYTES {
            let Some((.., size)) = self.kept.pop_front() else { return };
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Trainer;

    fn facts(config: Option<&str>) -> Facts {
        Facts {
            trainer: Some(Trainer { name: "t".into() }),
            config: config.map(Into::into),
            callbacks: [("onLog".to_owned(), "ab".to_owned())].into(),
            can_swap: true,
        }
    }

    #[test]
    fn facts_become_a_manifest() {
        let told = manifest(facts(Some(r#"{"b":1,"a":[null]}"#))).unwrap();
        assert_eq!(told.trainer.as_deref(), Some("t"));
        assert_eq!(told.config_hash, Some(ConfigHash::of(&serde_json::json!({"a": [null], "b": 1.0}))));
        assert_eq!(told.config.unwrap().to_string(), r#"{"b":1,"a":[null]}"#, "the order is the sender's");
        let silent = manifest(facts(None)).unwrap();
        assert_eq!((silent.config, silent.config_hash), (None, None));
        let nothing = manifest(facts(Some("null"))).unwrap();
        assert!(nothing.config_hash.is_some(), "null is a config");
        let odd = manifest(facts(Some(r#"{"a":"\ud800"}"#))).unwrap_err();
        assert!(odd.message.contains("half of a surrogate pair"), "{}", odd.message);
    }

    #[test]
    fn what_is_known_is_bounded_in_number_and_size() {
        let mut known = Known::default();
        let name = |n: usize| ContentHash::from(n.to_string());
        for n in 0..100 {
            known.put(name(n), manifest(facts(None)).unwrap(), 10);
        }
        assert!(known.get(&name(99)).is_some() && known.get(&name(100 - MOST_KEPT)).is_some());
        assert!(known.get(&name(99 - MOST_KEPT)).is_none());
        assert_eq!(known.bytes, MOST_KEPT * 10);
        known.put(name(7), manifest(facts(None)).unwrap(), MOST_BYTES - 10);
        assert_eq!((known.kept.len(), known.bytes), (2, MOST_BYTES));
        known.put(name(7), manifest(facts(None)).unwrap(), 0);
        assert_eq!((known.kept.len(), known.bytes), (2, 10));
        known.put(name(8), manifest(facts(None)).unwrap(), MOST_BYTES + 1);
        assert_eq!((known.kept.len(), known.bytes), (0, 0), "what is too large is not kept");
    }
}
