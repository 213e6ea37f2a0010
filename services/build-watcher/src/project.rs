//! Where a project's entry is, and which of its files nobody is interested in.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use wire::{EntryPath, Profile, profile};

/// Folders whose content is never of interest, unless a bundle imports it.
const FOREIGN: [&str; 4] = ["node_modules", ".git", ".midrun", ".arkor"];

/// Folders that are looked at for where a file could appear, at most.
const FOLDERS: usize = 1000;

/// The project's own entry: the first that exists, in the order of the profiles and of their extensions.
pub fn find_entry(root: &Path) -> Option<(Profile, EntryPath)> {
    Profile::ALL.into_iter().find_map(|profile| {
        let folder = root.join(profile.source_dir());
        let mut files =
            profile::ENTRY_EXTENSIONS.iter().map(|extension| folder.join(format!("index.{extension}")));
        let file = files.find(|file| file.is_file())?;
        Some((profile, EntryPath::from(file.to_string_lossy().as_ref())))
    })
}

/// The profile whose own entry `file` is, if it is one.
pub(crate) fn profile_of(root: &Path, file: &Path) -> Option<Profile> {
    let is_index = file.file_stem().is_some_and(|stem| stem == "index");
    let folder = file.parent()?;
    Profile::ALL.into_iter().find(|profile| is_index && folder == root.join(profile.source_dir()))
}

/// The file to build for `entry`: the entry itself or, where that is missing and it is the project's own, the file
/// that stands in its place.
pub(crate) fn file_of(root: &Path, entry: &Path) -> PathBuf {
    let other = || find_entry(root).map(|(_, file)| PathBuf::from(file.as_str()));
    let missing = !entry.is_file();
    if missing && profile_of(root, entry).is_some() { other() } else { None }
        .unwrap_or_else(|| entry.to_owned())
}

/// `path` with the links in its folder resolved; the file itself may be a link, or missing.
pub(crate) fn real_name(path: &Path) -> PathBuf {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    match folder.canonicalize() {
        Ok(real) => real.join(name),
        Err(_) => real_name(folder).join(name),
    }
}

/// `path` relative to `root` where it is below it.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// The folder itself if it exists, else the nearest one above it that does; with links resolved.
pub(crate) fn nearest_folder(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|folder| folder.is_dir())?.canonicalize().ok()
}

/// The folders below `top` (and `top`) in which a file of the project could appear, at most 1000.
pub(crate) fn source_folders(top: &Path) -> Vec<PathBuf> {
    let walk = ignore::WalkBuilder::new(top)
        .ignore(false)
        .git_global(false)
        .require_git(false)
        .filter_entry(|entry| {
            entry.file_type().is_some_and(|kind| kind.is_dir()) && !is_foreign(entry.path())
        })
        .build();
    walk.filter_map(Result::ok).take(FOLDERS).map(ignore::DirEntry::into_path).collect()
}

fn is_foreign(path: &Path) -> bool {
    path.file_name().is_some_and(|name| FOREIGN.iter().any(|foreign| name == *foreign))
}

/// What nobody is interested in, as `.gitignore` files say it. Each is read once, until [`Ignored::forget`].
#[derive(Debug)]
pub(crate) struct Ignored {
    root: PathBuf,
    rules: HashMap<PathBuf, Gitignore>,
}

impl Ignored {
    /// For the project at `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, rules: HashMap::new() }
    }

    /// Reads the rules again when they are next needed.
    pub(crate) fn forget(&mut self) {
        self.rules.clear();
    }

    /// Whether `path` is hidden, foreign or ignored. Says nothing about whether a bundle imports it.
    pub(crate) fn contains(&mut self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.root) else { return is_foreign(path) };
        let hidden = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
        if below.components().any(|part| hidden(part) || is_foreign(Path::new(part.as_os_str()))) {
            return true;
        }
        let is_dir = path.is_dir();
        let folders: Vec<_> = below.ancestors().skip(1).map(|folder| self.root.join(folder)).collect();
        folders.into_iter().find_map(|folder| {
            let rules = self.rules.entry(folder).or_insert_with_key(|folder| read_rules(folder));
            let verdict = rules.matched_path_or_any_parents(path, is_dir);
            (!verdict.is_none()).then(|| verdict.is_ignore())
        }) == Some(true)
    }
}

