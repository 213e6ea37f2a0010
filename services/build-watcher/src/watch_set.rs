//! Which folders are watched.
//!
//! What must hold: each folder that is wanted and exists is watched, as the folder that stands there now and not as
//! one that stood there before; a folder that cannot be watched is an error that says how to mend it. Folders are
//! watched one by one, never with what is below them, so an ignored folder costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::bundle::stamp::Identity;

/// Something that watches folders.
pub(crate) trait Watches: Send {
    /// Tells of changes in `folder` from now on.
    fn watch(&mut self, folder: &Path) -> notify::Result<()>;
    /// No longer does.
    fn unwatch(&mut self, folder: &Path);
}

impl Watches for RecommendedWatcher {
    fn watch(&mut self, folder: &Path) -> notify::Result<()> {
        notify::Watcher::watch(self, folder, RecursiveMode::NonRecursive)
    }

    fn unwatch(&mut self, folder: &Path) {
        // It may be gone, and its watch with it.
        let _ = notify::Watcher::unwatch(self, folder);
    }
}

/// How much a folder matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// A file could appear in it.
    Hope,
    /// A bundle is made of files in it.
    Use,
}

/// The folders that are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted(BTreeMap<PathBuf, Need>);

impl Wanted {
    /// Wants `folder`.
    pub(crate) fn add(&mut self, folder: &Path, need: Need) {
        match self.0.get_mut(folder) {
            Some(known) => *known = need.max(*known),
            None => {
                self.0.insert(folder.to_owned(), need);
            }
        }
    }
}

/// What a change of the watches came to.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    /// Folders that were not watched before.
    pub(crate) added: BTreeSet<PathBuf>,
    /// Why a folder that matters is not watched, for a person.
    pub(crate) trouble: Option<String>,
}

/// Makes a watcher, or says why there is none and how to mend it.
pub(crate) type MakeWatcher = Box<dyn FnMut() -> Result<Box<dyn Watches>, String> + Send>;

/// The folders that are watched.
pub(crate) struct WatchSet {
    make: MakeWatcher,
    /// Nothing before it is needed.
    watcher: Option<Box<dyn Watches>>,
    installed: HashMap<PathBuf, Identity>,
}

impl WatchSet {
    /// Watches nothing yet.
    pub(crate) fn new(make: MakeWatcher) -> Self {
        Self { make, watcher: None, installed: HashMap::new() }
    }

    /// A folder is no longer where it was: gives up the watches on it and on what was below it, if there are any.
    pub(crate) fn lost(&mut self, folder: &Path) -> bool {
        let lost: Vec<_> = self.installed.keys().filter(|w| w.starts_with(folder)).cloned().collect();
        lost.iter().for_each(|folder| self.remove(folder));
        !lost.is_empty()
    }

    /// Watches what is wanted, and nothing else.
    pub(crate) fn sync(&mut self, wanted: &Wanted) -> Synced {
        let mut synced = Synced::default();
        if self.watcher.is_none() && !wanted.0.is_empty() {
            match (self.make)() {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(trouble) => {
                    synced.trouble = Some(trouble);
                    return synced;
                }
            }
        }
        let surplus: Vec<_> = self.installed.keys().filter(|f| !wanted.0.contains_key(*f)).cloned().collect();
        surplus.iter().for_each(|folder| self.remove(folder));
        // What matters most gets the watches that are left.
        for need in [Need::Use, Need::Hope] {
            for (folder, _) in wanted.0.iter().filter(|(_, n)| **n == need) {
                self.install(folder, need, &mut synced);
            }
        }
        synced
    }

    fn remove(&mut self, folder: &Path) {
        if let (Some(_), Some(watcher)) = (self.installed.remove(folder), &mut self.watcher) {
            watcher.unwatch(folder);
        }
    }

    fn install(&mut self, folder: &Path, need: Need, synced: &mut Synced) {
        let identity = std::fs::metadata(folder).ok().map(|meta| Identity::of(&meta));
        if self.installed.get(folder) == identity.as_ref() {
            return;
        }
        self.remove(folder);
        let (Some(identity), Some(watcher)) = (identity, &mut self.watcher) else { return };
        match watcher.watch(folder) {
            Ok(()) => {
                self.installed.insert(folder.to_owned(), identity);
                synced.added.insert(folder.to_owned());
            }
            Err(error) => {
                if let Some(trouble) = explain(&error, folder, need) {
                    synced.trouble.get_or_insert(trouble);
                }
            }
        }
    }
}

