//! A real host with real runners (`sh` and `node`), seen from outside: its socket, its log and the process table.

#![allow(clippy::unwrap_used, reason = "a test's helpers are as much a test as the test")]

mod alone;
mod ending;
mod executor;
mod footprint;
mod log;
mod output;
mod requests;
mod stage;
mod terminal;
