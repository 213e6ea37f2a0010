//! The run's folder: what the host is given, and how it says who it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wire::host::{Identity, Spec};

/// Why a run cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// Something about a file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The work is not understood.
    #[error("{} is no run's spec: {source}; it is written by the train-registry", path.display())]
    Spec {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// There is nothing to run.
    #[error("the spec's command is empty; it needs the runner's program")]
    NoCommand,
    /// The socket's path does not fit.
    #[error(
        "the socket's path {} is {length} bytes long and the system takes {limit}; set XDG_RUNTIME_DIR to a shorter folder",
        path.display()
    )]
    LongSocketPath {
        /// Which.
        path: PathBuf,
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Somebody else could listen.
    #[error("the socket's folder {} belongs to another user; remove it or set XDG_RUNTIME_DIR", path.display())]
    ForeignSocketFolder {
        /// Which.
        path: PathBuf,
    },
    /// Another host has it, or a server gave it up.
    #[error("the run was claimed before its host started: a server took it for dead")]
    Claimed,
    /// The end of the run could not be written.
    #[error("the end of the run could not be written to its log")]
    EndNotWritten,
    /// Anything else.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl HostError {
    /// An error about the file at `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// `dir`, absolute.
    pub(crate) fn at(dir: &Path) -> Result<Self, HostError> {
        dir.canonicalize().map(Self).map_err(HostError::file(dir))
    }

    /// Where the log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// What the host is to do.
    pub(crate) fn spec(&self) -> Result<Spec, HostError> {
        let path = self.0.join("spec.json");
        let bytes = fs::read(&path).map_err(HostError::file(&path))?;
        let spec: Spec = serde_json::from_slice(&bytes).map_err(|source| HostError::Spec { path, source })?;
        if spec.command.is_empty() { Err(HostError::NoCommand) } else { Ok(spec) }
    }

    /// Takes the run: from here on a server that looks for its host knows that there is one, and who. A server that
    /// found none may have taken it first, and the run must not start any more.
    pub(crate) fn claim(&self) -> Result<(), HostError> {
        match runlog::claim(&self.0, &own_identity()?) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(HostError::Claimed),
            Err(error) => Err(HostError::file(&self.0)(error)),
        }
    }

    /// Says who the host is. Where the file appears, it is whole, and the host listens.
    pub(crate) fn announce(&self) -> Result<(), HostError> {
        let text = own_identity()?;
        let (path, temporary) = (self.0.join("host.json"), self.0.join(".host.json.new"));
        fs::write(&temporary, text).map_err(HostError::file(&temporary))?;
        fs::rename(&temporary, &path).map_err(HostError::file(&path))
    }
}

/// This process, as files name it.
fn own_identity() -> io::Result<Vec<u8>> {
    let process::Identity { pid, start_time, boot_id } = process::Identity::own()?;
    let identity = Identity { pid, start_time, boot_id };
    Ok(serde_json::to_vec(&identity).expect("an identity has string keys"))
}
