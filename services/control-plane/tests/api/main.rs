//! `/v1` as its clients see it: a real database, a real port, real executor processes.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do, the test cannot either")]

mod accounts;
mod checkpoints;
mod executors;
mod harness;
mod inference;
mod jobs;
mod load;
mod recovery;
mod series;
mod streams;
