//! Marks: what the shell's own functions write into its terminal for the host alone.
//!
//! A mark is an OSC sequence with the session's secret in it: `ESC ] 7771 ; SECRET ; S ; N BEL`. No terminal wraps or
//! shows such a sequence, and nobody who does not know the secret can make one, so whatever lacks it is output.
//!
//! What must hold: the same bytes give the same output and the same marks however they are cut into chunks; every byte
//! that is no part of a mark comes out, in order; no byte of the secret ever does.

use std::time::{Duration, Instant};

/// How long the beginning of what may become a mark is held back.
const HELD_FOR: Duration = Duration::from_millis(500);

/// The longest rest of a mark behind its secret, bytes.
const LONGEST_REST: usize = 40;

/// How much of a mark is no secret, bytes.
const PUBLIC: usize = b"\x1b]7771;".len();

const BEL: u8 = 0x07;
const ESC: u8 = 0x1b;

/// What the shell's functions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The shell took this command.
    Taken(u64),
    /// This command came to its end.
    Done { command: u64, status: i32 },
    /// The shell shows its prompt. Names the command it took last, 0 for none, and the last exit status.
    Prompt { command: u64, status: i32 },
}

/// A piece of what a terminal wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Output(&'a [u8]),
    Mark(Mark),
}

/// Finds marks.
#[derive(Debug)]
pub(crate) struct Marks {
    /// How each mark begins, up to and including the secret and its semicolon.
    opening: Vec<u8>,
    /// The end of what came so far, if it may be the beginning of a mark.
    held: Vec<u8>,
    /// How much of it was let go of because it was held for too long.
    shown: usize,
    since: Option<Instant>,
}

/// What bytes that begin with an escape are.
enum Look {
    /// No mark, whatever follows.
    Output,
    /// Perhaps the beginning of one.
    Beginning,
    /// A mark of so many bytes; nothing for one that says nothing known.
    Mark(usize, Option<Mark>),
}

impl Marks {
    /// Finds the marks with this secret in them.
    pub(crate) fn with(secret: &str) -> Self {
        let opening = format!("\x1b]7771;{secret};").into_bytes();
        Self { opening, held: Vec::new(), shown: 0, since: None }
    }

    /// Takes more bytes and hands out what they are.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant, mut each: impl FnMut(Piece<'_>)) {
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            joined = [self.held.as_slice(), bytes].concat();
            &joined
        };
        let held_since = self.since.take();
        let (mut from, mut at) = (std::mem::take(&mut self.shown), 0);
        self.held.clear();
        while let Some(offset) = bytes[at..].iter().position(|&byte| byte == ESC) {
            let escape = at + offset;
            match self.look(&bytes[escape..]) {
                Look::Output => at = escape + 1,
                Look::Beginning => {
                    output(&bytes[from.min(escape)..escape], &mut each);
                    self.shown = from.saturating_sub(escape);
                    self.held.extend_from_slice(&bytes[escape..]);
                    self.since = if escape == 0 { held_since.or(Some(now)) } else { Some(now) };
                    return;
                }
                Look::Mark(length, mark) => {
                    output(&bytes[from.min(escape)..escape], &mut each);
                    mark.map(Piece::Mark).into_iter().for_each(&mut each);
                    at = escape + length;
                    from = at;
                }
            }
        }
        output(&bytes[from..], &mut each);
    }

    /// When [`Marks::let_go`] has something to do; nothing while there is nothing that may be shown.
    pub(crate) fn due(&self) -> Option<Instant> {
        let may_be_shown = self.shown < self.held.len() && Self::anybodys(self.held.len());
        self.since.filter(|_| may_be_shown).map(|since| since + HELD_FOR)
    }

    /// Hands out what was held for too long and holds nothing of the secret that others could not guess. If it becomes
    /// a mark after all, it is one.
    pub(crate) fn let_go(&mut self, now: Instant, mut each: impl FnMut(Piece<'_>)) {
        if self.due().is_some_and(|due| now >= due) {
            output(&self.held[self.shown..], &mut each);
            self.shown = self.held.len();
        }
    }

    /// There is no more: hands out what is held, but for the beginning of a mark that nobody else can have written.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if Self::anybodys(self.held.len()) {
            output(&self.held[self.shown..], &mut each);
        }
        self.held.clear();
        self.shown = 0;
        self.since = None;
    }

    fn look(&self, bytes: &[u8]) -> Look {
        let known = bytes.len().min(self.opening.len());
        if bytes[..known] != self.opening[..known] {
            return Look::Output;
        }
        let rest = &bytes[known..];
        // From here on the secret is in it: nobody else wrote this.
        let end = rest.iter().take(LONGEST_REST).position(|&byte| byte == BEL);
        match end {
            Some(end) => Look::Mark(known + end + 1, understand(&rest[..end])),
            None if rest.len() < LONGEST_REST => Look::Beginning,
            None => Look::Mark(known, None),
        }
    }

    /// Whether so much of a beginning may be shown: anybody can write that much by chance.
    const fn anybodys(length: usize) -> bool {
        length <= PUBLIC + 8
    }
}

