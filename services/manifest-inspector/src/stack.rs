//! A stack as V8 writes it, and what it says in terms of the user's source.
//!
//! The bundle is built without a source map, because every save would pay for it; when user code throws, the map is
//! made after the fact. Frames of Node and of the worker itself mean nothing to the user and are left out.

use std::path::Path;

use sourcemap::SourceMap;
use wire::frame::{characters_before, frame};
use wire::{Diagnostic, Failure};

use crate::missing_package;
use crate::protocol::Thrown;

/// Frames that are shown at most.
const SHOWN: usize = 20;

/// One line of a stack. Lines and columns count from 1, the column in UTF-16 code units.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame<'a> {
    function: Option<&'a str>,
    path: String,
    line: u32,
    column: u32,
}

/// A place in the user's source, its column in characters.
struct Place {
    file: String,
    line: u32,
    column: u32,
    frame: Option<String>,
}

/// What `thrown` means for the person who wrote the project at `root`. `artifact` is the path of the bundle that
/// threw, `map` its source map, if there is one.
pub(crate) fn failure(thrown: &Thrown, root: &Path, artifact: &Path, map: Option<&str>) -> Failure {
    let map = map.and_then(|text| SourceMap::from_slice(text.as_bytes()).ok());
    if let Some(failure) = missing_package::failure(&thrown.message, root, map.as_ref()) {
        return failure;
    }
    let headline = headline(thrown);
    let mut message = headline.clone();
    let mut first = None;
    for found in frames(&thrown.stack).filter(|found| is_of_interest(found, artifact)).take(SHOWN) {
        let mapped =
            map.as_ref().filter(|_| Path::new(&found.path) == artifact).and_then(|map| locate(map, &found));
        let place = mapped.as_ref().map_or_else(
            || format!("{}:{}:{}", relative(&found.path, root), found.line, found.column),
            |place| format!("{}:{}:{}", place.file, place.line, place.column),
        );
        message += &match found.function {
            Some(function) => format!("\n    at {function} ({place})"),
            None => format!("\n    at {place}"),
        };
        first = first.or(mapped);
    }
    let diagnostics = first.map(|place| Diagnostic {
        file: Some(place.file),
        line: Some(place.line),
        column: Some(place.column),
        message: headline,
        frame: place.frame,
    });
    Failure { message, diagnostics: diagnostics.into_iter().collect() }
}

/// `TypeError: what is wrong`, as V8 would begin the stack.
fn headline(thrown: &Thrown) -> String {
    match (thrown.name.as_str(), thrown.message.as_str()) {
        ("", message) => message.to_owned(),
        (name, "") => name.to_owned(),
        (name, message) => format!("{name}: {message}"),
    }
}

fn frames(stack: &str) -> impl Iterator<Item = Frame<'_>> {
    stack.lines().filter_map(|line| parse(line.trim_start().strip_prefix("at ")?))
}

/// `name (file:///…:3:26)`, `async name (…)`, or the place alone.
fn parse(text: &str) -> Option<Frame<'_>> {
    let (function, place) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, place)) => (Some(function), place),
        None => (None, text.strip_prefix("async ").unwrap_or(text)),
    };
    let mut parts = place.rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    Some(Frame { function, path: path(parts.next()?)?, line, column })
}

