//! The artifact store: bundles by the SHA-256 of their bytes.
//!
//! What must hold: under an artifact's address stand its bytes and nothing else, from the moment it is there until
//! it is pruned; what a reader was told of just now, what live runs use, and the newest are not pruned.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use wire::{Artifact, ContentHash, Failure};

use crate::bundle::options::BUNDLE_FILE;

/// Artifacts that are kept at most because they are fresh, so that a flood of saves does not fill the disk.
const FRESH: usize = 500;

/// What is kept although nobody said that it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// This many of the newest artifacts.
    pub newest: usize,
    /// Those that were published this long ago or less: a reader may be about to open them.
    pub fresh: Duration,
}

impl Default for Keep {
    /// The newest 20, and the last ten seconds.
    fn default() -> Self {
        Self { newest: 20, fresh: Duration::from_secs(10) }
    }
}

/// The bundles below one folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    keep: Keep,
    /// Addresses by when they were last published, oldest first. Nothing: before this store was opened.
    order: VecDeque<(ContentHash, Option<Instant>)>,
    /// Addresses of what live runs use. Until somebody has said which these are: of all that was there when this store
    /// was opened, since runs outlive the server that started them.
    retained: HashSet<ContentHash>,
}

impl Store {
    /// The store in `state`, the folder of the project's state, which is made if need be.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(crate) fn open(state: &Path, keep: Keep) -> io::Result<Self> {
        let folder = state.join("build");
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        hide_from_git(state)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)?.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_address(&name) && entry.path().is_dir() {
                let published = entry.metadata().and_then(|meta| meta.modified())?;
                found.push((published, ContentHash::from(name)));
            }
        }
        found.sort();
        let retained = found.iter().map(|(_, hash)| hash.clone()).collect();
        let order = found.into_iter().map(|(_, hash)| (hash, None)).collect();
        Ok(Self { folder, keep, order, retained })
    }

    /// Keeps `code`, and shows it if it is the bundle of the project's own entry, `file`.
    ///
    /// # Errors
    /// It cannot be written; says what to do.
    pub(crate) fn publish(&mut self, root: &Path, file: &Path, code: &str) -> Result<Artifact, Failure> {
        let published = self.put(code).and_then(|artifact| {
            if let Some(profile) = crate::project::profile_of(root, file) {
                let extra = profile.extra_bundle().map(|place| root.join(place));
                self.show(&artifact, extra.as_deref())?;
            }
            Ok(artifact)
        });
        published.map_err(|error| {
            let folder = self.folder.display();
            Failure::plain(format!(
                "the bundle cannot be written to {folder}: {error}; make room, or give yourself write permission"
            ))
        })
    }

    /// Puts `code` under its address.
    ///
    /// # Errors
    /// What the system said about writing it.
    fn put(&mut self, code: &str) -> io::Result<Artifact> {
        let content_hash = ContentHash::of(code.as_bytes());
        let folder = self.folder.join(content_hash.as_str());
        let path = folder.join(BUNDLE_FILE);
        if fs::read(&path).ok().as_deref() != Some(code.as_bytes()) {
            fs::create_dir_all(&folder)?;
            write_then_rename(&path, code.as_bytes())?;
        }
        self.order.retain(|(known, _)| *known != content_hash);
        self.order.push_back((content_hash.clone(), Some(Instant::now())));
        Ok(Artifact { content_hash, path: path.to_string_lossy().into_owned(), size: code.len() as u64 })
    }

    /// Shows `artifact` at the place for tools that expect one path, and at `extra` if there is such a place. A link
    /// is enough, and takes a fraction of the time of writing a large bundle again.
    ///
    /// # Errors
    /// What the system said about it.
    fn show(&self, artifact: &Artifact, extra: Option<&Path>) -> io::Result<()> {
        let place = self.folder.join(BUNDLE_FILE);
        for place in [Some(place.as_path()), extra].into_iter().flatten() {
            let folder = place.parent().unwrap_or(Path::new("/"));
            let target = path_between(folder, Path::new(&artifact.path));
            if fs::read_link(place).ok().as_ref() != Some(&target) {
                fs::create_dir_all(folder)?;
                link_then_rename(&target, place)?;
            }
        }
        Ok(())
    }

    /// From now on these are kept however old they are, and no others: not what was found either.
    pub(crate) fn retain(&mut self, hashes: Vec<ContentHash>) {
        self.retained = hashes.into_iter().collect();
    }

    /// Removes what is neither new, nor retained, nor in `current`.
    pub(crate) fn prune(&mut self, current: &BTreeSet<&ContentHash>) {
        let mut newer = self.order.len();
        let mut kept = VecDeque::with_capacity(self.order.len());
        for (hash, published) in std::mem::take(&mut self.order) {
            newer -= 1;
            let fresh = newer < FRESH && published.is_some_and(|at| at.elapsed() <= self.keep.fresh);
            let used = self.retained.contains(&hash) || current.contains(&hash);
            if newer < self.keep.newest || fresh || used {
                kept.push_back((hash, published));
            } else if let Err(error) = fs::remove_dir_all(self.folder.join(hash.as_str())) {
                tracing::warn!(%hash, %error, "an old bundle cannot be removed");
            }
        }
        self.order = kept;
    }
}

