//! Stops the runs whose request ended.
//!
//! What must hold: an order once given is carried out until the registry accepts it or says that there is nothing
//! to stop, however long the registry is away, whatever becomes of the connection or the thread that gave it, also when
//! carrying out fails half-way. Each order carries the permit of the request it comes from, so there are never more of
//! them than there may be such requests. Only the end of the server does not wait for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use failpoint::Point;
use peer::{AskError, Peer};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use wire::run::{RunRefusal, StopMode, StopRun};
use wire::{Reject as _, RunId, TraceContext};

use crate::edge::BUDGET;
use crate::metrics::Metrics;

/// Orders go in here.
#[derive(Debug, Clone)]
pub(crate) struct Stopper {
    orders: mpsc::Sender<Order>,
}

/// One run that is to end now.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) run: RunId,
    pub(crate) reason: String,
    pub(crate) trace: TraceContext,
    /// Held until the order is carried out.
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

/// The other end of [`Stopper`], with what came out of it and is not done; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    given: Arc<tokio::sync::Mutex<mpsc::Receiver<Order>>>,
    taken: Arc<Mutex<HashMap<RunId, Arc<Order>>>>,
}

/// The two ends, for at most `most` orders at once.
pub(crate) fn channel(most: usize) -> (Stopper, Orders) {
    let (orders, receiver) = mpsc::channel(most);
    let given = Arc::new(tokio::sync::Mutex::new(receiver));
    (Stopper { orders }, Orders { given, taken: Arc::default() })
}

impl Orders {
    fn take(&self, order: Order) -> Arc<Order> {
        let order = Arc::new(order);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(order.run.clone(), Arc::clone(&order));
        order
    }

    fn done(&self, order: &Order) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&order.run);
    }

    /// Those that were under way when carrying out failed.
    fn left(&self) -> Vec<Arc<Order>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Stopper {
    /// Gives an order; never waits.
    pub(crate) fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            // Only after shutdown: as many orders fit as there are permits.
            tracing::error!(%error, "a run whose request ended could not be stopped");
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Carries orders out until nobody can give any more, or `last_call` has become true and none is left. A registry that
/// does not know a run is asked for it as long as `patience`.
pub(crate) async fn carry_out(
    orders: Orders,
    stop: Peer<StopRun>,
    patience: Duration,
    metrics: Arc<Metrics>,
    mut last_call: watch::Receiver<bool>,
) {
    let mut given = orders.given.lock().await;
    let mut under_way = JoinSet::new();
    let begin = |under_way: &mut JoinSet<()>, order: Arc<Order>| {
        let (orders, stop, metrics) = (orders.clone(), stop.clone(), Arc::clone(&metrics));
        under_way.spawn(async move {
            failpoint::reach(Point::LeashPulled);
            if !stop_run(&stop, &order, patience).await {
                metrics.stops_failed.inc();
            }
            orders.done(&order);
        });
    };
    orders.left().into_iter().for_each(|order| begin(&mut under_way, order));
    let mut is_last = false;
    loop {
        tokio::select! {
            biased;
            order = given.recv() => {
                let Some(order) = order else { break };
                metrics.stops_ordered.inc();
                begin(&mut under_way, orders.take(order));
            }
            Some(done) = under_way.join_next() => whole(done),
            _ = last_call.wait_for(|last| *last), if !is_last => {
                is_last = true;
                given.close();
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        whole(done);
    }
}

/// What failed while one order was carried out is a failure of them all: nobody knows what became of it.
fn whole(done: Result<(), JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Asks for as long as the registry is away: a run whose request ended must not go on because of that. Answers whether the
/// registry took note, or had nothing to stop.
async fn stop_run(stop: &Peer<StopRun>, order: &Order, patience: Duration) -> bool {
    let Order { run, reason, trace, .. } = order;
    let mut pause = FIRST_PAUSE;
    let mut was_told_of = false;
    let mut unknown_since = None;
    loop {
        let message = StopRun { run: run.clone(), mode: StopMode::Now, reason: reason.clone() };
        match stop.ask_within(message, trace.clone(), BUDGET).await {
            Ok(_) => {
                tracing::info!(%run, reason, "run stopped with its request");
                return true;
            }
            // A registry started this run; one that has come up since may not have found it yet.
            Err(AskError::Refused(RunRefusal::NotFound { .. })) => {
                let since = *unknown_since.get_or_insert_with(Instant::now);
                if since.elapsed() + pause >= patience {
                    tracing::error!(%run, "the registry does not know a run whose request ended: `midrun reap` finds it");
                    return false;
                }
            }
            Err(AskError::Refused(refusal)) => {
                tracing::debug!(%run, code = refusal.code(), "nothing to stop");
                return true;
            }
            Err(error) => {
                unknown_since = None;
                if !was_told_of {
                    was_told_of = true;
                    tracing::warn!(%run, %error, "stopping a run whose request ended: trying again until it is stopped");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
