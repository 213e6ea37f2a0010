//! Stops the runs whose request ended.
//!
//! What must hold: an order once given is carried out until the registry accepts it or says that there is nothing
//! to stop, whatever becomes of the connection or the thread that gave it. Each order carries the permit of the
//! request it comes from, so there are never more of them than there may be such requests.

use std::sync::Arc;
use std::time::Duration;

use peer::{AskError, Peer};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::run::{StopMode, StopRun};
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
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// The other end of [`Stopper`].
pub(crate) type Orders = mpsc::Receiver<Order>;

/// The two ends, for at most `most` orders at once.
pub(crate) fn channel(most: usize) -> (Stopper, Orders) {
    let (orders, receiver) = mpsc::channel(most);
    (Stopper { orders }, receiver)
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

/// Carries orders out until nobody can give any more, or `until` has come true and none is left.
pub(crate) async fn carry_out(
    mut orders: Orders,
    stop: Peer<StopRun>,
    patience: Duration,
    metrics: Arc<Metrics>,
    until: impl Future<Output = ()>,
) {
    let mut under_way = JoinSet::new();
    let mut until = std::pin::pin!(until);
    let mut last_call = false;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(order) = order else { break };
                metrics.stops_ordered.inc();
                let (stop, metrics) = (stop.clone(), Arc::clone(&metrics));
                under_way.spawn(async move {
                    if !stop_run(&stop, order, patience).await {
                        metrics.stops_failed.inc();
                    }
                });
            }
            Some(_) = under_way.join_next() => {}
            () = &mut until, if !last_call => {
                last_call = true;
                orders.close();
            }
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// Whether the registry took note.
async fn stop_run(stop: &Peer<StopRun>, order: Order, patience: Duration) -> bool {
    let Order { run, reason, trace, permit } = order;
    let give_up = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let message = StopRun { run: run.clone(), mode: StopMode::Now, reason: reason.clone() };
        match stop.ask_within(message, trace.clone(), BUDGET).await {
            Ok(_) => {
                tracing::info!(%run, reason, "run stopped with its request");
                drop(permit);
                return true;
            }
            Err(AskError::Refused(refusal)) => {
                tracing::debug!(%run, code = refusal.code(), "nothing to stop");
                return true;
            }
            Err(error) if Instant::now() + pause >= give_up => {
                tracing::error!(%run, %error, "a run whose request ended could not be stopped: `midrun runs stop` it");
                return false;
            }
            Err(error) => tracing::warn!(%run, %error, "stopping a run whose request ended: trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
