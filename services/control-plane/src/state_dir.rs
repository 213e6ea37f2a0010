//! The state folder, held by one control plane at a time.
//!
//! The lock is the kernel's and goes with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::OpenError;
use crate::execution::hosts_by_job;

/// How long an earlier holder, which may just be ending, is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

const LOCK: &str = "control-plane.lock";

/// The folder of a control plane that is gone: no other one has it until this is dropped.
#[derive(Debug)]
pub struct Deserted {
    path: PathBuf,
    lock: File,
}

impl Deserted {
    /// Takes the folder `path`. Nothing where a control plane is there, or where none ever was.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The folders in which the hosts of its executors are, by job. Blocks on the disk.
    pub fn hosts_by_job(&self) -> Vec<(String, PathBuf)> {
        hosts_by_job(&self.path)
    }
}

impl Drop for Deserted {
    fn drop(&mut self) {
        // Closing it would not do, as below. That it fails means that the lock is gone.
        let _ = self.lock.unlock();
    }
}

#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Holds the lock while it is open.
    lock: Mutex<Option<File>>,
}

impl StateDir {
    /// Creates the folder if need be, readable by its owner alone, and locks it.
    pub(crate) async fn take(path: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::StateDir { path: path.to_owned(), source };
        let absolute = create(path).map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(absolute.join(LOCK))
            .map_err(unusable)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: absolute, lock: Mutex::new(Some(lock)) }),
                Err(TryLockError::WouldBlock) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: absolute }),
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            }
        }
    }

    /// Absolute: executors are told paths under it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the next control plane have it.
    pub(crate) fn release(&self) {
        // Closing it would not do: a child that is being forked right now has it too, until it executes its program.
        if let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "the state folder stays locked until this process ends");
        }
    }
}

fn create(path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    // It holds what people trained and the digests of their tokens.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let absolute = path.canonicalize()?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        // Checkpoints under it are named in JSON.
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_control_plane_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("state");
        let first = StateDir::take(&path).await.expect("the folder is free");
        assert!(matches!(StateDir::take(&path).await, Err(OpenError::InUse { .. })));
        first.release();
        StateDir::take(&path).await.expect("the folder is free again");
    }

    #[tokio::test]
    async fn what_is_deserted_is_taken_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("state");
        assert!(Deserted::take(&path).expect("nothing is there").is_none());
        let there = StateDir::take(&path).await.expect("the folder is free");
        assert!(Deserted::take(&path).expect("it can be read").is_none(), "a control plane is there");
        there.release();
        let deserted = Deserted::take(&path).expect("it can be read").expect("nobody has it");
        assert!(matches!(StateDir::take(&path).await, Err(OpenError::InUse { .. })));
        drop(deserted);
        StateDir::take(&path).await.expect("the folder is free again");
    }

    #[tokio::test]
    async fn a_file_is_no_state_folder() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let error = StateDir::take(file.path()).await.expect_err("a file");
        assert!(matches!(error, OpenError::StateDir { .. }), "{error}");
    }
}
