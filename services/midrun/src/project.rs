//! The project a command is about: its folder, its settings, and who else serves it.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use settings::Settings;
use wire::{EntryPath, Profile};

use crate::state::state_dir;
use crate::state_folder;

/// A project's folder and settings.
pub(crate) struct Project {
    /// Canonical.
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
}

impl Project {
    /// The project in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let root = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        if !root.is_dir() {
            return Err(format!("{} is not a folder; name the project's folder", root.display()));
        }
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let settings = settings::load(&root, variables).map_err(|error| error.to_string())?;
        Ok(Self { root, settings })
    }

    /// Its name: the folder's.
    pub(crate) fn name(&self) -> String {
        self.root.file_name().map_or_else(|| "project".into(), |name| name.to_string_lossy().into_owned())
    }

    /// The project's own entry; where it is expected, if there is none yet.
    pub(crate) fn entry(&self) -> EntryPath {
        build_watcher::find_entry(&self.root).map_or_else(
            || {
                let source = self.root.join(Profile::Midrun.source_dir());
                let file = source.join("index").with_extension(wire::profile::ENTRY_EXTENSIONS[0]);
                EntryPath::from(file.to_string_lossy().into_owned())
            },
            |(_, entry)| entry,
        )
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        state_dir(&self.root)
    }

    /// Makes the state folder, out of version control's sight. Says what to do when it cannot be written.
    pub(crate) fn make_state_dir(&self) -> Result<PathBuf, String> {
        let dir = self.state_dir();
        let made = || -> io::Result<()> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let ignore = dir.join(".gitignore");
            if !ignore.exists() {
                std::fs::write(ignore, "*\n")?;
            }
            state_folder::try_to_write(&dir)
        };
        made().map_err(|error| state_folder::unwritable(&dir, &error))?;
        Ok(dir)
    }
}

/// The right to serve a project, until it is dropped or the process ends, however it ends.
pub(crate) struct Hold {
    _file: File,
}

impl Hold {
    /// Takes the project whose state is in `state_dir`.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, String> {
        let path = state_dir.join("server.lock");
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let mut options = File::options();
        let mut file = options.create(true).read(true).write(true).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(format!(
                    "another midrun server (process {}) serves this project; stop it, or use it with `midrun run`",
                    holder.trim()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Where run-hosts listen: `$XDG_RUNTIME_DIR/midrun`, or a private folder below the system's temporary one.
pub(crate) fn socket_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("midrun"),
        None => {
            let user = std::env::var_os("HOME").unwrap_or_default();
            let tag = wire::ContentHash::of(user.as_encoded_bytes());
            std::env::temp_dir().join(format!("midrun-{}", &tag.as_str()[..12]))
        }
    }
}
