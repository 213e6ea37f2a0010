//! One build of an entry, outside the loop.

use std::path::Path;
use std::sync::mpsc;

use wire::profile::STATE_DIR;
use wire::{Artifact, ContentHash, EntryPath, Failure};

use crate::bundle::threads::{self, Threads};
use crate::bundle::{self, Changed, EntryBundler};
use crate::project;
use crate::store::{Keep, Store};

/// Builds `entry` of the project at `root` once, and keeps the artifact where the loop would. Blocks; may be called
/// from anywhere.
///
/// # Errors
/// The build failed, or its artifact cannot be written.
pub fn build_once(root: &Path, entry: &EntryPath) -> Result<Artifact, Failure> {
    let plain = |error: std::io::Error| Failure::plain(format!("{}: {error}", root.display()));
    let root = root.canonicalize().map_err(plain)?;
    let file = project::file_of(&root, &project::real_name(Path::new(entry.as_str())));
    if !file.is_file() {
        return Err(Failure::plain(format!("there is no {}: create it", project::relative(&root, &file))));
    }
    let mut bundler = EntryBundler::new(root.clone(), file.clone());
    let code = on_own_thread(move |threads| bundler.build(threads, &Changed::Anything).code)?;
    let code = code.map_err(|complaint| complaint.failure)?;
    let mut store = Store::open(&root.join(STATE_DIR), Keep::default()).map_err(plain)?;
    store.publish(&root, &file, &code)
}

/// Builds `entry` of the project at `root` once more, for its source map (version 3, JSON text); nothing when its
/// bytes are not those of `content_hash` any more. Blocks; may be called from anywhere.
pub fn map_once(root: &Path, entry: &EntryPath, content_hash: &ContentHash) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let file = project::file_of(&root, &project::real_name(Path::new(entry.as_str())));
    let mapped = on_own_thread(move |threads| bundle::build_mapped(&root, &file, threads)).ok()?.ok()?;
    mapped.map.filter(|_| ContentHash::of(mapped.code.as_bytes()) == *content_hash)
}

/// Runs `task` on a thread of its own, since the calling one may be running asynchronous code, and waits for it.
pub(crate) fn on_own_thread<T: Send + 'static>(
    task: impl FnOnce(&Threads) -> T + Send + 'static,
) -> Result<T, Failure> {
    let (done, result) = mpsc::channel();
    let run = move |threads: &Threads| drop(done.send(task(threads)));
    threads::spawn(run).map_err(|error| Failure::plain(format!("no build is possible: {error}")))?;
    result.recv().map_err(|_| Failure::plain("the bundler failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_its_own_map_until_its_sources_change() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("index.ts");
        std::fs::write(&source, "export const one: number = 1;\n").unwrap();
        let entry = EntryPath::from(source.to_str().unwrap());
        let artifact = build_once(dir.path(), &entry).unwrap();
        let map = map_once(dir.path(), &entry, &artifact.content_hash).unwrap();
        assert!(map.contains("index.ts"), "{map}");
        std::fs::write(&source, "export const one: number = 2;\n").unwrap();
        assert_eq!(map_once(dir.path(), &entry, &artifact.content_hash), None);
    }
}