/// The path that a place names, unless it is inside Node.
fn path(place: &str) -> Option<String> {
    match place.strip_prefix("file://") {
        Some(url) => percent_decoded(url.split(['?', '#']).next()?),
        None => place.starts_with('/').then(|| place.to_owned()),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// The user's code and what it uses, but not what evaluates it.
fn is_of_interest(found: &Frame<'_>, artifact: &Path) -> bool {
    Path::new(&found.path) == artifact || found.path.contains("/node_modules/")
}

fn locate(map: &SourceMap, found: &Frame<'_>) -> Option<Place> {
    let (line, column) = (found.line.checked_sub(1)?, found.column.checked_sub(1)?);
    let token =
        map.lookup_token(line, column).filter(|token| token.get_dst_line() == line && token.has_source())?;
    let text = map.get_source_contents(token.get_src_id());
    let source = text.and_then(|text| text.lines().nth(usize::try_from(token.get_src_line()).ok()?));
    let utf16 = usize::try_from(token.get_src_col()).ok()?;
    let column = 1 + source.map_or(utf16, |source| characters_before(source, utf16));
    let line = token.get_src_line() + 1;
    Some(Place {
        file: token.get_source()?.to_owned(),
        line,
        column: u32::try_from(column).ok()?,
        frame: text.and_then(|text| Some(frame(text, usize::try_from(line).ok()?, column))),
    })
}

fn relative<'a>(path: &'a str, root: &Path) -> &'a str {
    Path::new(path).strip_prefix(root).ok().and_then(Path::to_str).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(Option<&str>, String, u32, u32)> {
        parse(text).map(|found| (found.function, found.path, found.line, found.column))
    }

    #[test]
    fn every_form_of_a_frame_is_understood() {
        let path = || "/p/index.mjs".to_owned();
        assert_eq!(parsed("inner (file:///p/index.mjs:3:26)"), Some((Some("inner"), path(), 3, 26)));
        assert_eq!(parsed("file:///p/index.mjs:4:3"), Some((None, path(), 4, 3)));
        assert_eq!(parsed("async file:///p/index.mjs:4:3"), Some((None, path(), 4, 3)));
        assert_eq!(
            parsed("async Object.f (file:///p/index.mjs?again=2:4:3)"),
            Some((Some("async Object.f"), path(), 4, 3))
        );
        assert_eq!(parsed("new A (/p/index.mjs:4:3)"), Some((Some("new A"), path(), 4, 3)));
        let spaced = Some((None, "/my p/日本.mjs".to_owned(), 1, 2));
        assert_eq!(parsed("file:///my%20p/%E6%97%A5%E6%9C%AC.mjs:1:2"), spaced);
        for nothing in [
            "node:internal/vm/module:230:23",
            "f (native)",
            "f (<anonymous>)",
            "f (eval at x:1:2)",
            "",
            ":1:2",
        ] {
            assert_eq!(parsed(nothing), None, "{nothing}");
        }
        assert_eq!(percent_decoded("/100%/%zz/%41").as_deref(), Some("/100%/%zz/A"));
    }

    fn thrown() -> Thrown {
        let stack = "RangeError: boom\n    at inner (file:///p/.midrun/build/ab/index.mjs:2:3)\n    \
                     at parse (file:///p/node_modules/yaml/index.js:7:1)\n    \
                     at file:///p/.midrun/build/ab/index.mjs:9:1\n    \
                     at SourceTextModule.evaluate (node:internal/vm/module:230:23)\n    \
                     at async evaluateModule (file:///p/.midrun/sdk/inspector-worker.mjs:40:2)";
        Thrown { name: "RangeError".into(), message: "boom".into(), stack: stack.into() }
    }

    /// Line 2, column 2 of the bundle is line 3, column 4 of a source with a character beyond the BMP before it.
    fn map() -> String {
        let mut builder = sourcemap::SourceMapBuilder::new(None);
        let source = builder.add_source("src/midrun/index.ts");
        builder.set_source_contents(source, Some("const a = 1;\n\n  😀throw it;\nlast;\n"));
        builder.add(1, 2, 2, 4, Some("src/midrun/index.ts"), None, false);
        let mut text = Vec::new();
        builder.into_sourcemap().to_writer(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_stack_is_told_in_terms_of_the_source() {
        let (root, artifact) = (Path::new("/p"), Path::new("/p/.midrun/build/ab/index.mjs"));
        let failure = failure(&thrown(), root, artifact, Some(&map()));
        assert_eq!(
            failure.message,
            "RangeError: boom\n    at inner (src/midrun/index.ts:3:4)\n    at parse (node_modules/yaml/index.js:7:1)\n    \
             at .midrun/build/ab/index.mjs:9:1"
        );
        let [diagnostic] = failure.diagnostics.as_slice() else { panic!("{failure:?}") };
        assert_eq!(diagnostic.file.as_deref(), Some("src/midrun/index.ts"));
        assert_eq!((diagnostic.line, diagnostic.column), (Some(3), Some(4)));
        assert_eq!(diagnostic.message, "RangeError: boom");
        assert!(
            diagnostic.frame.as_deref().unwrap().contains("> 3 |   😀throw it;\n    |    ^\n"),
            "{diagnostic:?}"
        );
    }

    #[test]
    fn without_a_map_the_stack_names_the_bundle() {
        let (root, artifact) = (Path::new("/p"), Path::new("/p/.midrun/build/ab/index.mjs"));
        for map in [None, Some("no map at all")] {
            let failure = failure(&thrown(), root, artifact, map);
            assert!(
                failure.message.contains("at inner (.midrun/build/ab/index.mjs:2:3)"),
                "{}",
                failure.message
            );
            assert!(failure.diagnostics.is_empty());
        }
    }

    #[test]
    fn what_is_no_error_is_told_too() {
        let told = |name: &str, message: &str| {
            headline(&Thrown { name: name.into(), message: message.into(), stack: String::new() })
        };
        assert_eq!(told("thrown value", "a text"), "thrown value: a text");
        assert_eq!(told("Error", ""), "Error");
        assert_eq!(told("", "boom"), "boom");
    }
}
