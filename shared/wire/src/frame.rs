//! The lines of source around a place, as a person is shown them.

/// Lines of source before and after the place.
const AROUND: usize = 2;

/// Longest line of source that is shown whole, in characters.
const WIDTH: usize = 160;

/// The lines of `text` around `line`, with a caret under `column`. Both count from 1, the column in characters.
pub fn frame(text: &str, line: usize, column: usize) -> String {
    let (first, last) = (line.saturating_sub(AROUND).max(1), line + AROUND);
    let digits = last.to_string().len();
    let skipped = if column > WIDTH { column - WIDTH / 2 } else { 0 };
    let mut out = String::new();
    for (number, source) in (1..).zip(text.lines()).skip(first - 1).take(last + 1 - first) {
        let shown = source.chars().skip(skipped).take(WIDTH).map(|c| if c == '\t' { ' ' } else { c });
        let mark = if number == line { '>' } else { ' ' };
        out += format!("{mark} {number:digits$} | {}", shown.collect::<String>()).trim_end();
        out.push('\n');
        if number == line {
            out += &format!("  {:digits$} | {}^\n", "", " ".repeat(column.saturating_sub(1 + skipped)));
        }
    }
    out
}

/// How many characters of `line` stand before its UTF-16 column `utf16`, which counts from 0. Bundlers, source maps
/// and JavaScript engines count in UTF-16 code units.
pub fn characters_before(line: &str, utf16: usize) -> usize {
    let ends = line.chars().scan(0, |end, c| {
        *end += c.len_utf16();
        Some(*end)
    });
    ends.take_while(|end| *end <= utf16).count()
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
    fn a_frame_shows_two_lines_on_either_side() {
        let text: String = (1..=20).map(|n| format!("line {n}\n")).collect();
        let shown = frame(&text, 10, 1);
        assert_eq!(shown.lines().count(), 6);
        assert!(shown.starts_with("   8 | line 8\n") && shown.ends_with("  12 | line 12\n"), "{shown}");
        assert_eq!(frame("", 1, 1), "");
        assert_eq!(frame("a", 9, 1), "", "a place that is not there");
    }

    #[test]
    fn a_frame_of_a_long_line_stays_short() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let shown = frame(&text, 1, 5001);
        let (source, caret) = shown.split_once('\n').unwrap();
        assert!(source.len() < 200);
        assert_eq!(source.as_bytes()[caret.find('^').unwrap()], b'X');
    }

    #[test]
    fn columns_are_counted_in_characters() {
        assert_eq!(characters_before("a😀b", 3), 2);
        assert_eq!(characters_before("abc", 0), 0);
        assert_eq!(characters_before("abc", 9), 3);
    }
}