/// What stands in the way of watching `folder`, and how to mend it. Nothing if it does not matter.
fn explain(error: &notify::Error, folder: &Path, need: Need) -> Option<String> {
    let folder = folder.display();
    match &error.kind {
        ErrorKind::PathNotFound => None,
        ErrorKind::MaxFilesWatch => Some(format!(
            "cannot watch {folder}: the system's limit of watched folders is reached. Raise it with `sudo sysctl \
             fs.inotify.max_user_watches=524288` (and `fs.inotify.max_user_instances=512`), or close another \
             program that watches files"
        )),
        ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::PermissionDenied => match need {
            Need::Use => Some(format!(
                "cannot watch {folder}: permission denied. Files in it are part of the bundle, so give yourself \
                 read permission (`chmod u+rx {folder}`)"
            )),
            Need::Hope => None,
        },
        _ => Some(format!("cannot watch {folder}: {error}")),
    }
}

/// A watcher of the system's that hands each event to `handler`, on a thread of its own.
///
/// # Errors
/// Why there is none, and how to mend it.
pub(crate) fn system_watcher(handler: impl notify::EventHandler) -> Result<RecommendedWatcher, String> {
    let config = notify::Config::default().with_follow_symlinks(false);
    RecommendedWatcher::new(handler, config).map_err(|error| {
        format!(
            "cannot watch files: {error}. If too many programs watch files, raise the limit with `sudo sysctl \
             fs.inotify.max_user_instances=512`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A watcher with few watches to give, which records what it was asked.
    struct Few {
        left: usize,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Watches for Few {
        fn watch(&mut self, folder: &Path) -> notify::Result<()> {
            if self.left == 0 {
                return Err(notify::Error::new(ErrorKind::MaxFilesWatch));
            }
            self.left -= 1;
            self.asked.lock().unwrap().push(format!("+{}", folder.file_name().unwrap().display()));
            Ok(())
        }

        fn unwatch(&mut self, folder: &Path) {
            self.left += 1;
            self.asked.lock().unwrap().push(format!("-{}", folder.file_name().unwrap().display()));
        }
    }

    #[test]
    fn only_differences_are_asked_for_and_what_matters_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        for name in ["a", "b", "c"] {
            std::fs::create_dir(folder(name)).unwrap();
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let said = || std::mem::take(&mut *asked.lock().unwrap());
        let few = Arc::clone(&asked);
        let make = move || Ok(Box::new(Few { left: 2, asked: Arc::clone(&few) }) as Box<dyn Watches>);
        let mut set = WatchSet::new(Box::new(make));
        let mut wanted = Wanted::default();
        wanted.add(&folder("a"), Need::Hope);
        wanted.add(&folder("c"), Need::Hope);
        wanted.add(&folder("c"), Need::Use);
        wanted.add(&folder("missing"), Need::Use);
        let synced = set.sync(&wanted);
        assert_eq!((said(), synced.trouble), (vec!["+c".to_owned(), "+a".to_owned()], None));
        assert!(set.sync(&wanted).added.is_empty() && said().is_empty());

        wanted.add(&folder("b"), Need::Use);
        let trouble = set.sync(&wanted).trouble.expect("no watch is left");
        assert!(trouble.contains("fs.inotify.max_user_watches"), "{trouble}");

        assert_eq!(said(), [] as [&str; 0]);
        std::fs::rename(folder("c"), folder("old")).unwrap();
        std::fs::create_dir(folder("c")).unwrap();
        assert_eq!(set.sync(&wanted).added, BTreeSet::from([folder("c")]), "another folder stands there now");
        said();
        assert!(set.lost(&folder("a")) && !set.lost(&folder("a")));
        assert_eq!(said(), ["-a"]);
        assert_eq!(set.sync(&wanted).added, BTreeSet::from([folder("b")]), "what matters most comes first");
    }
}
