//! The end of all parts: ordered, bounded, once.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::OnceCell;

/// What is to be done at the end, in order, each step within its own limit.
///
/// What must hold: every step is begun, whatever became of those before it; none is done twice, however often and by
/// however many the end is asked for, and all of them wait for the same end.
#[derive(Default)]
pub struct Ending<'a> {
    steps: RefCell<Vec<Step<'a>>>,
    over: OnceCell<()>,
}

struct Step<'a> {
    what: &'static str,
    limit: Duration,
    work: Pin<Box<dyn Future<Output = ()> + 'a>>,
}

impl<'a> Ending<'a> {
    /// Then `what` ends by `work`, which is given up after `limit`.
    #[must_use]
    pub fn then(self, what: &'static str, limit: Duration, work: impl Future<Output = ()> + 'a) -> Self {
        self.steps.borrow_mut().push(Step { what, limit, work: Box::pin(work) });
        self
    }

    /// Comes true when everything has ended or was given up.
    pub async fn run(&self) {
        self.over.get_or_init(|| self.end()).await;
    }

    async fn end(&self) {
        let steps = std::mem::take(&mut *self.steps.borrow_mut());
        for Step { what, limit, work } in steps {
            match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!(what, "it failed while it ended"),
                Err(_) => tracing::warn!(what, ?limit, "it did not end in time and is left alone"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_step_once_in_order_within_its_limit_whatever_becomes_of_the_others() {
        let done = RefCell::new(Vec::new());
        let short = Duration::from_millis(1);
        let ending = Ending::default()
            .then("first", short, async { done.borrow_mut().push(1) })
            .then("hangs", short, std::future::pending())
            .then("fails", short, async { panic!("it fails") })
            .then("last", short, async { done.borrow_mut().push(2) });
        tokio::join!(ending.run(), ending.run());
        ending.run().await;
        assert_eq!(*done.borrow(), [1, 2]);
    }
}
