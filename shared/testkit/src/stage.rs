//! Everything that one test has of its own.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::binary::workspace;
use crate::home::Home;
use crate::project::{Layout, Project};
use crate::trainers::{SdkTrainer, Ticker};

/// A home and a project, in a folder that goes away.
#[derive(Debug)]
pub struct Stage {
    /// The home.
    pub home: Home,
    /// The project.
    pub project: Project,
    root: TempDir,
}

/// A file that a test makes so that a trainer goes on.
#[derive(Debug, Clone)]
pub struct Flag(PathBuf);

impl Flag {
    /// Lets everyone go on who waits for this.
    pub fn raise(&self) {
        std::fs::write(&self.0, "").unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
    }

    /// The file's path.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The file's path as JavaScript.
    pub(crate) fn literal(&self) -> String {
        serde_json::to_string(&self.0).expect("the folder's name is text")
    }
}

fn root() -> TempDir {
    // Short: sockets are below it.
    tempfile::Builder::new().prefix("mr-").tempdir().expect("a temporary folder can be made")
}

impl Stage {
    /// A project without source.
    pub fn bare(layout: Layout) -> Self {
        let root = root();
        let home = Home::make(root.path().join("h"));
        let project = Project::make(root.path().join("staged"), layout);
        Self { home, project, root }
    }

    /// A `src/midrun` project with a hand-written trainer whose callbacks say `v1`.
    pub fn ticker(trainer: &Ticker) -> Self {
        let stage = Self::bare(Layout::Midrun);
        stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
        stage.project.write("index.ts", &trainer.entry());
        stage
    }

    /// A `src/midrun` project with a trainer that `createTrainer` makes, whose callbacks say `v1`.
    pub fn sdk(trainer: &SdkTrainer) -> Self {
        let stage = Self::bare(Layout::Midrun);
        stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v1"));
        stage.project.write("index.ts", &trainer.entry());
        stage
    }

    /// A copy of `examples/NAME`.
    pub fn example(name: &str) -> Self {
        let root = root();
        let home = Home::make(root.path().join("h"));
        let project = Project::copy(&workspace().join("examples").join(name), root.path().join(name));
        Self { home, project, root }
    }

    /// A file outside the project that is not there yet.
    pub fn flag(&self, name: &str) -> Flag {
        Flag(self.root.path().join(name))
    }

    /// The folder that goes away: home, project and flags are in it.
    pub fn root(&self) -> &std::path::Path {
        self.root.path()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A server that was killed leaves its runs, and a test that fails then has nobody else to end them.
        if std::thread::panicking() {
            crate::processes::sweep(&self.home.marker());
        }
    }
}
