//! `midrun init`: makes a project that trains at once.
//!
//! What must hold: nothing that is there already is changed, and what was kept is said. A folder that has an entry
//! gets no second one, since that could take the first one's place.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::screen::{Own, Screen};
use super::{Failure, Outcome, place};
use crate::cli;

/// A file of a new project: its path, and its text.
type Template = (&'static str, &'static str);

/// What every project needs, besides `package.json`.
const SURROUNDINGS: [Template; 3] = [
    (".gitignore", include_str!("../templates/gitignore")),
    ("tsconfig.json", include_str!("../templates/tsconfig.json")),
    ("midrun-env.d.ts", include_str!("../../../../shared/sdk/typescript/types/midrun-env.d.ts")),
];

/// The trainer: the example's own files. The entry is last: where it is, the others are.
const TRAINER: [Template; 3] = [
    ("src/midrun/callbacks.ts", include_str!("../../../../examples/adder/src/midrun/callbacks.ts")),
    ("src/midrun/dataset.ts", include_str!("../../../../examples/adder/src/midrun/dataset.ts")),
    ("src/midrun/index.ts", include_str!("../../../../examples/adder/src/midrun/index.ts")),
];

/// Carries out `midrun init`.
pub(crate) fn command(args: &cli::Init) -> Result<Outcome, Failure> {
    make(&args.dir, &mut Own::outputs().screen())
}

fn make(dir: &Path, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
    std::fs::create_dir_all(dir).map_err(|error| cannot(dir, &error))?;
    let package = package(dir)?;
    let entry = place::entry_of(dir);
    let mut files = vec![("package.json", package.as_str())];
    files.extend(SURROUNDINGS);
    match &entry {
        None => files.extend(TRAINER),
        Some(entry) => screen.line(&format!("kept  {}: the project has its trainer", entry.display()))?,
    }
    for (name, text) in files {
        let path = dir.join(name);
        match create(&path, text) {
            Ok(()) => screen.line(&format!("made  {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                screen.line(&format!("kept  {}: it was there", path.display()))?;
            }
            Err(error) => return Err(cannot(&path, &error)),
        }
    }
    screen.line(&next_steps(dir, entry.as_deref()))?;
    Ok(Outcome::DONE)
}

fn cannot(path: &Path, error: &io::Error) -> Failure {
    Failure::with_advice(
        format!("{} cannot be made: {error}", path.display()),
        "choose another folder: `midrun init DIR`. Files made so far are left; the same command goes on",
    )
}

/// Writes a new file. One that is there is left alone, whatever it is.
fn create(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::options().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| {
        // A part of a file would be kept by the next call.
        let _ = std::fs::remove_file(path);
    })
}

/// `package.json`, named after the folder.
fn package(dir: &Path) -> Result<String, Failure> {
    let path = dir.canonicalize().map_err(|error| cannot(dir, &error))?;
    let folder = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let name: String = folder.chars().map(|letter| if allowed(letter) { letter } else { '-' }).collect();
    // npm wants no name to begin with these.
    let name = name.trim_start_matches(['.', '_', '-']);
    let name = if name.is_empty() { "trainer" } else { name };
    let package = serde_json::json!({ "name": name, "private": true, "type": "module" });
    Ok(format!("{package:#}\n"))
}

fn next_steps(dir: &Path, entry: Option<&Path>) -> String {
    let enter = if dir == Path::new(".") { String::new() } else { format!("  cd {}\n", shown(dir)) };
    let edit = entry.map_or_else(
        || PathBuf::from("src/midrun/callbacks.ts"),
        |entry| entry.strip_prefix(dir).unwrap_or(entry).to_path_buf(),
    );
    format!(
        "\nNext:\n{enter}  midrun dev\n\nOpen the address that it prints, press Run, and edit {} while it trains.",
        edit.display()
    )
}

/// A path as a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '/' | '.' | '_' | '-');
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn init(dir: &Path) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = make(dir, &mut Screen { out: &mut out, err: &mut err, colours: false }).unwrap();
        assert_eq!(outcome, Outcome::DONE);
        assert!(err.is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_empty_folder_becomes_a_project() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("My First Trainer");
        let said = init(&project);
        assert_eq!(said.matches("made  ").count(), 1 + SURROUNDINGS.len() + TRAINER.len());
        assert!(
            said.contains("midrun dev") && said.contains("src/midrun/callbacks.ts while it trains"),
            "{said}"
        );
        assert_eq!(place::entry_of(&project), Some(project.join("src/midrun/index.ts")));
        let package: serde_json::Value =
            serde_json::from_slice(&fs::read(project.join("package.json")).unwrap()).unwrap();
        assert_eq!(package["name"], "my-first-trainer");
        assert_eq!(package["type"], "module");
        // What the entry imports is there.
        let entry = fs::read_to_string(project.join("src/midrun/index.ts")).unwrap();
        for import in entry.lines().filter_map(|line| line.split_once("from \"./")) {
            let name = import.1.split('"').next().unwrap().trim_end_matches(".ts");
            assert!(project.join(format!("src/midrun/{name}.ts")).is_file(), "{name}");
        }
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(project.join("tsconfig.json")).unwrap()).unwrap();
        assert_eq!(config["compilerOptions"]["noEmit"], true);
    }

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::create_dir_all(file("src/midrun")).unwrap();
        fs::write(file("package.json"), "mine").unwrap();
        fs::write(file("src/midrun/callbacks.ts"), "mine too").unwrap();
        std::os::unix::fs::symlink("nowhere", file("tsconfig.json")).unwrap();
        let said = init(dir.path());
        for name in ["package.json", "src/midrun/callbacks.ts", "tsconfig.json"] {
            assert!(said.contains(&format!("kept  {}: it was there", file(name).display())), "{said}");
        }
        assert_eq!(fs::read_to_string(file("package.json")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(file("src/midrun/callbacks.ts")).unwrap(), "mine too");
        assert!(!file("nowhere").exists());
        assert!(file("src/midrun/index.ts").is_file() && file(".gitignore").is_file());
        let again = init(dir.path());
        assert_eq!(again.matches("made  ").count(), 0, "{again}");
    }

    #[test]
    fn an_entry_gets_no_rival() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("src/arkor")).unwrap();
        fs::write(dir.path().join("src/arkor/index.ts"), "").unwrap();
        let said = init(dir.path());
        assert!(said.contains("src/arkor/index.ts: the project has its trainer"), "{said}");
        assert!(said.contains("edit src/arkor/index.ts while"), "{said}");
        assert!(!dir.path().join("src/midrun").exists());
        assert!(dir.path().join("midrun-env.d.ts").is_file());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours: false };
        let failure = make(&dir.path().join("file/project"), &mut screen).unwrap_err();
        assert!(matches!(failure, Failure::Failed { advice: Some(_), .. }));
    }

    #[test]
    fn a_path_is_shown_as_a_shell_takes_it() {
        assert_eq!(shown(Path::new("a/b-c")), "a/b-c");
        assert_eq!(shown(Path::new("it's mine")), r"'it'\''s mine'");
    }
}
