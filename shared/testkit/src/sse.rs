//! A reader of an event stream, with everything it has seen and when.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::{Client, Streamed};
use crate::growing::{Grower, Growing, growing};

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's name.
    pub name: String,
    /// Its id; empty when it has none.
    pub id: String,
    /// Its data.
    pub data: Value,
    /// When its last byte was read.
    pub at: Instant,
}

impl Event {
    /// The text at `key`; empty when there is none.
    pub fn text(&self, key: &str) -> &str {
        self.data[key].as_str().unwrap_or_default()
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data: String = self.data.to_string().chars().take(600).collect();
        write!(f, "{} {} {data}", self.id, self.name)
    }
}

/// An open stream and a place in it: waits go forward, so one event answers one wait.
#[derive(Debug)]
pub struct Sse {
    /// The stream's path.
    target: String,
    /// The answer's status.
    pub status: u16,
    seen: Growing<Vec<Event>>,
    place: usize,
    reader: JoinHandle<()>,
}

/// Events that a failure shows.
const SHOWN: usize = 8;

impl Sse {
    /// Opens the stream at `target`, after `last_event_id` where that is given.
    pub async fn open(client: &Client, target: &str, last_event_id: Option<&str>) -> Self {
        let mut ask = client.ask("GET", target).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            ask = ask.header("last-event-id", id);
        }
        Self::of(ask.open().await, target)
    }

    /// Reads the stream of an answer.
    pub fn of(answer: Streamed, target: &str) -> Self {
        let status = answer.status;
        if status == 200 {
            let kind = answer.header("content-type");
            assert!(kind.starts_with("text/event-stream"), "{target} is no event stream but {kind:?}");
        }
        let (grower, seen) = growing();
        let reader = tokio::spawn(read(answer, grower));
        Self { target: target.to_owned(), status, seen, place: 0, reader }
    }

    /// The next event that `wanted` accepts; those before it are passed over.
    ///
    /// # Panics
    /// With `what` and the last events when it does not come within [`crate::LIMIT`].
    pub async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait_within(crate::LIMIT, what, wanted).await
    }

    /// The same, within `limit`.
    pub async fn wait_within(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        let mut place = self.place;
        let find = |seen: &mut Vec<Event>| {
            let found = seen[place..].iter().position(&wanted);
            let at = found.map(|offset| place + offset);
            place = at.map_or(seen.len(), |at| at + 1);
            at.map(|at| seen[at].clone())
        };
        let found = self.seen.find(limit, find).await;
        self.place = place;
        found.unwrap_or_else(|why| {
            panic!("{}: no {what}: {why}; the last events:\n{}", self.target, self.tail())
        })
    }

    /// The next event named `name`.
    pub async fn next_named(&mut self, name: &str) -> Event {
        self.wait_for(name, |event| event.name == name).await
    }

    /// Waits until there are more than `count` events.
    pub(crate) async fn grown_beyond(&mut self, count: usize, limit: Duration, what: &str) {
        let grown = self.seen.find(limit, |seen| (seen.len() > count).then_some(())).await;
        grown.unwrap_or_else(|why| {
            panic!("{}: no {what}: {why}; the last events:\n{}", self.target, self.tail())
        });
    }

    /// Every event until the stream's end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub async fn to_the_end(mut self, limit: Duration) -> Vec<Event> {
        let ended = self.seen.end(limit).await;
        ended.unwrap_or_else(|why| {
            panic!("{} did not end: {why}; the last events:\n{}", self.target, self.tail())
        });
        self.events()
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Event> {
        self.seen.look().clone()
    }

    /// How many events named `name` there were so far.
    pub fn count(&self, name: &str) -> usize {
        self.seen.look().iter().filter(|event| event.name == name).count()
    }

    /// The id of the last event so far.
    pub fn last_id(&self) -> Option<String> {
        self.seen.look().iter().rev().find(|event| !event.id.is_empty()).map(|event| event.id.clone())
    }

    /// Drops all events so far, so that a long test does not keep them.
    pub fn forget(&mut self) {
        self.seen.look().clear();
        self.place = 0;
    }

    fn tail(&self) -> String {
        let seen = self.seen.look();
        let tail = &seen[seen.len().saturating_sub(SHOWN)..];
        tail.iter().map(|event| format!("  {event}\n")).collect()
    }
}

impl Drop for Sse {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut answer: Streamed, seen: Grower<Vec<Event>>) {
    let mut parser = Parser::default();
    // A broken connection ends the stream, which is what a reader of it sees.
    while let Ok(Some(chunk)) = answer.chunk().await {
        let at = Instant::now();
        let events = parser.take(&chunk, at);
        if !events.is_empty() {
            seen.add(|seen| seen.extend(events));
        }
    }
}

/// Divides a stream's bytes into events.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    name: String,
    id: String,
    data: Option<String>,
}

impl Parser {
    fn take(&mut self, chunk: &[u8], at: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let mut lines = chunk.split_inclusive(|byte| *byte == b'\n');
        for part in lines.by_ref() {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8(line).expect("an event stream is UTF-8");
                events.extend(self.line(line.trim_end_matches(['\r', '\n']), at));
            }
        }
        events
    }

    fn line(&mut self, line: &str, at: Instant) -> Option<Event> {
        if line.is_empty() {
            let data = self.data.take()?;
            let name = std::mem::take(&mut self.name);
            let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
            return Some(Event { name, id: self.id.clone(), data, at });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => value.clone_into(&mut self.id),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let text = "retry: 1000\n\n: comment\n\nid: e-1\nevent: ready\ndata: {\"a\":1}\n\nevent: x\r\ndata: two\r\ndata: lines\r\n\r\n";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> =
                text.as_bytes().chunks(size).flat_map(|chunk| parser.take(chunk, Instant::now())).collect();
            let seen: Vec<_> =
                events.iter().map(|e| (e.name.as_str(), e.id.as_str(), e.data.to_string())).collect();
            let want = [("ready", "e-1", "{\"a\":1}".to_owned()), ("x", "e-1", "\"two\\nlines\"".to_owned())];
            assert_eq!(seen, want, "chunks of {size}");
        }
    }
}
