//! Which files matter, when to build, and the artifact store.
//!
//! A change on disk goes one way: the system's watcher ([`change`]) puts it into the build thread's letter box
//! ([`mail`]); the build thread ([`engine`]) asks each entry ([`entry`]) whether it is of concern, and its schedule
//! ([`schedule`]), a pure function of what was seen and the time, when to build and when to publish; the bundler
//! ([`bundle`]) reads again what changed; a new artifact goes into the store ([`store`]) and onto the feed; then the
//! folders that matter now are watched ([`watch_set`]). The actor ([`service`]) only passes requests on.

mod account;
mod bundle;
mod change;
mod engine;
mod entry;
mod mail;
mod once;
mod project;
mod runtime;
mod schedule;
mod service;
mod store;
mod watch_set;

pub use once::{build_once, map_once};
pub use project::find_entry;
pub use runtime::bundle_runtime;
pub use service::{Handle, Settings, StillBuilding, start};
pub use store::Keep;
