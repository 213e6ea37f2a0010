//! A project's folder, and the ways in which editors and tools change files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Which names a project uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `src/midrun`.
    Midrun,
    /// `src/arkor`.
    Arkor,
}

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    dir: PathBuf,
    layout: Layout,
}

const PACKAGE: &str = "{\"name\":\"staged\",\"private\":true,\"type\":\"module\"}\n";

impl Project {
    /// A project in `dir` that has a `package.json` and no source.
    pub(crate) fn make(dir: PathBuf, layout: Layout) -> Self {
        make_folder(&dir);
        let project = Self { dir: dir.canonicalize().expect("it was just made"), layout };
        make_folder(&project.source());
        write(&project.dir.join("package.json"), PACKAGE);
        project
    }

    /// A copy of what is tracked in `from`.
    pub(crate) fn copy(from: &Path, dir: PathBuf) -> Self {
        copy_folder(from, &dir);
        Self { dir: dir.canonicalize().expect("it was just made"), layout: Layout::Midrun }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the entry.
    pub fn source(&self) -> PathBuf {
        self.dir.join("src").join(match self.layout {
            Layout::Midrun => "midrun",
            Layout::Arkor => "arkor",
        })
    }

    /// The path of a file, by its path from the entry's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }

    /// Writes a file in place: it is empty for a moment. `name` is relative to the entry's folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        make_folder(path.parent().expect("a file is in a folder"));
        write(&path, text);
    }

    /// Writes a file under another name and renames it over, as careful editors do.
    pub fn replace(&self, name: &str, text: &str) {
        let (path, fresh) = (self.file(name), self.file(&format!(".{name}.swp")));
        write(&fresh, text);
        std::fs::rename(&fresh, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Deletes a file.
    pub fn delete(&self, name: &str) {
        let path = self.file(name);
        std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Runs git in the project.
    ///
    /// # Panics
    /// When git fails.
    pub fn git(&self, args: &[&str]) {
        let mut command = Command::new("git");
        command.args([
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.com",
            "-c",
            "commit.gpgsign=false",
        ]);
        command.args(args).current_dir(&self.dir).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let ended = command.output().unwrap_or_else(|error| panic!("git: {error}"));
        assert!(ended.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn make_folder(path: &Path) {
    std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// What a copy leaves out: what tools made there.
const MADE: [&str; 3] = ["node_modules", ".midrun", ".git"];

fn copy_folder(from: &Path, to: &Path) {
    make_folder(to);
    let entries = std::fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    for entry in entries {
        let entry = entry.expect("a folder that was opened can be read");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if MADE.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if source.is_dir() {
            copy_folder(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        }
    }
}
