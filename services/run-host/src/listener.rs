//! Where the host listens.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use crate::spec::HostError;

/// The longest path of a Unix socket, bytes: the system's 108 with the closing NUL.
const LONGEST_PATH: usize = 107;

/// The host's socket; its file goes away with it.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, for this user only. A folder that is missing is created, for this user only.
    pub(crate) fn bind(path: &Path) -> Result<Self, HostError> {
        let length = path.as_os_str().as_bytes().len();
        if length > LONGEST_PATH {
            return Err(HostError::LongSocketPath { path: path.to_owned(), length, limit: LONGEST_PATH });
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(HostError::file(folder))?;
        let owner = fs::metadata(folder).map_err(HostError::file(folder))?.uid();
        if owner != geteuid().as_raw() {
            return Err(HostError::ForeignSocketFolder { path: folder.to_owned() });
        }
        // One that a killed host left behind. Two hosts of one run are kept apart by the log's creation.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HostError::file(path)(error));
            }
            _ => {}
        }
        // The file is born with its mode: between bind and chmod anybody could connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(HostError::file(path))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next one who wants to talk.
    pub(crate) fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }

    /// What to wait for.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing could be done about one that cannot be removed; the next one at this path removes it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_and_the_socket_are_the_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/midrun/run.sock");
        let listener = Listener::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_does_not_fit_is_told_of() {
        let error = Listener::bind(&Path::new("/tmp").join("x".repeat(108))).unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }

    #[test]
    fn a_leftover_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&path).unwrap();
    }
}
