//! A run's log as its event stream shows it.

use serde_json::Value;

use crate::LIMIT;
use crate::client::Client;
use crate::sse::{Event, Sse};

/// `GET /api/runs/ID/events`.
#[derive(Debug)]
pub struct RunLog {
    events: Sse,
}

impl RunLog {
    /// Follows the run's log from its first record.
    pub async fn open(client: &Client, run: &str) -> Self {
        let events = Sse::open(client, &format!("/api/runs/{run}/events"), None).await;
        assert_eq!(events.status, 200, "the log of run {run}");
        Self { events }
    }

    /// The stream itself.
    pub fn events(&mut self) -> &mut Sse {
        &mut self.events
    }

    /// Waits until a line of the output is `line`.
    pub async fn wait_for_line(&mut self, line: &str) {
        self.wait_for_lines(&format!("line {line:?}"), |lines| lines.contains(&line).then_some(())).await;
    }

    /// Waits until a line of the output starts with `start`; answers the rest of that line.
    pub async fn wait_for_start(&mut self, start: &str) -> String {
        let rest = |lines: &[&str]| lines.iter().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
        self.wait_for_lines(&format!("line that starts with {start:?}"), rest).await
    }

    /// Waits until `find` finds something in the complete lines of the output.
    pub async fn wait_for_lines<T>(&mut self, what: &str, find: impl Fn(&[&str]) -> Option<T>) -> T {
        let mut place = 0;
        let mut text = String::new();
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            let events = self.events.events();
            for event in &events[place..] {
                text.push_str(&output(event));
            }
            place = events.len();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(found) = find(&whole.lines().collect::<Vec<_>>()) {
                return found;
            }
            let tail: Vec<&str> = whole.lines().rev().take(12).collect();
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let shown = tail.into_iter().rev().collect::<Vec<_>>().join("\n  ");
            self.events
                .grown_beyond(place, left, &format!("{what} in the output, which ends\n  {shown}\n"))
                .await;
        }
    }

    /// Waits for the run's end; its exit status.
    pub async fn exit(&mut self) -> i64 {
        let exit = self.events.next_named("exit").await;
        exit.data["exitCode"].as_i64().unwrap_or_else(|| panic!("an exit without a status: {exit}"))
    }

    /// Everything the run wrote so far.
    pub fn output(&self) -> String {
        self.events.events().iter().map(output).collect()
    }

    /// The complete lines of what the run wrote so far.
    pub fn lines(&self) -> Vec<String> {
        let text = self.output();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}

/// The output that an event carries.
fn output(event: &Event) -> String {
    match (event.name.as_str(), &event.data["text"]) {
        ("output", Value::String(text)) => text.clone(),
        _ => String::new(),
    }
}
