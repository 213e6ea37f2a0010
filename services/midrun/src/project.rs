//! The project a command is about: its folder and its settings.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use settings::Settings;
use wire::{EntryPath, Profile};

use crate::credentials;
use crate::state::state_dir;
use crate::state_folder;

/// A project's folder and settings.
pub(crate) struct Project {
    /// Canonical.
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    /// Where its profile's own account is valid, and the file with it; nothing unless it was asked for.
    pub(crate) profile_account: Option<(String, PathBuf)>,
}

impl Project {
    /// The project in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        Self::open_with(dir, None)
    }

    /// The project in `dir`, with the settings in `file` instead of its own.
    pub(crate) fn open_with(dir: &Path, file: Option<&Path>) -> Result<Self, String> {
        let root = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        if !root.is_dir() {
            return Err(format!("{} is not a folder; name the project's folder", root.display()));
        }
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let settings = match file {
            Some(file) => settings::load_file(file, true, variables),
            None => settings::load(&root, variables),
        };
        let settings = settings.map_err(|error| error.to_string())?;
        Ok(Self { root, settings, profile_account: None })
    }

    /// With the account that the owner of a project with `src/arkor` has, for a command that trains where no setting says.
    pub(crate) fn with_profile_account(self) -> Self {
        let profile_account = match build_watcher::find_entry(&self.root) {
            Some((Profile::Arkor, _)) => credentials::arkor_account(&credentials::home()),
            Some((Profile::Midrun, _)) | None => None,
        };
        Self { profile_account, ..self }
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
