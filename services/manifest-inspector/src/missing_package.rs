//! A package that user code imports and that is not installed: which one, where it is imported, and what to do.
//!
//! Node refuses such an import before it runs anything, so there is no stack: the place is looked for in the sources
//! that the bundle was made of.

use std::path::Path;

use sourcemap::SourceMap;
use wire::frame::frame;
use wire::{Diagnostic, Failure};

/// What Node says of an import that it cannot resolve begins so; the package's name and a quote follow.
const NODE_SAYS: &str = "Cannot find package '";

/// What stands before the name of what is imported.
const IMPORTS: [&str; 4] = ["from", "import", "import(", "require("];

/// What the person who wrote the project at `root` is told when `said`, the message of an error of Node, is about a
/// package that is not installed. `map` is the source map of the bundle that imports it.
pub(crate) fn failure(said: &str, root: &Path, map: Option<&SourceMap>) -> Option<Failure> {
    let package = package_of(said.strip_prefix(NODE_SAYS)?.split('\'').next()?)?;
    let message = format!(
        "the package \"{package}\" is not installed: run `npm install {package}` in {}",
        root.display()
    );
    let place = map.and_then(|map| import_of(package, map));
    let diagnostics = place.map(|place| Diagnostic { message: message.clone(), ..place });
    Some(Failure { message, diagnostics: diagnostics.into_iter().collect() })
}

/// `name` of `name/deep/file.js`, `@scope/name` of `@scope/name/deep/file.js`; nothing of a path.
fn package_of(specifier: &str) -> Option<&str> {
    let segments = if specifier.starts_with('@') { 2 } else { 1 };
    let end = specifier.match_indices('/').nth(segments - 1).map_or(specifier.len(), |(at, _)| at);
    let package = &specifier[..end];
    let is_name = !package.starts_with(['/', '.']) && package.split('/').count() == segments;
    (is_name && package.split('/').all(|segment| !segment.is_empty())).then_some(package)
}

/// The first import of `package` in the sources; without a message.
fn import_of(package: &str, map: &SourceMap) -> Option<Diagnostic> {
    (0..map.get_source_count()).find_map(|id| {
        let (file, text) = (map.get_source(id)?, map.get_source_contents(id)?);
        let (number, line, at) = text
            .lines()
            .enumerate()
            .find_map(|(number, line)| Some((number + 1, line, import_in(line, package)?)))?;
        let column = 1 + line[..at].chars().count();
        Some(Diagnostic {
            file: Some(file.to_owned()),
            line: Some(u32::try_from(number).ok()?),
            column: Some(u32::try_from(column).ok()?),
            message: String::new(),
            frame: Some(frame(text, number, column)),
        })
    })
}

/// Where in `line` the name of what is imported begins, if that is `package` or something in it. What is imported as a
/// type alone is not imported when the code runs.
fn import_in(line: &str, package: &str) -> Option<usize> {
    let code = line.trim_start();
    if ["//", "*", "import type "].iter().any(|other| code.starts_with(other)) {
        return None;
    }
    line.match_indices(package).map(|(at, _)| at).find(|at| {
        let (before, after) = (&line[..*at], &line[at + package.len()..]);
        let quote = before.chars().next_back().filter(|quote| matches!(quote, '"' | '\''));
        let is_whole = quote.is_some_and(|quote| after.starts_with([quote, '/']));
        let before = before.trim_end_matches(['"', '\'']).trim_end();
        is_whole && IMPORTS.iter().any(|word| before.ends_with(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &str, sources: &[(&str, &str)]) -> Option<Failure> {
        let mut builder = sourcemap::SourceMapBuilder::new(None);
        for (name, text) in sources {
            let source = builder.add_source(name);
            builder.set_source_contents(source, Some(text));
        }
        failure(said, Path::new("/my/project"), Some(&builder.into_sourcemap()))
    }

    fn said(package: &str) -> String {
        format!("Cannot find package '{package}' imported from /my/project/.midrun/build/ab/index.mjs")
    }

    #[test]
    fn the_package_its_import_and_what_to_do_are_told() {
        let other =
            "// from \"nopkg\" comes nothing\nimport type { T } from \"nopkg\";\nimport a from \"nopkgs\";\n";
        let entry = "const a = 1;\nimport x from \"nopkg\";\n";
        let failure =
            told(&said("nopkg"), &[("src/midrun/other.ts", other), ("src/midrun/index.ts", entry)]).unwrap();
        let message = "the package \"nopkg\" is not installed: run `npm install nopkg` in /my/project";
        assert_eq!(failure.message, message);
        let [place] = failure.diagnostics.as_slice() else { panic!("{failure:?}") };
        assert_eq!(place.file.as_deref(), Some("src/midrun/index.ts"));
        assert_eq!((place.line, place.column, place.message.as_str()), (Some(2), Some(16), message));
        assert!(place.frame.as_deref().is_some_and(|frame| frame.contains("> 2 | import x")), "{place:?}");
    }

    #[test]
    fn every_form_of_an_import_is_found() {
        for line in [
            "import x from 'nopkg';",
            "import \"nopkg/deep/file.js\";",
            "} from \"nopkg\";",
            "export * from \"nopkg\"",
            "const x = await import(\"nopkg\");",
            "const x = require( \"nopkg\" );",
        ] {
            let failure = told(&said("nopkg"), &[("a.ts", line)]).unwrap();
            assert_eq!(failure.diagnostics.len(), 1, "{line}");
        }
        let failure = told(&said("nopkg"), &[("a.ts", "const nopkg = \"nopkg\";")]).unwrap();
        assert!(failure.diagnostics.is_empty(), "nothing imports it: {failure:?}");
    }

    #[test]
    fn what_is_installed_is_the_package_and_not_a_file_of_it() {
        for (specifier, package) in [
            ("nopkg/deep/file.js", Some("nopkg")),
            ("@scope/name", Some("@scope/name")),
            ("@scope/name/file.js", Some("@scope/name")),
            ("@scope", None),
            ("/my/project/node_modules/nopkg/index.js", None),
            ("", None),
        ] {
            assert_eq!(package_of(specifier), package, "{specifier}");
        }
        assert_eq!(told("boom", &[]), None);
        assert_eq!(told("Cannot find module '/a/b.js' imported from /c.mjs", &[]), None);
    }
}
