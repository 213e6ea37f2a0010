//! The edge as its clients see it: real HTTP on a loopback port, real actors behind it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod access;
mod build_script;
mod dev_events;
mod fan_out;
mod page;
mod registry;
mod run_events;
mod runs;
mod shutdown;
mod support;
mod tab;
mod train;
mod upstream;
