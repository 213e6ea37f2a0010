//! The echo of what the host types, with the command in its place.
//!
//! What must hold: what is not the echo stays. Where it cannot be told apart, everything stays: the echo tells no secret.

/// What a terminal wrote between an offer and the shell's taking it, with the echo of `line` replaced by that of `text`.
pub(super) fn with_command(written: &[u8], line: &str, text: &str) -> Vec<u8> {
    let line = line.as_bytes();
    let echo = if is_all_echo(written, line) {
        // However the shell's editor drew it. What stands before its first character has cleared the line.
        let start = first_of(written, line);
        let (before, drawn) = written.split_at(start);
        Some((before.to_vec(), [b"\r\n".as_slice(), &modes(drawn)].concat()))
    } else {
        let found = written.windows(line.len()).position(|window| window == line);
        found.map(|at| (written[..at].to_vec(), written[at + line.len()..].to_vec()))
    };
    match echo {
        Some((before, behind)) => [before, typed(text), behind].concat(),
        None => written.to_vec(),
    }
}

/// A command as a terminal shows it while it is typed.
fn typed(text: &str) -> Vec<u8> {
    let mut shown = String::with_capacity(text.len());
    for letter in text.trim_end_matches('\n').chars() {
        match letter {
            '\n' => shown.push_str("\r\n> "),
            '\t' => shown.push('\t'),
            '\u{0}'..='\u{1f}' => {
                shown.push('^');
                shown.push(char::from(letter as u8 ^ 0x40));
            }
            '\u{7f}' => shown.push_str("^?"),
            _ => shown.push(letter),
        }
    }
    shown.into_bytes()
}

/// Whether there is nothing but letters of `line`, each of them at least once, white space, and what moves the cursor.
fn is_all_echo(written: &[u8], line: &[u8]) -> bool {
    let rest = without_sequences(written);
    let harmless = |byte: &u8| matches!(byte, b' ' | b'\r' | b'\n' | 0x07 | 0x08) || line.contains(byte);
    rest.iter().all(harmless) && line.iter().all(|byte| rest.contains(byte))
}

fn first_of(written: &[u8], line: &[u8]) -> usize {
    let mut at = 0;
    while at < written.len() {
        match sequence(&written[at..]) {
            0 if line.contains(&written[at]) => break,
            0 => at += 1,
            length => at += length,
        }
    }
    at
}

fn without_sequences(written: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(written.len());
    let mut at = 0;
    while at < written.len() {
        match sequence(&written[at..]) {
            0 => {
                rest.push(written[at]);
                at += 1;
            }
            length => at += length,
        }
    }
    rest
}

/// The sequences that set a terminal's modes, such as that of bracketed paste, which outlast the line.
fn modes(written: &[u8]) -> Vec<u8> {
    let mut modes = Vec::new();
    let mut at = 0;
    while at < written.len() {
        let length = sequence(&written[at..]);
        let whole = &written[at..at + length];
        if whole.starts_with(b"\x1b[?") && matches!(whole.last(), Some(b'h' | b'l')) {
            modes.extend_from_slice(whole);
        }
        at += length.max(1);
    }
    modes
}

/// How long the control sequence is that these bytes begin with; 0 when they begin with none.
fn sequence(bytes: &[u8]) -> usize {
    let Some(rest) = bytes.strip_prefix(b"\x1b[") else { return 0 };
    let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte));
    end.map_or(0, |end| 2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(written: &str, text: &str) -> String {
        String::from_utf8(with_command(written.as_bytes(), "__midrun", text)).unwrap()
    }

    #[test]
    fn the_command_stands_where_the_line_was_echoed() {
        assert_eq!(shown("__midrun\r\n", "ls"), "ls\r\n");
        assert_eq!(shown("__midrun\r\n\x1b[?2004l\r", "ls"), "ls\r\n\x1b[?2004l");
        // A line that is wrapped, or drawn in pieces.
        assert_eq!(shown("__midrun \r\x1b[A\x1b[C\x1b[Kn\r\n\x1b[?2004l\r", "ls"), "ls\r\n\x1b[?2004l");
        assert_eq!(shown("__mi \r\ndrun\r\n", "ls"), "ls\r\n");
    }

    #[test]
    fn what_cleared_the_line_and_what_others_wrote_stays() {
        assert_eq!(shown("\x08\x08\x1b[K__midrun\r\n", "ls"), "\x08\x08\x1b[Kls\r\n");
        assert_eq!(shown("^E\x08 \x08__midrun\r\n", "ls"), "^E\x08 \x08ls\r\n");
        assert_eq!(shown("[1]+ Done  sleep\r\n__midrun\r\n", "ls"), "[1]+ Done  sleep\r\nls\r\n");
        assert_eq!(shown("__mid and something else run\r\n", "ls"), "__mid and something else run\r\n");
        assert_eq!(shown("", "ls"), "");
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        assert_eq!(
            shown("__midrun\r\n", "for i in 1; do\necho $i\ndone\n"),
            "for i in 1; do\r\n> echo $i\r\n> done\r\n"
        );
        assert_eq!(shown("__midrun\r\n", "printf '\x1b[2Jé'"), "printf '^[[2Jé'\r\n");
    }
}
