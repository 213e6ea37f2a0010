//! A run's log on disk: one writer, many readers.
//!
//! A record is a line of JSON. Records are counted from 1 without gaps, in the order in which things happened. What a
//! reader may rely on: a line that ends in a newline is whole and will never change. What it must bear: a last line
//! without one, because the writer is at it or has died over it.
//!
//! # Files
//!
//! The log is written to `events.jsonl`, which is the path that everyone names and that a tool may follow
//! (`tail -F`). When that file has its size, it becomes `events.000001.jsonl`, the next one `events.000002.jsonl`, and
//! so on. When all of them together are larger than the log's cap, the oldest one is reduced to what must never go: its
//! records that are not output are appended to `events.000000.jsonl`, with a `dropped` record in the place of each run
//! of output, and then the file is removed. So the files in the order of their names, `events.jsonl` last, are the log:
//!
//! ```text
//! events.000000.jsonl   what is left of files that are gone
//! events.000007.jsonl
//! events.000008.jsonl   whole, never written again
//! events.jsonl          the newest
//! ```
//!
//! # Numbers stay without gaps
//!
//! A `dropped` record has the number of the last record it stands for and names the first one (`fromSeq`). Each number
//! from 1 to the newest is therefore one record's own, or within exactly one `dropped`. A reader that goes on behind a
//! number within one gets that `dropped`, and what follows. Output that could not be written, because the disk was
//! full, has numbers too, and is told of in the same way.
//!
//! A file may go away, or get another name, under a reader. Readers find records by their numbers alone (a record of
//! any length, by bisecting byte offsets), check that the next file goes on where the last one ended, and look again
//! where it does not: nothing that still exists is lost or handed out twice.
//!
//! # The one writer
//!
//! Who that is, is decided by a [`claim`] beside the log.

mod claim;
mod cursor;
mod drop;
mod files;
mod follow;
mod line;
mod page;
mod part;
mod rotation;
mod tail;
mod writer;

pub use claim::{claim, claimed_by};
pub use follow::Follower;
pub use line::{is_output, seq_of};
pub use page::read_page;
pub use wire::run::LogPage;
pub use writer::{DEFAULT_CAP, Position, Writer};
