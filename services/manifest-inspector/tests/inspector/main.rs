//! The inspector as the other parts see it: real Node, real processes, artifacts that do what artifacts do.

#![allow(clippy::unwrap_used, reason = "a test's helpers are as much a test as the test")]

mod bench;
mod failures;
mod hostile;
mod lifecycle;
mod manifests;
