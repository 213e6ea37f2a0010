//! The only place where user code is evaluated for facts.
//!
//! An artifact goes one way: the service ([`service`]) takes it from the `builds` feed and asks the crew ([`crew`]),
//! which carries out what the pool ([`pool`]), a pure function of what happened and the time, decides: which worker
//! ([`worker`]), a warm Node process, evaluates it. What the worker says ([`protocol`]) becomes a manifest
//! ([`manifest`]), or, through the source map, a failure at a place in the user's source ([`stack`],
//! [`missing_package`]), and goes onto the `rebuilds` feed.
//!
//! What must hold: nothing that user code does, throwing, hanging, computing without end, ending its process, using
//! up memory, hurts the server or a later artifact; a newer artifact of an entry never waits for an older one, and
//! the result of an older one is never published after it arrived; workers die with the server, however it ends.

mod crew;
mod manifest;
mod missing_package;
mod node;
mod pool;
mod protocol;
mod service;
mod stack;
mod worker;

pub use node::{UnfitNode, check_node};
pub use service::{Handle, Settings, inspect_once, start};
