//! What the bundler complains about, as places in the user's source.

use std::path::{Component, Path, PathBuf};

use rolldown_error::{BatchedBuildDiagnostic, BuildDiagnostic, DiagnosticOptions, EventKind};
use wire::{Diagnostic, Failure};

/// Complaints that are passed on; the rest is counted.
const SHOWN: usize = 20;

/// Lines of source before and after the place.
const AROUND: usize = 2;

/// Longest line of source in a frame, in characters.
const WIDTH: usize = 160;

/// A build that failed.
#[derive(Debug)]
pub(crate) struct Complaint {
    /// For people.
    pub(crate) failure: Failure,
    /// Paths without extension that relative imports hope for.
    pub(crate) hoped: Vec<PathBuf>,
}

impl Complaint {
    /// A failure that names no place.
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self { failure: Failure::plain(message), hoped: Vec::new() }
    }

    /// What `errors` say about the project at `root`.
    pub(crate) fn of(errors: &BatchedBuildDiagnostic, root: &Path) -> Self {
        let mut diagnostics: Vec<_> = errors.iter().map(|error| diagnostic(error, root)).collect();
        diagnostics.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        diagnostics.dedup();
        let more = diagnostics.len().saturating_sub(SHOWN);
        diagnostics.truncate(SHOWN);
        let mut lines: Vec<_> = diagnostics.iter().map(headline).collect();
        if more > 0 {
            lines.push(format!("… and {more} more"));
        }
        let hoped = errors.iter().filter_map(hoped).collect();
        Self { failure: Failure { message: lines.join("\n"), diagnostics }, hoped }
    }
}

/// `src/midrun/index.ts:3:7: what is wrong`.
fn headline(diagnostic: &Diagnostic) -> String {
    let message = diagnostic.message.as_str();
    match (&diagnostic.file, diagnostic.line, diagnostic.column) {
        (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: {message}"),
        (Some(file), ..) => format!("{file}: {message}"),
        (None, ..) => message.to_owned(),
    }
}

fn diagnostic(error: &BuildDiagnostic, root: &Path) -> Diagnostic {
    let options = DiagnosticOptions { cwd: root.to_owned() };
    let message = plain(&error.to_message_with(&options));
    let place = error.to_diagnostic_with(&options).get_primary_location();
    let Some((file, line, utf16_column, _)) = place else {
        let file = error.id().map(|id| options.stabilize_path(id));
        return Diagnostic { file, line: None, column: None, message, frame: None };
    };
    let text = std::fs::read_to_string(root.join(&file)).ok();
    let source_line = text.as_deref().and_then(|text| text.lines().nth(line.saturating_sub(1)));
    let column = 1 + source_line.map_or(utf16_column, |text| characters(text, utf16_column));
    Diagnostic {
        file: Some(file),
        line: u32::try_from(line).ok(),
        column: u32::try_from(column).ok(),
        message,
        frame: text.as_deref().map(|text| frame(text, line, column)),
    }
}

/// The path that an import of a file hopes for.
fn hoped(error: &BuildDiagnostic) -> Option<PathBuf> {
    if !matches!(error.kind(), EventKind::UnresolvedImport | EventKind::ResolveError) {
        return None;
    }
    let importer = PathBuf::from(error.id()?);
    Some(without_dots(&importer.parent()?.join(error.exporter()?)))
}

/// `path` with each `.` and `..` carried out.
pub(crate) fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
        plain
    })
}

/// How many characters stand before the UTF-16 column `utf16` of `line`.
fn characters(line: &str, utf16: usize) -> usize {
    let mut left = utf16;
    line.chars()
        .take_while(|c| {
            let fits = left >= c.len_utf16();
            left = left.saturating_sub(c.len_utf16());
            fits
        })
        .count()
}

/// The lines around `line` (from 1), with a caret under `column` (from 1, in characters).
pub(crate) fn frame(text: &str, line: usize, column: usize) -> String {
    let first = line.saturating_sub(AROUND).max(1);
    let last = line + AROUND;
    let digits = last.to_string().len();
    let skipped = if column > WIDTH { column - WIDTH / 2 } else { 0 };
    let mut out = String::new();
    for (number, source) in text.lines().enumerate().map(|(index, source)| (index + 1, source)) {
        if number < first || number > last {
            continue;
        }
        let shown: String = source.chars().skip(skipped).take(WIDTH).collect::<String>().replace('\t', " ");
        let mark = if number == line { '>' } else { ' ' };
        out += format!("{mark} {number:digits$} | {shown}").trim_end();
        out.push('\n');
        if number == line {
            let indent = " ".repeat(column.saturating_sub(1 + skipped));
            out += &format!("  {:digits$} | {indent}^\n", "");
        }
    }
    out
}

/// `text` without terminal escapes.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        if rest.next() == Some('[') {
            rest.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_points_at_the_character() {
        let text = "const a = 1;\n\tconst 日本 = ;\nconst c = 3;\n";
        let expected = "  1 | const a = 1;\n> 2 |  const 日本 = ;\n    |             ^\n  3 | const c = 3;\n";
        assert_eq!(frame(text, 2, 13), expected);
    }

    #[test]
    fn a_frame_of_a_long_line_stays_short() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let frame = frame(&text, 1, 5001);
        let mut lines = frame.lines();
        let (source, caret) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(source.len() < 200);
        assert_eq!(source.as_bytes()[caret.find('^').unwrap()], b'X');
    }

    #[test]
    fn hopes_are_plain_paths() {
        assert_eq!(without_dots(Path::new("/a/b/./../c/../../d/e.ts")), Path::new("/d/e.ts"));
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(characters("a😀b", 3), 2);
        assert_eq!(characters("abc", 0), 0);
        assert_eq!(characters("abc", 9), 3);
    }

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m plain"), "red plain");
    }
}
