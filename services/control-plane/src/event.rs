//! Job events: from an executor's line to what is stored and served. Pure.
//!
//! Whatever an executor prints, a job is not broken by it: a line that is no event is [`Line::Noise`] with the
//! reason, and goes to the job's log. `type`, `jobId` and `timestamp` of a stored event are the control plane's own.

use serde_json::{Map, Value};

use crate::job::JobStatus;

/// The events of a job's history. `ping` and `end` belong to a stream, not to the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    Started,
    Log,
    Checkpoint,
    Completed,
    Failed,
    Cancelled,
}

impl EventKind {
    const ALL: [Self; 6] =
        [Self::Started, Self::Log, Self::Checkpoint, Self::Completed, Self::Failed, Self::Cancelled];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "training.started",
            Self::Log => "training.log",
            Self::Checkpoint => "checkpoint.saved",
            Self::Completed => "training.completed",
            Self::Failed => "training.failed",
            Self::Cancelled => "training.cancelled",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The status that this event puts its job in, if it ends it.
    pub(crate) const fn ending(self) -> Option<JobStatus> {
        match self {
            Self::Completed => Some(JobStatus::Completed),
            Self::Failed => Some(JobStatus::Failed),
            Self::Cancelled => Some(JobStatus::Cancelled),
            Self::Started | Self::Log | Self::Checkpoint => None,
        }
    }
}

/// One event, before it has a sequence number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    pub(crate) step: Option<i64>,
    fields: Map<String, Value>,
}

/// What a line of an executor's stdout is.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    Event(Event),
    /// Not an event, and why.
    Noise(String),
}

impl Line {
    /// Reads one line, without its newline.
    pub(crate) fn parse(line: &[u8]) -> Self {
        match Event::parse(line) {
            Ok(event) => Self::Event(event),
            Err(why) => Self::Noise(why),
        }
    }
}

impl Event {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let mut fields = match serde_json::from_slice(line) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err("not a JSON object".to_owned()),
            Err(error) => return Err(format!("not JSON: {error}")),
        };
        let Some(Value::String(kind)) = fields.shift_remove("type") else {
            return Err("no string under \"type\"".to_owned());
        };
        if kind.starts_with("executor.") {
            return Err("the executor's own affair".to_owned());
        }
        let kind = EventKind::parse(&kind).ok_or_else(|| format!("unknown event type {kind:?}"))?;
        let step = fields.get("step").and_then(Value::as_i64).filter(|step| *step >= 0);
        match kind {
            EventKind::Log | EventKind::Checkpoint if step.is_none() => {
                return Err(format!("{} without a whole \"step\" of 0 or more", kind.as_str()));
            }
            EventKind::Failed if !fields.get("error").is_some_and(Value::is_string) => {
                fields.insert("error".to_owned(), "the executor gave no reason".into());
            }
            EventKind::Checkpoint | EventKind::Completed => {
                fields.entry("artifacts").or_insert_with(|| Value::Array(Vec::new()));
                if kind == EventKind::Completed {
                    fields.entry("metrics").or_insert_with(|| Value::Object(Map::new()));
                }
            }
            _ => {}
        }
        Ok(Self { kind, step, fields })
    }

    pub(crate) fn started() -> Self {
        Self { kind: EventKind::Started, step: None, fields: Map::new() }
    }

    pub(crate) fn cancelled() -> Self {
        Self { kind: EventKind::Cancelled, step: None, fields: Map::new() }
    }

    pub(crate) fn failed(error: &str) -> Self {
        let fields = Map::from_iter([("error".to_owned(), error.into())]);
        Self { kind: EventKind::Failed, step: None, fields }
    }

    /// Takes a field out, so that it is not served.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.fields.shift_remove(key)
    }

    pub(crate) fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// The reason of a `training.failed`.
    pub(crate) fn error(&self) -> Option<&str> {
        self.fields.get("error").and_then(Value::as_str).filter(|_| self.kind == EventKind::Failed)
    }

    /// The object as it is stored and served: `type, jobId, timestamp` first, then the executor's own keys.
    pub(crate) fn render(&self, job_id: &str, timestamp: &str) -> String {
        let mut object = preamble(self.kind.as_str(), job_id, timestamp);
        for (key, value) in &self.fields {
            object.entry(key.as_str()).or_insert_with(|| value.clone());
        }
        Value::Object(object).to_string()
    }
}

/// The keys that every data object has.
pub(crate) fn preamble(kind: &str, job_id: &str, timestamp: &str) -> Map<String, Value> {
    Map::from_iter([
        ("type".to_owned(), kind.into()),
        ("jobId".to_owned(), job_id.into()),
        ("timestamp".to_owned(), timestamp.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        match Line::parse(line.as_bytes()) {
            Line::Event(event) => event,
            Line::Noise(why) => panic!("{line}: {why}"),
        }
    }

    #[test]
    fn lines_that_are_no_events_are_noise_with_a_reason() {
        for (line, why) in [
            ("", "not JSON"),
            ("hello", "not JSON"),
            ("[1]", "not a JSON object"),
            ("{}", "no string under"),
            (r#"{"type":7}"#, "no string under"),
            (r#"{"type":"ping"}"#, "unknown event type"),
            (r#"{"type":"end"}"#, "unknown event type"),
            (r#"{"type":"executor.stopped","step":3}"#, "own affair"),
            (r#"{"type":"training.log"}"#, "without a whole"),
            (r#"{"type":"training.log","step":-1}"#, "without a whole"),
            (r#"{"type":"checkpoint.saved","step":1.5}"#, "without a whole"),
            (r#"{"type":"training.log","step":1,"loss":NaN}"#, "not JSON"),
        ] {
            match Line::parse(line.as_bytes()) {
                Line::Noise(reason) => assert!(reason.contains(why), "{line}: {reason}"),
                Line::Event(event) => panic!("{line} became {event:?}"),
            }
        }
        assert!(matches!(Line::parse(b"\xff\xfe"), Line::Noise(_)));
    }

    #[test]
    fn the_control_planes_own_keys_win_and_come_first() {
        let log = event(
            r#"{"jobId":"forged","step":3,"type":"training.log","timestamp":"never","loss":0.5,"x":1}"#,
        );
        assert_eq!(
            log.render("j1", "T"),
            r#"{"type":"training.log","jobId":"j1","timestamp":"T","step":3,"loss":0.5,"x":1}"#
        );
        assert_eq!(log.step, Some(3));
    }

    #[test]
    fn what_clients_rely_on_is_always_there() {
        assert_eq!(
            event(r#"{"type":"training.completed"}"#).render("j", "T"),
            r#"{"type":"training.completed","jobId":"j","timestamp":"T","artifacts":[],"metrics":{}}"#
        );
        assert_eq!(event(r#"{"type":"training.failed"}"#).error(), Some("the executor gave no reason"));
        assert_eq!(event(r#"{"type":"training.failed","error":"oom"}"#).error(), Some("oom"));
        assert!(event(r#"{"type":"checkpoint.saved","step":1}"#).field("artifacts").is_some());
    }

    #[test]
    fn every_kind_has_one_name_and_three_end_a_job() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(EventKind::ALL.into_iter().filter_map(EventKind::ending).count(), 3);
    }
}
