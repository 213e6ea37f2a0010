//! A home folder of its own for everything a test starts.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A home folder. Its path, as `HOME` in the environment, marks every process that was started with it.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// A Unix socket's path may have 107 bytes; a run's id and the folder's name need about 60 of them.
const LONGEST_RUNTIME_DIR: usize = 48;

/// Variables that would make a test depend on who runs it.
const FOREIGN: [&str; 7] = ["MIDRUN", "OTEL", "ARKOR", "XDG", "NODE_", "TRACEPARENT", "GIT_"];

impl Home {
    pub(crate) fn make(dir: PathBuf) -> Self {
        let home = Self { dir };
        for folder in [home.dir.clone(), home.runtime_dir()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        let length = home.runtime_dir().as_os_str().len();
        assert!(
            length <= LONGEST_RUNTIME_DIR,
            "TMPDIR is too long for the sockets of runs: use a shorter one"
        );
        home
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn runtime_dir(&self) -> PathBuf {
        self.dir.join("r")
    }

    /// What stands in the environment of every process that was started with this home.
    pub fn marker(&self) -> String {
        format!("HOME={}", self.dir.display())
    }

    /// The whole environment of a process with this home.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let foreign = |name: &OsString| FOREIGN.iter().any(|start| name.to_string_lossy().starts_with(start));
        let own = [
            ("HOME", self.dir.clone()),
            ("XDG_CONFIG_HOME", self.dir.join("config")),
            ("XDG_STATE_HOME", self.dir.join("state")),
            ("XDG_RUNTIME_DIR", self.runtime_dir()),
            ("NO_COLOR", PathBuf::from("1")),
        ];
        let inherited = std::env::vars_os().filter(|(name, _)| !foreign(name));
        let inherited = inherited.filter(|(name, _)| own.iter().all(|(ours, _)| name != ours));
        let own = own.iter().map(|(name, value)| (OsString::from(name), value.clone().into_os_string()));
        inherited.chain(own).collect()
    }
}
