//! The receiving end of a request: a bounded inbox that can be pointed at another actor.
//!
//! What must hold: at most `capacity` messages are queued or being handled. An actix mailbox bounds each *sender*,
//! so the bound here is a semaphore whose permit rides in the envelope until the handler lets go of it. After a
//! handler panics its mailbox is closed for good; the inbox is then pointed at the actor's successor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Recipient;
use arc_swap::ArcSwap;
use wire::{TraceContext, Wire};

use crate::ask::Peer;
use crate::room::{Place, Room};

/// A message as a handler gets it. It holds a place in the inbox until it is dropped.
///
/// The fields are private so that a closure captures the envelope whole: a handler's future that captured only
/// the message would give the place back while the message is still being handled.
#[derive(Debug)]
pub struct Envelope<M: Wire> {
    message: M,
    held: Held,
}

/// What came with a message. The message counts as being handled until this is dropped.
#[derive(Debug)]
pub struct Held {
    trace: TraceContext,
    deadline: Instant,
    _place: Place,
}

impl Held {
    /// The trace the message belongs to.
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// What is left of the asker's budget; zero when it no longer waits.
    pub fn budget(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl<M: Wire> Envelope<M> {
    pub(crate) fn new(message: M, trace: TraceContext, deadline: Instant, place: Place) -> Self {
        Self { message, held: Held { trace, deadline, _place: place } }
    }

    /// What is asked.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// The trace the message belongs to.
    pub fn trace(&self) -> &TraceContext {
        self.held.trace()
    }

    /// What is left of the asker's budget; zero when it no longer waits.
    pub fn budget(&self) -> Duration {
        self.held.budget()
    }

    /// The message, and what must be kept until it is handled.
    #[must_use]
    pub fn open(self) -> (M, Held) {
        (self.message, self.held)
    }
}

impl<M: Wire> actix::Message for Envelope<M> {
    type Result = Result<M::Reply, M::Refusal>;
}

/// The bounded entrance to the actor that handles `M`.
pub struct Inbox<M: Wire> {
    target: Arc<ArcSwap<Target<M>>>,
    room: Arc<Room>,
}

/// Where messages go.
pub(crate) enum Target<M: Wire> {
    Actor(Recipient<Envelope<M>>),
    /// Nowhere, for this reason.
    Nobody(&'static str),
}

impl<M: Wire> Target<M> {
    /// Who handles messages.
    ///
    /// # Errors
    /// Why nobody does. The mailbox of an actor that failed is closed before anybody is told.
    pub(crate) fn recipient(&self) -> Result<&Recipient<Envelope<M>>, &'static str> {
        match self {
            Self::Actor(recipient) if recipient.connected() => Ok(recipient),
            Self::Actor(_) => Err("it is not running"),
            Self::Nobody(why) => Err(why),
        }
    }
}

impl<M: Wire> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Self { target: Arc::clone(&self.target), room: Arc::clone(&self.room) }
    }
}

impl<M: Wire> Inbox<M> {
    /// An inbox for at most `capacity` messages, pointed at nobody yet.
    pub fn new(capacity: usize) -> Self {
        let target = Target::Nobody("it is not running");
        Self { target: Arc::new(ArcSwap::from_pointee(target)), room: Room::new(M::NAME, capacity) }
    }

    /// From now on messages go to `recipient`.
    pub fn point_at(&self, recipient: Recipient<Envelope<M>>) {
        self.target.store(Arc::new(Target::Actor(recipient)));
    }

    /// From now on messages are refused at once as not delivered, because of `why`.
    pub fn point_at_nobody(&self, why: &'static str) {
        self.target.store(Arc::new(Target::Nobody(why)));
    }

    /// The sending end.
    pub fn peer(&self) -> Peer<M> {
        Peer::local(self.clone())
    }

    /// Messages that are queued or being handled.
    pub fn depth(&self) -> usize {
        self.room.taken()
    }

    /// Whether there is no place left.
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    pub(crate) fn target(&self) -> Arc<Target<M>> {
        self.target.load_full()
    }

    pub(crate) fn place(&self) -> Option<Place> {
        Room::take(&self.room)
    }
}
