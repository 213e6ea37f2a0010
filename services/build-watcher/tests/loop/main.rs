//! The build watcher on real folders, with the system's watcher and the real bundler.
//!
//! Nothing here waits for time to pass: that nothing happened is seen from what happens next.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod bench;
mod bundles;
mod entries;
mod failures;
mod folders;
mod saves;
mod store;
