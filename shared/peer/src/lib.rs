//! How a message gets to another part: in process or over HTTP. Knows no message by name.
//!
//! There are two shapes, and no third:
//!
//! - a **request**: [`Peer<M>`] sends a message and gets its reply, its typed refusal, or an [`AskError`] that says
//!   the message's fate;
//! - a **feed**: [`Feed<E>`] is an ordered stream of events with one [`FeedWriter`]. A reader says where it is and
//!   gets what follows; a reader too far behind gets a snapshot and goes on from there.
//!
//! Handlers accept only [`Envelope<M>`], which carries the trace context, the deadline and the permit that bounds
//! the inbox, so none of them can be lost on the local path.
//!
//! Between processes both go over HTTP: [`Exchange`] is the entrance to a process, [`Remote`] the way to another one,
//! [`Followed`] a feed from there. Actors cannot tell which way a message came.

mod artifact;
mod ask;
mod exchange;
mod feed;
mod follow;
mod header;
mod inbox;
mod remote;
mod room;
pub mod sse;
mod ways;

pub use artifact::bring_here;
pub use ask::{AskError, Peer};
pub use exchange::Exchange;
pub use feed::{Delivery, Epoch, Feed, FeedSeat, FeedWriter, Mirror, Position, Reader, Start};
pub use follow::{Backlog, Followed};
pub use inbox::{Envelope, Held, Inbox};
pub use remote::{BadAddress, Remote};
