//! Lines of a pipe, each bounded: an executor can print what it likes without making this process grow.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Reads lines of at most `limit` bytes.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    line: Vec<u8>,
    /// Bytes of the current line, those past the limit included.
    length: usize,
}

/// One line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The line's first bytes, up to the limit.
    pub(crate) bytes: Vec<u8>,
    /// Whether there was more, which is dropped.
    pub(crate) cut: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(pipe: R, limit: usize) -> Self {
        Self { reader: BufReader::with_capacity(32 * 1024, pipe), limit, line: Vec::new(), length: 0 }
    }

    /// The next line; the last one need not end in a newline. Safe to cancel: a line begun is kept.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok((self.length > 0).then(|| self.take()));
            }
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..newline.unwrap_or(chunk.len())];
            let room = self.limit.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.length += part.len();
            let used = part.len() + usize::from(newline.is_some());
            self.reader.consume(used);
            if newline.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        let cut = std::mem::take(&mut self.length) > self.line.len();
        let mut bytes = std::mem::take(&mut self.line);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Line { bytes, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], limit: usize) -> Vec<(String, bool)> {
        let mut lines = Lines::new(text, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("reading from memory") {
            all.push((String::from_utf8_lossy(&line.bytes).into_owned(), line.cut));
        }
        all
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_at_the_end() {
        let whole = |text: &str| (text.to_owned(), false);
        assert_eq!(lines(b"a\n\nb\r\nc", 10).await, [whole("a"), whole(""), whole("b"), whole("c")]);
        assert_eq!(lines(b"", 10).await, []);
        assert_eq!(lines(b"a\n", 10).await, [whole("a")]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 100_000];
        text.extend_from_slice(b"\nnext\n1234\n");
        let expected = [("xxxx", true), ("next", false), ("1234", false)].map(|(t, c)| (t.to_owned(), c));
        assert_eq!(lines(&text, 4).await, expected);
    }
}
