//! Real projects, real processes and a control plane with faults, for tests over the built binary.
//!
//! What must hold: a test touches nothing of its user (home, state, sockets and project are its own, in a folder that
//! goes away); every wait has a limit and fails with what was seen instead; and a test that ends, however it ends,
//! leaves no process behind. Nothing here waits for time to pass: it waits for frames, output, files and exits.

mod binary;
mod client;
mod collector;
mod command;
mod dev;
mod faulty;
mod growing;
mod home;
pub mod kill;
mod link;
mod processes;
mod project;
mod run_log;
mod server;
mod sse;
mod stage;
mod train;
mod trainers;

pub use binary::midrun;
pub use client::{Answer, Ask, Client, Streamed};
pub use collector::{Collected, Collector};
pub use command::{Ended, Midrun, Running};
pub use dev::{Dev, DevOptions, pause};
pub use faulty::{Fault, FaultyControlPlane};
pub use home::Home;
pub use link::{LinkFault, Links};
pub use processes::{alive, eventually, exit_of, gone, leftovers, program, signal};
pub use project::{Layout, Project};
pub use run_log::RunLog;
pub use server::{Topology, free_port};
pub use sse::{Event, Sse};
pub use stage::{Flag, Stage};
pub use train::Train;
pub use trainers::{Brands, Checkpoints, SdkTrainer, Ticker};

use std::time::Duration;

/// How long a test waits for what must come. Generous, since the machine may be busy; a passing test never waits so
/// long.
pub const LIMIT: Duration = Duration::from_secs(45);
