//! What the system tells of the file system, as changes.
//!
//! What must hold: a file that a writer has not closed is told from a complete one, as far as the system tells us.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind};

use crate::schedule::{Seen, Touch};

/// Whether the system tells when a writer closes its file.
const TELLS_OF_CLOSE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// One change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// What happened.
    pub(crate) kind: Kind,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The content of the file changed.
    Content(Touch),
    /// The name is new, or stands for something else than before.
    Appeared(Touch),
    /// The name is gone.
    Vanished,
    /// Owner or permissions changed.
    Attributes,
}

impl Kind {
    /// In which state the file is.
    pub(crate) fn touch(self) -> Touch {
        match self {
            Self::Content(touch) | Self::Appeared(touch) => touch,
            Self::Vanished => Touch::Gone,
            Self::Attributes => Touch::Complete,
        }
    }
}

/// Now.
pub(crate) fn seen_now() -> Seen {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Seen { at: Instant::now(), wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX) }
}

/// Whether `event` says that other events were lost.
pub(crate) fn is_loss(event: &Event) -> bool {
    event.need_rescan()
}

/// The changes that `event` tells of. Looks at the files where the event does not say enough.
pub(crate) fn changes(event: Event) -> Vec<Change> {
    let kind = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => |_: &Path| Kind::Content(Touch::Complete),
        EventKind::Create(CreateKind::File) => |path: &Path| Kind::Appeared(created(path)),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            |_: &Path| Kind::Appeared(Touch::Complete)
        }
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
            |path: &Path| Kind::Content(written(path))
        }
        EventKind::Modify(ModifyKind::Metadata(_)) => |_: &Path| Kind::Attributes,
        EventKind::Modify(ModifyKind::Name(RenameMode::From))
        | EventKind::Remove(RemoveKind::File | RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other) => {
            |_: &Path| Kind::Vanished
        }
        // On Linux this comes besides `From` and `To`.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) if TELLS_OF_CLOSE => return Vec::new(),
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Other) | EventKind::Any => present_or_gone,
        EventKind::Access(_) | EventKind::Other => return Vec::new(),
    };
    event.paths.into_iter().map(|path| Change { kind: kind(&path), path }).collect()
}

fn present_or_gone(path: &Path) -> Kind {
    if path.symlink_metadata().is_ok() { Kind::Appeared(Touch::Complete) } else { Kind::Vanished }
}

/// A new regular file is open in its writer; a link, or a second name of a file, is complete.
fn created(path: &Path) -> Touch {
    match path.symlink_metadata() {
        Ok(meta) if TELLS_OF_CLOSE && meta.is_file() && meta.nlink() < 2 => {
            Touch::Writing { empty: meta.len() == 0 }
        }
        _ => Touch::Complete,
    }
}

fn written(path: &Path) -> Touch {
    if !TELLS_OF_CLOSE {
        return Touch::Complete;
    }
    Touch::Writing { empty: path.metadata().is_ok_and(|meta| meta.len() == 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::DataChange;

    #[test]
    fn an_open_file_is_told_from_a_complete_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ts");
        let kind = |kind: EventKind| changes(Event::new(kind).add_path(file.clone())).pop().map(|c| c.kind);
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let create = EventKind::Create(CreateKind::File);

        std::fs::write(&file, "").unwrap();
        assert_eq!(kind(data), Some(Kind::Content(Touch::Writing { empty: true })));
        assert_eq!(kind(create), Some(Kind::Appeared(Touch::Writing { empty: true })));
        std::fs::write(&file, "x").unwrap();
        assert_eq!(kind(data), Some(Kind::Content(Touch::Writing { empty: false })));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(kind(close), Some(Kind::Content(Touch::Complete)));
        std::fs::hard_link(&file, dir.path().join("b.ts")).unwrap();
        assert_eq!(kind(create), Some(Kind::Appeared(Touch::Complete)));
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert_eq!(kind(read), None);
        assert_eq!(kind(EventKind::Remove(RemoveKind::File)), Some(Kind::Vanished));
    }
}
