//! Logs, traces and metrics of every part.
//!
//! - Logs go to standard error, one line an event, by level and by part. Standard output is not touched: it belongs
//!   to what a command answers. What is logged inside [`Span::scope`] carries the ids of its trace.
//! - Traces go to an OpenTelemetry collector when one is configured by the standard variables: see [`trace`]. They
//!   cost nothing when none is.
//! - Metrics are counted always and shown by whoever serves `GET /metrics`: see [`metrics`].

mod export;
pub mod metrics;
mod settings;
pub mod trace;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

pub use trace::{Service, Span, shutdown};

/// The variable that chooses what is logged, such as `info` or `warn,train_registry=debug`.
pub const LOG_VARIABLE: &str = "MIDRUN_LOG";

/// Starts logging for this process, and tracing if a collector is configured. A second call changes nothing.
///
/// An unreadable filter is said on standard error and replaced by the default, `warn`.
pub fn start() {
    start_logs();
    trace::start();
}

fn start_logs() {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { "warn" } else { wanted.trim() };
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|error| {
        eprintln!("{LOG_VARIABLE}={wanted} is no filter ({error}); logging warnings. Try MIDRUN_LOG=info.");
        EnvFilter::new("warn")
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(true)
        .try_init();
}
