//! Ids, times and tables, for people.

use std::fmt::Write as _;
use std::io;

use super::screen::Screen;

/// `rows` below `header`, in columns.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            write!(line, "{cell:width$}  ").expect("writing to a String cannot fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    push(&mut header.iter().copied());
    for row in rows {
        push(&mut row.iter().map(String::as_str));
    }
    text
}

/// `text` on one line, without what would make a terminal do something; `-` for nothing.
pub(crate) fn cell(text: Option<&str>) -> String {
    let plain: String =
        text.unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// How long before `now` the moment `then` was; `then` as it stands where it is no RFC 3339 time.
pub(crate) fn ago(then: &str, now: jiff::Timestamp) -> String {
    let Ok(moment) = then.parse::<jiff::Timestamp>() else { return cell(Some(then)) };
    let seconds = (now.as_second() - moment.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Names and values below each other; what has no value is left out.
pub(crate) fn facts(facts: &[(&str, Option<String>)], screen: &mut Screen<'_>) -> io::Result<()> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts {
        if let Some(value) = value {
            screen.line(&format!("{name:width$}  {value}"))?;
        }
    }
    Ok(())
}

/// Why an id names nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoMatch {
    /// Nothing begins like that.
    None,
    /// More than one thing does: these, newest first as they were given, at most ten.
    Several(Vec<String>),
}

/// The one of `ids` that is `asked`, or that alone begins with it.
pub(crate) fn matching<'a>(ids: impl IntoIterator<Item = &'a str>, asked: &str) -> Result<&'a str, NoMatch> {
    if asked.is_empty() {
        return Err(NoMatch::None);
    }
    let mut found = Vec::new();
    for id in ids {
        if id == asked {
            return Ok(id);
        }
        if id.starts_with(asked) {
            found.push(id);
        }
    }
    match found[..] {
        [] => Err(NoMatch::None),
        [only] => Ok(only),
        _ => Err(NoMatch::Several(found.into_iter().take(10).map(str::to_owned).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["r1".into(), "early-stopping".into(), "-".into()],
            vec!["r22".into(), "ü".into(), "done".into()],
        ];
        let expected = "ID   STATUS          WHY\nr1   early-stopping  -\nr22  ü               done\n";
        assert_eq!(table(&["ID", "STATUS", "WHY"], &rows), expected);
        assert_eq!(table(&["ID", "STATUS"], &[]), "ID  STATUS\n");
    }

    #[test]
    fn a_cell_is_one_harmless_line() {
        assert_eq!(cell(Some("a\n  b\u{1b}[2J\tc")), "a b [2J c");
        assert_eq!(cell(Some(" \n")), "-");
        assert_eq!(cell(None), "-");
    }

    #[test]
    fn times_are_relative() {
        let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (then, want) in [
            ("2026-01-02T03:04:05.900Z", "0 s ago"),
            ("2026-01-02T03:04:06Z", "0 s ago"),
            ("2026-01-02T03:03:06Z", "59 s ago"),
            ("2026-01-02T02:04:06Z", "59 min ago"),
            ("2026-01-01T03:04:06Z", "23 h ago"),
            ("2025-12-02T03:04:05Z", "31 d ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(ago(then, now), want);
        }
    }

    #[test]
    fn a_unique_beginning_is_enough() {
        let ids = ["ra1", "ra2", "rb", "rb3"];
        assert_eq!(matching(ids, "ra2"), Ok("ra2"));
        assert_eq!(matching(ids, "rb"), Ok("rb"), "an exact id wins over a longer one");
        assert_eq!(matching(["x9", "y"], "x"), Ok("x9"));
        assert_eq!(matching(ids, "ra"), Err(NoMatch::Several(vec!["ra1".into(), "ra2".into()])));
        assert_eq!(matching(ids, "z"), Err(NoMatch::None));
        assert_eq!(matching(ids, ""), Err(NoMatch::None));
    }
}