fn read_rules(folder: &Path) -> Gitignore {
    let file = folder.join(".gitignore");
    if !file.is_file() {
        return Gitignore::empty();
    }
    let mut builder = GitignoreBuilder::new(folder);
    if let Some(error) = builder.add(&file) {
        tracing::warn!(file = %file.display(), %error, "part of this file is not understood");
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

/// Extensions of files that an import may name without.
const PROGRAM: [&str; 8] = ["ts", "tsx", "mts", "cts", "js", "jsx", "mjs", "cjs"];

/// Whether `path` has the extension of a program's file.
pub(crate) fn is_program(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|extension| PROGRAM.contains(&extension))
}

/// Whether a change of this file changes what specifiers mean.
pub(crate) fn is_resolver_config(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    name == "package.json" || (name.starts_with("tsconfig") && name.ends_with(".json"))
}

/// Tells whether git is changing the files of a project.
#[derive(Debug)]
pub(crate) struct Checkout {
    lock: Option<PathBuf>,
}

/// A lock older than this was left by a git that died.
const LOCK_AGE: std::time::Duration = std::time::Duration::from_secs(10);

impl Checkout {
    /// For the project at `root`, which may be anywhere in a working tree.
    pub(crate) fn of(root: &Path) -> Self {
        let lock = root.ancestors().find_map(|folder| {
            let git = folder.join(".git");
            let meta = std::fs::metadata(&git).ok()?;
            if meta.is_dir() {
                return Some(git.join("index.lock"));
            }
            let text = std::fs::read_to_string(&git).ok()?;
            Some(folder.join(text.strip_prefix("gitdir:")?.trim()).join("index.lock"))
        });
        Self { lock }
    }

    /// Whether it is doing so now.
    pub(crate) fn is_running(&self) -> bool {
        let meta = self.lock.as_ref().and_then(|lock| std::fs::symlink_metadata(lock).ok());
        let age = meta.and_then(|meta| meta.modified().ok()).and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age < LOCK_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_first_entry_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_entry(dir.path()), None);
        let file = |name: &str| dir.path().join(name);
        for (name, profile) in [
            ("src/arkor/index.mjs", Profile::Arkor),
            ("src/arkor/index.ts", Profile::Arkor),
            ("src/midrun/index.js", Profile::Midrun),
            ("src/midrun/index.tsx", Profile::Midrun),
        ] {
            write(&file(name), "");
            let expected = EntryPath::from(file(name).to_str().unwrap());
            assert_eq!(find_entry(dir.path()), Some((profile, expected)));
        }
        assert_eq!(profile_of(dir.path(), &file("src/arkor/index.ts")), Some(Profile::Arkor));
        assert_eq!(profile_of(dir.path(), &file("src/arkor/other.ts")), None);
        assert_eq!(file_of(dir.path(), &file("src/midrun/index.ts")), file("src/midrun/index.tsx"));
        assert_eq!(file_of(dir.path(), &file("other.ts")), file("other.ts"));
    }

    #[test]
    fn ignored_is_what_git_ignores_and_what_is_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        write(&file(".gitignore"), "/data\n*.log.ts\n");
        write(&file("src/.gitignore"), "generated\n!keep.log.ts\n");
        for folder in ["data/deep", "src/generated/deep", "src/lib", "src/node_modules/x", "src/.hidden"] {
            fs::create_dir_all(file(folder)).unwrap();
        }
        let mut ignored = Ignored::new(dir.path().to_owned());
        for name in [
            "data/a.ts",
            "x.log.ts",
            "src/generated/a.ts",
            "src/generated/deep/a.ts",
            "node_modules/p/index.js",
            ".midrun/build/index.mjs",
            "src/.#lock.ts",
        ] {
            assert!(ignored.contains(&file(name)), "{name}");
        }
        for name in ["src/a.ts", "src/keep.log.ts", "src/data/a.ts"] {
            assert!(!ignored.contains(&file(name)), "{name}");
        }
        let mut folders = source_folders(&file("src"));
        folders.sort();
        assert_eq!(folders, [file("src"), file("src/lib")]);
        write(&file("src/.gitignore"), "");
        ignored.forget();
        assert!(!ignored.contains(&file("src/generated/a.ts")));
    }

    #[test]
    fn a_lock_tells_of_a_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        write(&tree.join(".git/index.lock"), "");
        let checkout = Checkout::of(&tree.join("deep/project"));
        assert!(checkout.is_running());
        fs::remove_file(tree.join(".git/index.lock")).unwrap();
        assert!(!checkout.is_running());
        write(&dir.path().join("linked/.git"), "gitdir: ../tree/.git\n");
        write(&tree.join(".git/index.lock"), "");
        assert!(Checkout::of(&dir.path().join("linked")).is_running());
    }
}
