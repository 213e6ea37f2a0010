//! Where a client is in each of its topics, as one text. Pure.

use std::collections::BTreeMap;
use std::fmt;

/// Positions by topic.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Cursor(BTreeMap<String, String>);

impl Cursor {
    /// What `text` says as far as it can be understood: a position that is lost costs a repeat, not the stream.
    pub(crate) fn parse(text: &str) -> Self {
        let pair = |pair: &str| {
            let (topic, position) = pair.split_once('~')?;
            Some((decode(topic)?, decode(position)?))
        };
        Self(text.split(',').filter_map(pair).collect())
    }

    pub(crate) fn of(&self, topic: &str) -> Option<&str> {
        self.0.get(topic).map(String::as_str)
    }

    pub(crate) fn note(&mut self, topic: &str, position: &str) {
        match self.0.get_mut(topic) {
            Some(known) => position.clone_into(known),
            None => drop(self.0.insert(topic.to_owned(), position.to_owned())),
        }
    }

    /// Forgets every topic that is not among `topics`.
    pub(crate) fn keep(&mut self, topics: &[String]) {
        self.0.retain(|topic, _| topics.contains(topic));
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (topic, position)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}~{}", encode(topic), encode(position))?;
        }
        Ok(())
    }
}

fn encode(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut safe, byte| {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b':' => {
                safe.push(char::from(byte))
            }
            byte => write!(safe, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
        safe
    })
}

pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_there_and_back() {
        let mut cursor = Cursor::default();
        for (topic, position) in
            [("dev", "0a1b2c3d-7"), ("job:a,b~c%ü", "9"), ("run:r1", "12"), ("run:r1", "13")]
        {
            cursor.note(topic, position);
        }
        let text = cursor.to_string();
        assert!(text.is_ascii() && text.contains("run:r1~13"), "{text}");
        assert_eq!(Cursor::parse(&text), cursor);
        cursor.keep(&["dev".to_owned()]);
        assert_eq!(cursor.to_string(), "dev~0a1b2c3d-7");
    }

    #[test]
    fn what_cannot_be_understood_is_left_out() {
        for (text, kept) in
            [("", 0), ("dev", 0), ("dev~%", 0), ("dev~%zz", 0), ("x~1,,y~2,~", 3), ("a~b~c", 1)]
        {
            assert_eq!(Cursor::parse(text).0.len(), kept, "{text}");
        }
    }
}
