//! A run's log on its way from the event stream to the terminal.
//!
//! What must hold: the bytes that the runner wrote come out as they are, each once, on the output that it wrote them
//! to; nothing else goes to standard output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use wire::log::Stream;

use super::Failure;
use super::screen::Screen;
use crate::client::Event;

/// How a log is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The runner's output, byte for byte.
    Output,
    /// Every record, one JSON object a line.
    Records,
    /// Not at all: only the end matters.
    Nothing,
}

/// The end of a run, as its log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The runner's exit status; nothing when nobody saw the end.
    pub(crate) exit_code: Option<i32>,
    /// Why, where something is to be said.
    pub(crate) reason: Option<String>,
}

/// Puts a run's records on the screen.
#[derive(Debug)]
pub(crate) struct LogWriter {
    shown: Shown,
    last: u64,
}

/// What is needed of a record.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(default)]
    seq: Option<u64>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    stream: Option<Stream>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    base64: Option<String>,
    #[serde(default)]
    exit_code: Option<i32>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    why: Option<String>,
}

impl LogWriter {
    pub(crate) const fn new(shown: Shown) -> Self {
        Self { shown, last: 0 }
    }

    /// Shows one event; the end, if it is that.
    pub(crate) fn take(&mut self, event: &Event, screen: &mut Screen<'_>) -> Result<Option<End>, Failure> {
        let record: Record = serde_json::from_str(&event.data)
            .map_err(|error| Failure::plain(format!("the run's log is not understood: {error}")))?;
        if record.seq.is_some_and(|seq| seq <= self.last) {
            return Ok(None);
        }
        self.last = record.seq.unwrap_or(self.last);
        match self.shown {
            Shown::Records => {
                screen.json(&serde_json::from_str::<Value>(&event.data).map_err(std::io::Error::from)?)?
            }
            Shown::Output if record.kind == "output" => show(&record, screen)?,
            Shown::Output if record.kind == "dropped" => {
                let why = record.why.as_deref().unwrap_or_default();
                writeln!(screen.err, "[{} bytes of output are gone here: {why}]", record.bytes)?;
            }
            Shown::Output | Shown::Nothing => {}
        }
        let ended = record.kind == "exit";
        Ok(ended.then_some(End { exit_code: record.exit_code, reason: record.reason }))
    }
}

fn show(record: &Record, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let decoded;
    let bytes = match (&record.text, &record.base64) {
        (Some(text), _) => text.as_bytes(),
        (None, Some(encoded)) => {
            decoded = BASE64
                .decode(encoded)
                .map_err(|error| Failure::plain(format!("the run's log is not understood: {error}")))?;
            &decoded
        }
        (None, None) => return Ok(()),
    };
    let to = if record.stream == Some(Stream::Stderr) { &mut *screen.err } else { &mut *screen.out };
    to.write_all(bytes)?;
    // Progress that ends in no newline is to be seen too.
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(data: &Value) -> Event {
        Event { id: None, name: "output".to_owned(), data: data.to_string() }
    }

    fn shown(shown: Shown, records: &[Value]) -> (Vec<u8>, Vec<u8>, Vec<Option<End>>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours: false };
        let mut log = LogWriter::new(shown);
        let ends = records.iter().map(|data| log.take(&event(data), &mut screen).unwrap()).collect();
        (out, err, ends)
    }

    #[test]
    fn bytes_come_out_as_they_went_in_each_once() {
        let records = [
            json!({"seq": 1, "type": "spawned", "pid": 7}),
            json!({"seq": 2, "type": "output", "stream": "stdout", "text": "a\r\n\u{1b}[1mü"}),
            json!({"seq": 3, "type": "output", "stream": "stderr", "base64": "//4="}),
            json!({"seq": 2, "type": "output", "stream": "stdout", "text": "again"}),
            json!({"seq": 4, "type": "note", "text": "not output"}),
            json!({"seq": 5, "type": "output", "stream": "pty", "base64": "AAo="}),
            json!({"seq": 6, "type": "exit", "code": 3, "exitCode": 3}),
        ];
        let (out, err, ends) = shown(Shown::Output, &records);
        assert_eq!(out, "a\r\n\u{1b}[1mü\0\n".as_bytes());
        assert_eq!(err, b"\xff\xfe");
        assert!(ends[..6].iter().all(Option::is_none));
        assert_eq!(ends[6], Some(End { exit_code: Some(3), reason: None }));
        let (out, err, ends) = shown(Shown::Nothing, &records);
        assert!(out.is_empty() && err.is_empty() && ends[6].is_some());
        let (out, _, _) = shown(Shown::Records, &records);
        let lines: Vec<Value> =
            out.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
        assert_eq!(lines.len(), 6, "the repeated record is left out");
        assert_eq!(lines[0], records[0]);
    }

    #[test]
    fn output_that_is_gone_is_told_of_but_not_as_output() {
        let record =
            json!({"seq": 9, "type": "dropped", "fromSeq": 2, "records": 8, "bytes": 70, "why": "cap"});
        let (out, err, _) = shown(Shown::Output, &[record]);
        assert!(out.is_empty());
        assert_eq!(err, b"[70 bytes of output are gone here: cap]\n");
    }

    #[test]
    fn an_end_that_nobody_saw_has_a_reason() {
        let record = json!({"type": "exit", "code": null, "exitCode": null, "reason": "its host was killed"});
        let (_, _, ends) = shown(Shown::Output, &[record]);
        assert_eq!(ends[0], Some(End { exit_code: None, reason: Some("its host was killed".into()) }));
    }
}
