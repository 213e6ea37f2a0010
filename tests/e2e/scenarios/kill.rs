//! Whatever dies, a run goes on under control or ends cleanly: at every failpoint somebody is killed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use testkit::Topology;
use testkit::kill::{Injection, Lane, Lender, plan};

/// Projects that are killed beside each other.
const LANES: usize = 3;
/// In one process enough for every place with every victim, and for most with several outages of the control plane;
/// in six for every place twice, with other victims.
const fn injections(topology: Topology) -> usize {
    match topology {
        Topology::One => 300,
        Topology::Six => 150,
    }
}

const SEED: u64 = 1;

/// A number from the environment, so that a failure can be looked at alone.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_failpoint_everyone_is_killed_and_nothing_is_orphaned_or_lost() {
    let topology = Topology::of_this_binary();
    let seed = number("MIDRUN_KILL_SEED").unwrap_or(SEED);
    let count = number("MIDRUN_KILL_COUNT").and_then(|count| usize::try_from(count).ok());
    let count = count.unwrap_or(injections(topology));
    let mut injections: VecDeque<Injection> = plan(seed, count, topology).into();
    if let Ok(only) = std::env::var("MIDRUN_KILL_ONLY") {
        injections.retain(|injection| injection.to_string().contains(&only));
    }
    let queue = Arc::new(Mutex::new(injections));
    let lender = Arc::new(Lender::start().await);
    let lanes: Vec<_> =
        (0..LANES).map(|_| tokio::spawn(work(Arc::clone(&lender), Arc::clone(&queue)))).collect();
    for lane in lanes {
        lane.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    let lender = Arc::into_inner(lender).expect("every lane has ended");
    lender.finish().await;
}

async fn work(lender: Arc<Lender>, queue: Arc<Mutex<VecDeque<Injection>>>) {
    let mut lane = Lane::start(&lender, Topology::of_this_binary()).await;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(injection) = next else { break };
        match lane.inject(injection).await {
            Ok(outcome) => println!("{:5} ms  {injection}", outcome.took.as_millis()),
            Err(why) => {
                let told = lane.told();
                // The others need not go on.
                queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                panic!("{injection}: {why}\nthe server wrote:\n{told}");
            }
        }
    }
    lane.finish().await;
}
