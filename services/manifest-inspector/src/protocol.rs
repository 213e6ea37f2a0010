//! What the inspector and its workers say to each other: JSON objects a line, over the worker's file descriptor 3.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// To a worker: evaluate this artifact.
#[derive(Debug, Serialize)]
pub(crate) struct Request<'a> {
    pub(crate) id: u64,
    pub(crate) path: &'a str,
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum Reply {
    /// It is ready for requests.
    Hello {
        /// Always true.
        hello: bool,
        /// The version, such as `v20.20.2`.
        node: String,
    },
    /// The artifact that was evaluated last, if any, ends the worker's process.
    Exit {
        /// Absent when no evaluation was under way.
        id: Option<u64>,
        exit: i32,
    },
    /// Something that an earlier artifact left behind threw.
    Stray { stray: Thrown },
    /// The request is being evaluated although an earlier one still is.
    Started {
        id: u64,
        /// Always true.
        started: bool,
    },
    /// The artifact threw.
    Threw { id: u64, error: Thrown, rss_bytes: u64 },
    /// The artifact was evaluated.
    Told {
        id: u64,
        #[serde(flatten)]
        facts: Facts,
        rss_bytes: u64,
    },
}

/// What user code threw.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Thrown {
    pub(crate) name: String,
    pub(crate) message: String,
    /// As V8 writes it; empty for what is no error.
    pub(crate) stack: String,
}

/// The facts about a trainer, as the worker found them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    pub(crate) trainer: Option<Trainer>,
    /// What `JSON.stringify` made of the config.
    pub(crate) config: Option<String>,
    pub(crate) callbacks: BTreeMap<String, String>,
    pub(crate) can_swap: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Trainer {
    pub(crate) name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reply {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_reply_is_told_from_the_others() {
        let error = r#"{"name":"E","message":"m","stack":"s"}"#;
        let thrown = Thrown { name: "E".into(), message: "m".into(), stack: "s".into() };
        assert_eq!(
            read(r#"{"hello":true,"node":"v20.1.0"}"#),
            Reply::Hello { hello: true, node: "v20.1.0".into() }
        );
        assert_eq!(read(r#"{"id":null,"exit":3}"#), Reply::Exit { id: None, exit: 3 });
        assert_eq!(read(r#"{"id":4,"exit":0}"#), Reply::Exit { id: Some(4), exit: 0 });
        assert_eq!(read(&format!(r#"{{"stray":{error}}}"#)), Reply::Stray { stray: thrown.clone() });
        assert_eq!(read(r#"{"id":4,"started":true}"#), Reply::Started { id: 4, started: true });
        let threw = format!(r#"{{"id":4,"ok":false,"error":{error},"rssBytes":5}}"#);
        assert_eq!(read(&threw), Reply::Threw { id: 4, error: thrown, rss_bytes: 5 });
        let told = r#"{"id":4,"ok":true,"trainer":{"name":"t"},"config":"{}","callbacks":{"onLog":"ab"},
            "canSwap":true,"canEarlyStop":true,"brand":"midrun","evaluateMs":0.5,"rssBytes":5}"#;
        let Reply::Told { id: 4, facts, rss_bytes: 5 } = read(told) else { panic!("told otherwise") };
        assert_eq!(facts.trainer, Some(Trainer { name: "t".into() }));
        assert_eq!((facts.config.as_deref(), facts.can_swap), (Some("{}"), true));
        assert_eq!(facts.callbacks, BTreeMap::from([("onLog".into(), "ab".into())]));
    }
}
