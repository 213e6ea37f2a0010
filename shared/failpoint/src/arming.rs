//! Arming a place, and stopping at it.

use std::io;
use std::path::{Path, PathBuf};

use crate::Point;

/// What stands in the file of a place where a panic is wanted.
const PANIC: &str = "panic";
/// The same, where each that comes there is to panic.
const PANICS: &str = "panic each time";
/// The file that keeps parts that failed from being started again.
const HELD: &str = "held";

/// Whether the program that asks was built with failpoints.
pub const fn are_compiled_in() -> bool {
    cfg!(debug_assertions)
}

/// A place that the next process to come there will stop at. Dropping it disarms it.
#[derive(Debug)]
pub struct Armed {
    point: Point,
    folder: PathBuf,
}

impl Armed {
    /// Arms `point` for the processes whose variable [`crate::FOLDER`] names `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn at(folder: &Path, point: Point) -> io::Result<Self> {
        Self::with(folder, point, "")
    }

    /// The same, but who comes there panics instead of stopping.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn panic_at(folder: &Path, point: Point) -> io::Result<Self> {
        Self::with(folder, point, PANIC)
    }

    /// The same, again and again, until this is dropped. Nobody is named by [`Armed::stopped`].
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn panics_at(folder: &Path, point: Point) -> io::Result<Self> {
        Self::with(folder, point, PANICS)
    }

    fn with(folder: &Path, point: Point, action: &str) -> io::Result<Self> {
        let armed = Self { point, folder: folder.to_owned() };
        armed.clear()?;
        // Whoever comes there sees the file whole or not at all.
        let fresh = folder.join(format!(".{}", point.name()));
        std::fs::write(&fresh, action)?;
        std::fs::rename(fresh, folder.join(point.name()))?;
        Ok(armed)
    }

    /// The process that stopped, or is about to stop, at the place; nothing while none has come there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn stopped(&self) -> io::Result<Option<u32>> {
        Ok(self.taken()?.into_iter().next())
    }

    fn taken(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(self.point.name())?.strip_prefix('@'));
            pids.extend(pid.and_then(|pid| pid.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    fn clear(&self) -> io::Result<()> {
        let name = self.point.name();
        for pid in self.taken()? {
            std::fs::remove_file(self.folder.join(taken_by(name, pid)))?;
        }
        match std::fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // The folder may be gone already, and the place with it.
        let _ = self.clear();
    }
}

/// While there is one, no part that failed is started again, so that a test can see that it failed.
#[derive(Debug)]
pub struct Hold {
    file: PathBuf,
}

impl Hold {
    /// For the processes whose variable [`crate::FOLDER`] names `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let file = folder.join(HELD);
        std::fs::write(&file, "")?;
        Ok(Self { file })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The folder may be gone already.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn taken_by(name: &str, pid: u32) -> String {
    format!("{name}@{pid}")
}

#[cfg(debug_assertions)]
fn folder() -> Option<&'static Path> {
    use std::sync::LazyLock;
    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os(crate::FOLDER).map(PathBuf::from));
    FOLDER.as_deref()
}

/// Whether there is a [`Hold`].
#[cfg(debug_assertions)]
pub(crate) fn is_held() -> bool {
    folder().is_some_and(|folder| folder.join(HELD).exists())
}

/// Stops this process if `point` is armed for it.
#[cfg(debug_assertions)]
pub(crate) fn reach(point: Point) {
    let Some(folder) = folder() else { return };
    let (armed, taken) = (folder.join(point.name()), folder.join(taken_by(point.name(), std::process::id())));
    // Read before it is taken: whoever armed it may clear it away as soon as it is.
    let Ok(action) = std::fs::read_to_string(&armed) else { return };
    if action == PANICS {
        panic!("{} {}", crate::PANICKED, point.name());
    }
    if std::fs::rename(armed, taken).is_ok() {
        if action == PANIC {
            panic!("{} {}", crate::PANICKED, point.name());
        }
        // Sent to this thread, so that it does not get a step further; the others stop with it.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    const POINT: Point = Point::ALL[0];

    /// Not a test of its own: what [`stops_once_and_goes_on`] starts as another process.
    #[test]
    fn passes_the_place_twice() {
        if let Some(done) = std::env::var_os("FAILPOINT_DONE") {
            crate::reach(POINT);
            crate::reach(POINT);
            std::fs::write(done, "").unwrap();
        }
    }

    fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < end, "it did not come in time");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_stopped(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    fn passer(folder: Option<&Path>, done: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "arming::tests::passes_the_place_twice"]).env("FAILPOINT_DONE", done);
        command.stdout(std::process::Stdio::null());
        match folder {
            Some(folder) => command.env(crate::FOLDER, folder),
            None => command.env_remove(crate::FOLDER),
        };
        command.spawn().unwrap()
    }

    #[test]
    fn stops_once_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, done) = (dir.path().join("points"), dir.path().join("done"));
        std::fs::create_dir(&folder).unwrap();
        let armed = Armed::at(&folder, POINT).unwrap();
        assert_eq!(armed.stopped().unwrap(), None);
        let mut child = passer(Some(&folder), &done);
        let pid = until(|| armed.stopped().unwrap());
        assert_eq!(pid, child.id());
        until(|| is_stopped(pid).then_some(()));
        assert!(!done.exists());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(done.exists(), "the second time it was not armed");
        drop(armed);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn panics_once_where_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let armed = Armed::panic_at(dir.path(), POINT).unwrap();
        let done = dir.path().join("done");
        assert!(!passer(Some(dir.path()), &done).wait().unwrap().success());
        assert!(armed.stopped().unwrap().is_some() && !done.exists());
        assert!(passer(Some(dir.path()), &done).wait().unwrap().success());
    }

    #[test]
    fn nothing_stops_without_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let armed = Armed::at(dir.path(), POINT).unwrap();
        let done = dir.path().join("done");
        assert!(passer(None, &done).wait().unwrap().success());
        assert!(done.exists());
        assert_eq!(armed.stopped().unwrap(), None);
    }
}
