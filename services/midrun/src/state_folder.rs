//! Whether the project's state can be written, and what to do when not.
//!
//! Each part says itself what it could not write. Here it is noticed once for all of them, also while nothing is to be
//! written, and when it is over.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use wire::Trouble;

/// Between two looks while all is well: a look is most of what an idle server does.
const PAUSE: Duration = Duration::from_secs(10);

/// The same while something is wrong.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// As much as a file system gives out at once, bytes: less may fit where nothing else does.
const BLOCK: usize = 4096;

/// From now on a file that reached its size limit is an error of writing, like a full disk, and no reason to die. To be
/// called before there are other threads.
pub(crate) fn bear_size_limits() {
    let limit: SigSet = [Signal::SIGXFSZ].into_iter().collect();
    // It cannot fail for a signal that exists.
    let _ = limit.thread_block();
}

/// Writes a little to `dir`, and takes it away again.
///
/// # Errors
/// What the system said.
pub(crate) fn try_to_write(dir: &Path) -> io::Result<()> {
    // Another command may be at the same.
    let file = dir.join(format!(".room-{}", std::process::id()));
    let written = std::fs::write(&file, [0; BLOCK]);
    let removed = std::fs::remove_file(&file);
    written.and(removed)
}

/// What is wrong with `dir`, and what to do.
pub(crate) fn unwritable(dir: &Path, error: &io::Error) -> String {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let advice = match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => "make room on its disk",
        PermissionDenied => "give yourself write permission",
        ReadOnlyFilesystem => "mount its file system writable",
        _ => "it must be a folder that you can write",
    };
    format!("the state folder {} cannot be written: {error}; {advice}", dir.display())
}

/// Looks every few seconds whether `dir` can be written. `put` is told what is wrong, if something is, and then `tell`
/// when that changes.
pub(crate) fn watch_over(dir: PathBuf, put: impl Fn(Vec<Trouble>) + 'static, tell: impl Fn(&str) + 'static) {
    actix::spawn(async move {
        let mut trouble: Option<Trouble> = None;
        loop {
            tokio::time::sleep(if trouble.is_some() { SHORT_PAUSE } else { PAUSE }).await;
            let tried = dir.clone();
            let Ok(written) = tokio::task::spawn_blocking(move || try_to_write(&tried)).await else {
                continue;
            };
            let before = trouble.take();
            let was_well = before.is_none();
            trouble = written.err().map(|error| {
                let why = unwritable(&dir, &error);
                match before {
                    Some(known) => Trouble { why, ..known },
                    None => Trouble::now("state folder", why),
                }
            });
            put(trouble.iter().cloned().collect());
            match &trouble {
                Some(Trouble { why, .. }) if was_well => tell(&format!(
                    "{why}. Trainings go on; until then their output is not kept, and no run can be started"
                )),
                None if !was_well => {
                    tell(&format!("the state folder {} can be written again", dir.display()));
                }
                _ => {}
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_written_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        try_to_write(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = try_to_write(&file).unwrap_err();
        let said = unwritable(&file, &error);
        assert!(said.contains(&*file.to_string_lossy()) && said.contains("must be a folder"), "{said}");
        for (kind, advice) in [
            (io::ErrorKind::StorageFull, "make room"),
            (io::ErrorKind::PermissionDenied, "write permission"),
            (io::ErrorKind::ReadOnlyFilesystem, "writable"),
        ] {
            assert!(unwritable(&file, &kind.into()).contains(advice));
        }
    }
}