/// Whether `name` has the shape of an address.
fn is_address(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Readers see the old bytes or the new ones. What a power failure leaves does not matter: a bundle is made again.
fn write_then_rename(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path);
    fs::write(&temporary, bytes)?;
    rename(&temporary, path)
}

/// Readers see the old target or the new one.
fn link_then_rename(target: &Path, path: &Path) -> io::Result<()> {
    let temporary = beside(path);
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary)?;
    rename(&temporary, path)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).inspect_err(|_| {
        let _ = fs::remove_file(from);
    })
}

/// A name in the same folder that no other process uses.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// The way from `folder` to `path`, both absolute and without `..`.
fn path_between(folder: &Path, path: &Path) -> PathBuf {
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}

/// Nothing in a state folder is for git.
pub(crate) fn hide_from_git(state: &Path) -> io::Result<()> {
    let file = state.join(".gitignore");
    if file.exists() { Ok(()) } else { fs::write(file, "*\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(store: &Store) -> BTreeSet<String> {
        let entries = fs::read_dir(&store.folder).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| is_address(name))
            .collect()
    }

    fn names(hashes: &[&ContentHash]) -> BTreeSet<String> {
        hashes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_and_the_retained_survive() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join(".midrun");
        let keep = |newest| Keep { newest, fresh: Duration::ZERO };
        let mut store = Store::open(&state, keep(2)).unwrap();
        assert_eq!(fs::read_to_string(state.join(".gitignore")).unwrap(), "*\n");
        let put = |store: &mut Store, code: &str| store.put(code).unwrap().content_hash;
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|code| put(&mut store, code));
        store.retain(vec![a.clone()]);
        store.prune(&BTreeSet::from([&b]));
        assert_eq!(kept(&store), names(&[&a, &b, &c, &d]));
        assert_eq!(put(&mut store, "c"), c, "published again, so it is new again");
        store.retain(Vec::new());
        store.prune(&BTreeSet::new());
        assert_eq!(kept(&store), names(&[&c, &d]));
        let mut again = Store::open(&state, keep(1)).unwrap();
        again.retain(Vec::new());
        again.prune(&BTreeSet::new());
        assert_eq!(kept(&again).len(), 1);
        let mut fresh = Store::open(&state, Keep { newest: 1, ..Keep::default() }).unwrap();
        fresh.retain(Vec::new());
        let [e, f] = ["e", "f"].map(|code| put(&mut fresh, code));
        fresh.prune(&BTreeSet::new());
        assert_eq!(kept(&fresh), names(&[&e, &f]), "readers were told of both just now");
    }

    #[test]
    fn what_was_found_is_kept_until_somebody_said_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep { newest: 1, fresh: Duration::ZERO };
        let put = |store: &mut Store, code: &str| store.put(code).unwrap().content_hash;
        let mut earlier = Store::open(dir.path(), keep).unwrap();
        let [a, b] = ["a", "b"].map(|code| put(&mut earlier, code));
        let mut store = Store::open(dir.path(), keep).unwrap();
        assert_eq!(put(&mut store, "a"), a, "published again, which makes it no less old");
        let [_, d] = ["c", "d"].map(|code| put(&mut store, code));
        store.prune(&BTreeSet::new());
        assert_eq!(kept(&store), names(&[&a, &b, &d]), "what it made itself is pruned as ever");
        store.retain(vec![b.clone()]);
        store.prune(&BTreeSet::new());
        assert_eq!(kept(&store), names(&[&b, &d]));
    }

    #[test]
    fn an_artifact_has_its_bytes_whatever_stood_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), Keep::default()).unwrap();
        let artifact = store.put("export {};\n").unwrap();
        fs::write(&artifact.path, "broken").unwrap();
        assert_eq!(store.put("export {};\n").unwrap(), artifact);
        assert_eq!(fs::read_to_string(&artifact.path).unwrap(), "export {};\n");
        let extra = dir.path().join("other/build/index.mjs");
        for code in ["export {};\n", "export const a = 1;\n"] {
            let artifact = store.put(code).unwrap();
            store.show(&artifact, Some(&extra)).unwrap();
            assert_eq!(fs::read_to_string(&extra).unwrap(), code);
            assert_eq!(fs::read_to_string(dir.path().join("build/index.mjs")).unwrap(), code);
        }
    }
}
