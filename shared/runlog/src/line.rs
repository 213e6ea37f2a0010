//! What can be read off a line without parsing it. The writer puts `seq`, `ts` and `type` first, in this order.

/// The sequence number at the start of a line, also of one that is cut off behind it.
pub fn seq_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Whether a line is output, or stands for output that is gone, rather than life.
pub fn is_output(line: &[u8]) -> bool {
    has_type(line, b"output") || is_dropped(line)
}

/// Whether a line stands for records that are gone.
pub(crate) fn is_dropped(line: &[u8]) -> bool {
    has_type(line, b"dropped")
}

/// Whether a line is the last one there will be.
pub(crate) fn is_exit(line: &[u8]) -> bool {
    has_type(line, b"exit")
}

fn has_type(line: &[u8], name: &[u8]) -> bool {
    const KEY: &[u8] = b",\"type\":\"";
    // Neither a number nor a time can hold the key, so the first one found is the record's own.
    let head = &line[..line.len().min(120)];
    head.windows(KEY.len())
        .position(|window| window == KEY)
        .and_then(|at| head[at + KEY.len()..].strip_prefix(name))
        .is_some_and(|rest| rest.first() == Some(&b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::log::{Record, Step, Stream};

    fn line(step: Step) -> Vec<u8> {
        serde_json::to_vec(&Record { seq: 1203, ts: wire::now(), step }).unwrap()
    }

    #[test]
    fn a_written_line_is_read_without_parsing() {
        let text = Some(",\"type\":\"exit\",".to_owned());
        let output = line(Step::Output { stream: Stream::Stderr, text, base64: None });
        assert_eq!(seq_of(&output), Some(1203));
        assert!(is_output(&output) && !is_exit(&output));
        let note = line(Step::Note { text: ",\"type\":\"output\"".to_owned() });
        assert!(!is_output(&note) && !is_exit(&note));
        assert!(is_exit(&line(Step::Exit { code: 0, signal: None })));
    }

    #[test]
    fn a_cut_off_or_foreign_line_is_no_record() {
        for text in
            ["", "{", "{\"seq\":", "{\"seq\":12", "{\"seq\":,", "seq", "{\"seq\":99999999999999999999999,"]
        {
            assert_eq!(seq_of(text.as_bytes()), None, "{text}");
        }
    }
}
