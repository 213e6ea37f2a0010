//! How a server is asked to end, and what becomes of the runs then.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::runs::end_runs;

mod runs;

/// How long each part may take to end.
pub(crate) const PART_LIMIT: Duration = Duration::from_secs(5);
/// How long after which it is left alone.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(7);
/// What the control plane may take besides the grace that it gives its executors.
pub(crate) const CONTROL_PLANE_MARGIN: Duration = Duration::from_secs(15);

/// Runs `work` to its end. What is still under way then, such as the opening of a database, is dropped where it can
/// put down what it holds.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let system = actix::System::new();
    let runtime = system.runtime().tokio_runtime().handle().clone();
    let outcome = system.block_on(work);
    let _context = runtime.enter();
    drop(system);
    outcome
}

/// The signals that ask the server to end.
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    pub(crate) fn arm() -> Result<Self, String> {
        let arm = |kind| signal(kind).map_err(|error| format!("signals cannot be handled: {error}"));
        Ok(Self { interrupt: arm(SignalKind::interrupt())?, terminate: arm(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Says whether it was dropped where a runtime is.
    struct Held(Arc<AtomicBool>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(tokio::runtime::Handle::try_current().is_ok(), Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_still_under_way_is_dropped_inside_the_runtime() {
        let had_runtime = Arc::<AtomicBool>::default();
        let held = Held(Arc::clone(&had_runtime));
        run(async move {
            actix::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
        });
        assert!(had_runtime.load(Ordering::SeqCst));
    }
}
