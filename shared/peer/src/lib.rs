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

mod ask;
mod feed;
mod inbox;
mod room;

pub use ask::{AskError, Peer};
pub use feed::{Delivery, Epoch, Feed, FeedWriter, Position, Reader, Start};
pub use inbox::{Envelope, Held, Inbox};
