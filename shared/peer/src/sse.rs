//! Server-sent events, the reading end: from bytes to events.
//!
//! What must hold: how the bytes are cut changes nothing; what no empty line ended is no event; memory is bounded.

use std::collections::VecDeque;

/// The longest event, and the longest line, bytes.
pub const LONGEST: usize = 16 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its `id`, if it has one.
    pub id: Option<String>,
    /// Its `event`; `message` when it names none.
    pub name: String,
    /// Its `data` lines.
    pub data: String,
}

/// An event or a line is longer than [`LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {LONGEST} bytes")]
pub struct TooLong;

/// Reads one connection's bytes.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that is not ended yet.
    line: Vec<u8>,
    /// A carriage return ended the last line; a line feed now belongs to it.
    after_return: bool,
    /// The first line was seen.
    begun: bool,
    id: Option<String>,
    name: String,
    data: Option<String>,
    ready: VecDeque<Event>,
}

impl Parser {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// An event or a line is longer than [`LONGEST`].
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TooLong> {
        let mut rest = chunk;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            self.grow(&rest[..end.unwrap_or(rest.len())])?;
            let Some(end) = end else { break };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.end_line()?;
        }
        Ok(())
    }

    /// The next whole event.
    #[expect(clippy::should_implement_trait, reason = "nothing now does not mean nothing later")]
    pub fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn grow(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + part.len() > LONGEST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.is_empty() {
            self.end_event();
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value))
    }

    fn field(&mut self, field: &str, value: &str) -> Result<(), TooLong> {
        match field {
            "data" => match &mut self.data {
                Some(data) if data.len() + value.len() >= LONGEST => return Err(TooLong),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment has an empty name; how soon to come back is decided here, not by the server.
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self) {
        let (id, name) = (self.id.take(), std::mem::take(&mut self.name));
        let Some(data) = self.data.take() else { return };
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.ready.push_back(Event { id, name, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, name: &str, data: &str) -> Event {
        Event { id: id.map(str::to_owned), name: name.to_owned(), data: data.to_owned() }
    }

    fn parse(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        for chunk in chunks {
            parser.push(chunk).unwrap();
        }
        std::iter::from_fn(|| parser.next()).collect()
    }

    const STREAM: &str = "\u{feff}retry: 1000\n\n: hello\n\nid: 7\nevent: output\ndata: {\"text\":\"ü\"}\n\n\
        data:one\r\ndata: two\r\ndata:\r\n\r\nevent: nothing\n\nid: 8\rdata\r\rid: 9\ndata: cut off";

    fn expected() -> Vec<Event> {
        vec![
            event(Some("7"), "output", "{\"text\":\"ü\"}"),
            event(None, "message", "one\ntwo\n"),
            event(Some("8"), "message", ""),
        ]
    }

    #[test]
    fn however_the_bytes_are_cut() {
        let bytes = STREAM.as_bytes();
        assert_eq!(parse(&[bytes]), expected());
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(parse(&single), expected());
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(parse(&[head, b"", tail]), expected(), "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_and_an_endless_event_are_refused() {
        let part = vec![b'x'; 1024 * 1024];
        let mut line = Parser::default();
        let mut event = Parser::default();
        let pushed = (0..LONGEST / part.len()).all(|_| line.push(&part).is_ok());
        assert!(pushed, "up to the limit it is taken");
        assert_eq!(line.push(&part), Err(TooLong));
        let data = [b"data: ", &part[..], b"\n"].concat();
        let refused = (0..=LONGEST / part.len()).find(|_| event.push(&data).is_err());
        assert!(refused.is_some_and(|times| times > 10), "{refused:?}");
    }
}
