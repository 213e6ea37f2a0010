//! Where the host listens.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as listen_on, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;

use crate::spec::HostError;

/// The longest path of a Unix socket, bytes: the system's 108 with the closing NUL.
const LONGEST_PATH: usize = 107;

/// Who may wait to be welcomed.
const BACKLOG: i32 = 128;

/// How often it is looked, while nobody is connected, whether the socket can be found.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The host's socket; its file goes away with it. The file is made again where somebody removes it: the system empties
/// the folder that it is in when its user logs out, and the run goes on.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    looked: Instant,
}

impl Listener {
    /// Listens at `path`, for this user only. A folder that is missing is created, for this user only.
    pub(crate) fn bind(path: &Path) -> Result<Self, HostError> {
        Ok(Self { listener: listen(path)?, path: path.to_owned(), looked: Instant::now() })
    }

    /// When it is to be looked at again whether it can be found.
    pub(crate) fn look_due(&self) -> Instant {
        self.looked + LOOK_PAUSE
    }

    /// Makes it possible to find it again, if that is due.
    pub(crate) fn look(&mut self, now: Instant) {
        if now < self.look_due() {
            return;
        }
        self.looked = now;
        let is_gone =
            fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        // The folder may not be there to be written to yet.
        if is_gone && let Ok(again) = listen(&self.path) {
            self.listener = again;
        }
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

fn listen(path: &Path) -> Result<UnixListener, HostError> {
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
    bind_for_owner(path).map_err(|errno| HostError::file(path)(errno.into()))
}

/// The file is born with the mode of the socket: between bind and chmod anybody could connect.
fn bind_for_owner(path: &Path) -> nix::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen_on(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
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
    fn a_socket_that_was_removed_with_its_folder_can_be_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("midrun/run.sock");
        let mut listener = Listener::bind(&path).unwrap();
        listener.look(listener.look_due());
        UnixStream::connect(&path).unwrap();
        assert!(listener.accept().is_some(), "the same one");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        listener.look(listener.looked);
        assert!(!path.exists(), "it is not due");
        listener.look(listener.look_due());
        UnixStream::connect(&path).unwrap();
        assert!(listener.accept().is_some());
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
