//! Which version of a file was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Which version of a file it was: equal stamps mean that the file was not written in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: Identity,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Bytes.
    pub(crate) len: u64,
}

impl Stamp {
    /// The stamp of the file with this metadata.
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            file: Identity::of(meta),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            len: meta.len(),
        }
    }

    /// The stamp of what is at `path` now, if anything is.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }
}

/// Which file or folder it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the file or folder with this metadata.
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }
}