fn output(bytes: &[u8], each: &mut impl FnMut(Piece<'_>)) {
    if !bytes.is_empty() {
        each(Piece::Output(bytes));
    }
}

/// What stands between the secret and the end of a mark.
fn understand(rest: &[u8]) -> Option<Mark> {
    let mut words = str::from_utf8(rest).ok()?.split(';');
    let kind = words.next()?;
    let command = words.next()?.parse().ok()?;
    let status = words.next();
    match (kind, status, words.next()) {
        ("S", None, None) => Some(Mark::Taken(command)),
        ("D", Some(status), None) => Some(Mark::Done { command, status: status.parse().ok()? }),
        ("P", Some(status), None) => Some(Mark::Prompt { command, status: status.parse().ok()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "00112233445566778899aabbccddeeff";

    fn mark(rest: &str) -> Vec<u8> {
        format!("\x1b]7771;{SECRET};{rest}\x07").into_bytes()
    }

    /// What came out: output byte by byte, and marks where they stood.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Byte(u8),
        Mark(Mark),
    }

    fn see(piece: &Piece<'_>, seen: &mut Vec<Seen>) {
        match piece {
            Piece::Output(bytes) => seen.extend(bytes.iter().map(|&byte| Seen::Byte(byte))),
            Piece::Mark(mark) => seen.push(Seen::Mark(*mark)),
        }
    }

    /// Feeds the chunks; where `slow`, so much time passes between them that nothing is held that need not be.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, slow: bool) -> Vec<Seen> {
        let mut now = Instant::now();
        let mut seen = Vec::new();
        let mut marks = Marks::with(SECRET);
        for chunk in chunks {
            marks.feed(chunk, now, |piece| see(&piece, &mut seen));
            if slow {
                now += HELD_FOR;
                marks.let_go(now, |piece| see(&piece, &mut seen));
            }
        }
        marks.finish(|piece| see(&piece, &mut seen));
        seen
    }

    fn bytes_of(seen: &[Seen]) -> Vec<u8> {
        seen.iter()
            .filter_map(|seen| match seen {
                Seen::Byte(byte) => Some(*byte),
                Seen::Mark(_) => None,
            })
            .collect()
    }

    /// Whether a stretch of the secret that could not be guessed is in these bytes.
    fn tells_the_secret(bytes: &[u8]) -> bool {
        bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
    }

    /// Pieces of a terminal's output, each with what must come out of it.
    fn part() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
        let plain = |bytes: Vec<u8>| {
            let seen = bytes.iter().map(|&byte| Seen::Byte(byte)).collect();
            (bytes, seen)
        };
        let number = 0..=u64::MAX;
        let marks = (0..3, number, 0..256).prop_map(|(kind, command, status)| match kind {
            0 => (mark(&format!("S;{command}")), vec![Seen::Mark(Mark::Taken(command))]),
            1 => (mark(&format!("D;{command};{status}")), vec![Seen::Mark(Mark::Done { command, status })]),
            _ => (mark(&format!("P;{command};{status}")), vec![Seen::Mark(Mark::Prompt { command, status })]),
        });
        // Beginnings of marks, marks with another secret, and other sequences, each ended by what no mark goes on with.
        let cut = (1..16_usize).prop_map(move |length| plain([&mark("S;1")[..length], b"\n"].concat()));
        let foreign = "[0-9a-e]{32}".prop_filter("another secret", |text| text != SECRET);
        let foreign =
            foreign.prop_map(move |other| plain(format!("\x1b]7771;{other};D;1;0\x07").into_bytes()));
        prop_oneof![
            4 => vec(any::<u8>().prop_filter("ends by itself", |&byte| byte != ESC), 0..40).prop_map(plain),
            4 => marks,
            2 => cut,
            2 => foreign,
            1 => Just(plain(b"\x1b[32mgreen\x1b[0m\x1b\x1b\x1b]0;title\x07".to_vec())),
        ]
    }

    proptest! {
        #[test]
        fn chunks_change_nothing(
            parts in vec(part(), 0..12),
            cuts in vec(1..70_usize, 1..30),
            slow in any::<bool>(),
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let expected: Vec<Seen> = parts.into_iter().flat_map(|(_, seen)| seen).collect();
            let mut chunks = Vec::new();
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                chunks.push(chunk);
                rest = behind;
            }
            let seen = read(chunks.iter().copied(), slow);
            let marks = |seen: &[Seen]| -> Vec<Seen> {
                seen.iter().filter(|seen| matches!(seen, Seen::Mark(_))).cloned().collect()
            };
            prop_assert!(!tells_the_secret(&bytes_of(&seen)));
            // Where a beginning was let go of before it became a mark, that much of it is seen, and nothing else is.
            prop_assert_eq!(marks(&seen), marks(&expected));
            if !slow {
                prop_assert_eq!(seen, expected);
            }
        }

        #[test]
        fn arbitrary_bytes_survive(bytes in vec(any::<u8>(), 0..4000), size in 1..100_usize, slow in any::<bool>()) {
            let seen = read(bytes.chunks(size), slow);
            prop_assert_eq!(bytes_of(&seen), bytes);
        }

        #[test]
        fn escapes_in_a_row_survive(bytes in vec(prop_oneof![Just(ESC), Just(b']'), Just(b'7'), Just(b'1'), Just(b';'), Just(BEL)], 0..200), size in 1..20_usize) {
            let seen = read(bytes.chunks(size), false);
            prop_assert_eq!(bytes_of(&seen), bytes);
        }
    }

    #[test]
    fn every_cut_through_a_mark_gives_the_same() {
        let bytes = [b"before".as_slice(), &mark("D;7;130"), b"after"].concat();
        let expected = read([bytes.as_slice()], false);
        assert_eq!(expected[6], Seen::Mark(Mark::Done { command: 7, status: 130 }));
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(read([first, second], false), expected, "cut at {cut}");
        }
        assert_eq!(read(bytes.chunks(1), false), expected);
    }

    #[test]
    fn what_may_be_a_mark_is_held_for_a_bounded_time_and_no_longer_than_needed() {
        let start = Instant::now();
        let mut seen = Vec::new();
        let mut marks = Marks::with(SECRET);
        marks.feed(b"x\x1b]77", start, |piece| see(&piece, &mut seen));
        assert_eq!(bytes_of(&seen), b"x");
        let due = marks.due().unwrap();
        assert_eq!(due, start + HELD_FOR);
        marks.let_go(due - Duration::from_millis(1), |piece| see(&piece, &mut seen));
        assert_eq!(bytes_of(&seen), b"x");
        marks.let_go(due, |piece| see(&piece, &mut seen));
        assert_eq!(bytes_of(&seen), b"x\x1b]77");
        assert_eq!(marks.due(), None);
        // It becomes a mark after all.
        let whole = mark("S;3");
        marks.feed(&whole[4..], due, |piece| see(&piece, &mut seen));
        assert_eq!(seen.last(), Some(&Seen::Mark(Mark::Taken(3))));
        assert_eq!(bytes_of(&seen), b"x\x1b]77");
        // At once, when it cannot be one any more.
        marks.feed(b"\x1b]770", due, |piece| see(&piece, &mut seen));
        assert_eq!(bytes_of(&seen), b"x\x1b]77\x1b]770");
        assert_eq!(marks.due(), None);
    }

    #[test]
    fn a_secret_is_never_shown_however_long_its_mark_takes() {
        let start = Instant::now();
        let mut seen = Vec::new();
        let mut marks = Marks::with(SECRET);
        let whole = mark("D;3;0");
        marks.feed(&whole[..whole.len() - 1], start, |piece| see(&piece, &mut seen));
        assert_eq!(marks.due(), None);
        marks.let_go(start + Duration::from_secs(60), |piece| see(&piece, &mut seen));
        assert!(seen.is_empty());
        let mut ended = Marks::with(SECRET);
        ended.feed(&whole[..whole.len() - 1], start, |piece| see(&piece, &mut seen));
        ended.finish(|piece| see(&piece, &mut seen));
        assert!(seen.is_empty());
        marks.feed(&whole[whole.len() - 1..], start, |piece| see(&piece, &mut seen));
        assert_eq!(seen, [Seen::Mark(Mark::Done { command: 3, status: 0 })]);
    }
}
