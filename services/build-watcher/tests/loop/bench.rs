//! A project in a temporary folder, and a build watcher on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use build_watcher::{Handle, Settings, start};
use peer::{Reader, Start};
use tempfile::TempDir;
use wire::build::{Unwatch, Watch};
use wire::{BuildEvent, BuildOutcome, EntryPath, Failure};

/// The longest that anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The usual entry.
pub(crate) const ENTRY: &str = "src/midrun/index.ts";

/// A folder with a project in it.
pub(crate) struct Project {
    _dir: TempDir,
    /// `project` in the temporary folder, so that there is an outside.
    pub(crate) root: PathBuf,
}

impl Project {
    /// With these files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().canonicalize().expect("it exists").join("project");
        fs::create_dir(&root).expect("it is new");
        let project = Self { _dir: dir, root };
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn entry(&self, name: &str) -> EntryPath {
        EntryPath::from(self.path(name).to_str().expect("UTF-8"))
    }

    /// Writes in place, as most editors and scripts do, and makes the folder if need be.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(path, text).expect("the file can be written");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("the file is there");
    }
}

/// A project and its build watcher.
pub(crate) struct Loop {
    pub(crate) project: Project,
    pub(crate) handle: Handle,
    pub(crate) reader: Reader<BuildEvent>,
}

impl Loop {
    /// Watches nothing yet.
    pub(crate) fn idle(project: Project, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::of(&project.root);
        set(&mut settings);
        let handle = start(&settings).expect("it starts");
        let reader = handle.feed.read(Start::Snapshot);
        Self { project, handle, reader }
    }

    /// Watches the usual entry; its first build is still to be read.
    pub(crate) async fn watching(project: Project) -> Self {
        Self::watching_with(project, |_| {}).await
    }

    async fn watching_with(project: Project, set: impl FnOnce(&mut Settings)) -> Self {
        let looped = Self::idle(project, set);
        looped.watch(ENTRY).await;
        looped
    }

    /// Watches the usual entry, whose first build was good. The project was there for long, so nothing is built twice
    /// because it might have changed before it was watched.
    pub(crate) async fn of(files: &[(&str, &str)]) -> Self {
        Self::of_with(files, |_| {}).await
    }

    /// The same; and what is broken between two steps of one save is never shown, however slow the machine is.
    pub(crate) async fn patient(files: &[(&str, &str)]) -> Self {
        Self::of_with(files, |settings| settings.settle = Duration::from_secs(5)).await
    }

    async fn of_with(files: &[(&str, &str)], set: impl FnOnce(&mut Settings)) -> Self {
        let project = Project::of(files);
        make_old(project.root.parent().expect("it is in a temporary folder"));
        let mut looped = Self::watching_with(project, set).await;
        looped.built().await;
        looped
    }

    pub(crate) async fn watch(&self, entry: &str) {
        let entry = self.project.entry(entry);
        self.handle.watch.peer().ask(Watch { entry }).await.expect("it can be watched");
    }

    pub(crate) async fn unwatch(&self, entry: &str) {
        let entry = self.project.entry(entry);
        self.handle.unwatch.peer().ask(Unwatch { entry }).await.expect("never refused");
    }

    pub(crate) async fn next(&mut self) -> BuildEvent {
        let delivery =
            tokio::time::timeout(LONG, self.reader.next()).await.unwrap_or_else(|_| panic!("no event came"));
        BuildEvent::clone(&delivery.expect("the watcher lives").event)
    }

    /// The next event, which must be a good build: what changed, and the code.
    pub(crate) async fn built(&mut self) -> (Vec<String>, String) {
        let event = self.next().await;
        let BuildOutcome::Built(artifact) = event.outcome else { panic!("{:#?}", event.outcome) };
        let code = fs::read_to_string(&artifact.path).expect("the artifact is there");
        assert_eq!(artifact.size, code.len() as u64);
        (event.changed, code)
    }

    /// The next event, which must be a good build whose code contains `text`.
    pub(crate) async fn built_with(&mut self, text: &str) -> Vec<String> {
        let (changed, code) = self.built().await;
        assert!(code.contains(text), "{text:?} is not in:\n{code}");
        changed
    }

    /// The next event, which must be a failure.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.next().await.outcome {
            BuildOutcome::Failed(failure) => failure,
            BuildOutcome::Built(artifact) => {
                panic!("it was built:\n{}", fs::read_to_string(artifact.path).unwrap_or_default())
            }
        }
    }

    /// Nothing has been published up to here: a save of the entry is the next thing that is.
    pub(crate) async fn nothing_before_a_save_of(&mut self, name: &str) {
        self.project.write(name, "export const marker = 'the marker';\n");
        let changed = self.built_with("the marker").await;
        assert!(changed.iter().any(|changed| changed == name), "{changed:?}");
    }
}

/// Makes `folder` and those below it look an hour old.
fn make_old(folder: &Path) {
    for entry in fs::read_dir(folder).expect("it is a folder").map(|entry| entry.expect("readable")) {
        if entry.file_type().expect("known").is_dir() {
            make_old(&entry.path());
        }
    }
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(folder).and_then(|file| file.set_modified(hour_ago)).expect("it is ours");
}

/// Renames `from` over `to`.
pub(crate) fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).expect("it can be renamed");
}
