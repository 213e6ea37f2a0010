//! Who serves a project: `.midrun/server.lock`.
//!
//! What must hold: at most one server a project. The lock itself says whether one is there on this machine, and goes
//! away with its process, however that ends. The file says who took it, and its time of change when that one was last
//! alive: that is what another machine goes by, which sees the folder and perhaps neither the lock nor the process.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use process::Identity;

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// A holder that gave none for so long is gone. Clocks of two machines may differ by less.
const FRESH: Duration = Duration::from_secs(45);

/// The right to serve a project, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Hold {
    file: File,
}

/// Why the project cannot be had.
#[derive(Debug)]
pub(crate) enum Busy {
    /// A process of this machine has it.
    Held {
        /// Which, if it has said so yet.
        pid: Option<u32>,
    },
    /// A process of another machine had it a moment ago.
    Elsewhere {
        /// Its process id there.
        pid: u32,
        /// When it was last alive.
        ago: Duration,
    },
    /// The lock cannot be used.
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = "serves this project; stop it, or use it with `midrun run`";
        match self {
            Self::Held { pid: Some(pid) } => write!(f, "another midrun server (process {pid}) {advice}"),
            Self::Held { pid: None } => write!(f, "another midrun server {advice}"),
            Self::Elsewhere { pid, ago } => write!(
                f,
                "a midrun server on another machine (process {pid}, last alive {} s ago) serves this project; stop it \
                 there, or wait {} s if that machine is gone",
                ago.as_secs(),
                FRESH.as_secs()
            ),
            Self::Unusable { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl Drop for Hold {
    /// By hand: a process that is being started has a copy of the file for a moment, and with it the lock.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Hold {
    /// Takes the project whose state is in `state_dir`.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, Busy> {
        Self::take_part(state_dir, "server")
    }

    /// Takes one part of it, for a server of several processes. Whoever has the runs has the part `server`.
    pub(crate) fn take_part(state_dir: &Path, part: &str) -> Result<Self, Busy> {
        let path = state_dir.join(format!("{part}.lock"));
        let unusable = |error: io::Error| Busy::Unusable { path: path.clone(), error };
        let mut options = File::options();
        let mut file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        locked(&mut file, &path)?;
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            serde_json::to_writer(&mut *file, &Identity::own()?)?;
            writeln!(file)
        };
        write(&mut file).map_err(unusable)?;
        Ok(Self { file })
    }

    /// Whether it could be taken, without a change to anything.
    pub(crate) fn could_be_taken(state_dir: &Path) -> Result<(), Busy> {
        let path = state_dir.join("server.lock");
        match File::open(&path) {
            Ok(mut file) => {
                locked(&mut file, &path)?;
                file.unlock().map_err(|error| Busy::Unusable { path, error })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Busy::Unusable { path, error }),
        }
    }

    /// Gives signs of life for as long as somebody polls this.
    pub(crate) async fn beat(self: Rc<Self>) {
        loop {
            if let Err(error) = self.file.set_modified(SystemTime::now()) {
                tracing::warn!(%error, "the project's lock shows no sign of life");
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Says that nobody has it any more, before the lock goes.
    pub(crate) fn release(&self) {
        // The lock says the same a moment later.
        let _ = self.file.set_len(0);
    }
}

/// Locks `file` and makes sure that nobody elsewhere has it.
fn locked(file: &mut File, path: &Path) -> Result<(), Busy> {
    let unusable = |error: io::Error| Busy::Unusable { path: path.to_owned(), error };
    let is_ours = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unusable)?;
    let holder = serde_json::from_str::<Identity>(&text).ok();
    if !is_ours {
        return Err(Busy::Held { pid: holder.map(|holder| holder.pid) });
    }
    let here = process::boot_id().map_err(unusable)?;
    let modified = file.metadata().and_then(|of| of.modified()).map_err(unusable)?;
    // A time that is still to come is a clock that is ahead.
    let ago = SystemTime::now().duration_since(modified).unwrap_or_default();
    match holder {
        Some(holder) if holder.boot_id != here && ago < FRESH => {
            file.unlock().map_err(unusable)?;
            Err(Busy::Elsewhere { pid: holder.pid, ago })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_next_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        Hold::could_be_taken(dir.path()).unwrap();
        let hold = Hold::take(dir.path()).unwrap();
        for busy in [Hold::take(dir.path()).map(drop), Hold::could_be_taken(dir.path())] {
            let busy = busy.unwrap_err();
            assert!(matches!(busy, Busy::Held { pid: Some(pid) } if pid == std::process::id()), "{busy}");
            assert!(busy.to_string().contains(&std::process::id().to_string()));
        }
        hold.release();
        drop(hold);
        Hold::take(dir.path()).unwrap();
    }

    #[test]
    fn a_holder_on_another_machine_counts_while_it_shows_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.lock");
        let elsewhere = Identity { boot_id: "another".into(), ..Identity::own().unwrap() };
        std::fs::write(&path, serde_json::to_vec(&elsewhere).unwrap()).unwrap();
        let busy = Hold::take(dir.path()).unwrap_err();
        assert!(
            matches!(busy, Busy::Elsewhere { .. }) && busy.to_string().contains("another machine"),
            "{busy}"
        );
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - FRESH - Duration::from_secs(1)).unwrap();
        Hold::take(dir.path()).unwrap();
    }

    #[test]
    fn one_that_crashed_here_is_gone_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dead = Identity { start_time: 1, ..Identity::own().unwrap() };
        std::fs::write(dir.path().join("server.lock"), serde_json::to_vec(&dead).unwrap()).unwrap();
        Hold::take(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn a_beat_is_a_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let hold = Rc::new(Hold::take(dir.path()).unwrap());
        hold.file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let beating = tokio::time::timeout(Duration::from_millis(1), Rc::clone(&hold).beat());
        assert!(beating.await.is_err(), "it goes on for ever");
        let modified = hold.file.metadata().unwrap().modified().unwrap();
        assert!(modified > SystemTime::UNIX_EPOCH);
    }
}
