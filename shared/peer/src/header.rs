//! The headers of requests between services, and which protocol they speak.

use std::time::Duration;

/// The protocol of this build. Services of different versions refuse each other with 426.
pub(crate) const VERSION: &str = "2";
pub(crate) const PROTOCOL: &str = "x-midrun-peer-protocol";
/// What is left of the asker's budget, milliseconds: clocks differ, so no deadline is sent.
pub(crate) const BUDGET: &str = "x-budget-ms";
/// The same for each sending of one message.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// In an answer: which life of the service gave it. In a request: it is only for that life.
pub(crate) const LIFE: &str = "x-midrun-peer-life";
/// In an answer: the message was handled, and this is the code of the "no" that is its body.
pub(crate) const REFUSAL: &str = "x-midrun-refusal";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

/// What one wants who asks for a feed and knows nothing of it yet: [`NEWEST`], or everything that is still kept.
pub(crate) const BACKLOG: &str = "x-midrun-backlog";
pub(crate) const NEWEST: &str = "newest";

/// In the answer of a feed that is not begun with a snapshot: the position of its newest event.
pub(crate) const NOW: &str = "x-midrun-feed-now";

/// The names of a feed's events: one that follows, one of a snapshot.
pub(crate) const EVENT: &str = "event";
pub(crate) const SNAPSHOT: &str = "snapshot";

/// How often a feed that has nothing to say says so.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
/// The largest message, bytes.
pub(crate) const LARGEST_MESSAGE: usize = 64 << 20;
