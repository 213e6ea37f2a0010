//! Parts that are one future.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::{Condition, Failure, Policy};

/// Runs what `make` gives to its end; when it panics, what `make` gives next. Nothing: it panicked too often.
///
/// What belongs to the future must end when it is dropped.
pub async fn keep<F: Future>(
    condition: &Condition,
    policy: Policy,
    mut make: impl FnMut() -> F,
) -> Option<F::Output> {
    let mut patience = condition.patience(policy);
    loop {
        let run = async { make().await };
        let failure = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(output) => return Some(output),
            Err(panic) => Failure::of_panic(panic.as_ref()),
        };
        crate::pass(condition.failed(&failure, &mut patience)?).await;
        condition.begins_again(&mut patience);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn quick() -> Policy {
        Policy { first_pause: Duration::from_millis(1), ..Policy::default() }
    }

    #[tokio::test]
    async fn it_is_run_again_until_it_ends_by_itself() {
        let (condition, runs) = (Condition::new("train-registry"), AtomicUsize::new(0));
        let ended = keep(&condition, quick(), || async {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            assert!(run == 3, "run {run} fails");
            run
        });
        assert_eq!(ended.await, Some(3));
        assert_eq!(*condition.watch().borrow(), None);
    }

    #[tokio::test]
    async fn it_is_left_alone_when_it_panics_too_often_and_that_is_said() {
        let (condition, runs) = (Condition::new("train-registry"), AtomicUsize::new(0));
        let ended = keep(&condition, quick(), || async {
            runs.fetch_add(1, Ordering::Relaxed);
            panic!("words")
        });
        assert_eq!(ended.await, None::<()>);
        assert_eq!(runs.load(Ordering::Relaxed), 5);
        let trouble = condition.watch().borrow().clone().expect("it is said");
        assert!(trouble.service == "train-registry" && trouble.why.contains("words"), "{trouble}");
        assert!(trouble.why.contains("stays down"), "{trouble}");
    }
}
