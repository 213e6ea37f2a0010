//! A run's log on disk, `events.jsonl`: one writer, many readers.
//!
//! The file is a line of JSON a record, counted from 1 without gaps, and only grows. What a reader may rely on: a
//! line that ends in a newline is whole and will never change. What it must bear: a last line without one, because
//! the writer is at it or has died over it. Records may be of any length, so a reader finds a record by bisecting
//! byte offsets; a page says where the next one starts, which saves that. Who the one writer is, is decided by a
//! [`claim`] beside the log.

mod claim;
mod follow;
mod line;
mod page;
mod writer;

pub use claim::{claim, claimed_by};
pub use follow::Follower;
pub use line::{is_output, seq_of};
pub use page::read_page;
pub use wire::run::LogPage;
pub use writer::{Position, Writer};
