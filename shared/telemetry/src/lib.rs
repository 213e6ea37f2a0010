//! Logs of every part: on standard error, one line an event, by level and by part.
//!
//! Standard output is not touched: it belongs to what a command answers.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The variable that chooses what is logged, such as `info` or `warn,train_registry=debug`.
pub const LOG_VARIABLE: &str = "MIDRUN_LOG";

/// Starts logging for this process. A second call changes nothing.
///
/// An unreadable filter is said on standard error and replaced by the default, `warn`.
pub fn start() {
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
