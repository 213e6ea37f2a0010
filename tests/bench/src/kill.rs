//! Killing at every failpoint, again and again: how often something did not hold, and how soon a server is back.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use testkit::Topology;
use testkit::kill::{Injection, Lane, Lender, Outcome, plan};

use crate::figures::Figures;
use crate::plan::Plan;
use crate::table::Row;

/// Projects that are killed beside each other.
const LANES: usize = 3;

/// What is still to be injected, and what came of the rest.
#[derive(Debug, Default)]
struct Course {
    left: VecDeque<Injection>,
    outcomes: Vec<Outcome>,
    failed: usize,
}

/// Carries out the plan's injections.
pub(crate) async fn measure(plan_of: &Plan) -> Vec<Row> {
    let left: VecDeque<Injection> = plan(plan_of.seed, plan_of.injections, plan_of.topology).into();
    let (victims, outages) =
        (counts(&left, |injection| injection.victims), counts(&left, |injection| injection.outage));
    let places = left.iter().map(|injection| injection.point).collect::<HashSet<_>>().len();
    let topology = plan_of.topology;
    let course = Arc::new(Mutex::new(Course { left, ..Course::default() }));
    let lender = Arc::new(Lender::start().await);
    let lanes: Vec<_> =
        (0..LANES).map(|_| tokio::spawn(work(Arc::clone(&lender), topology, Arc::clone(&course)))).collect();
    for lane in lanes {
        // One that ended badly was told of, and counts.
        if lane.await.is_err() {
            lock(&course).failed += 1;
        }
    }
    if let Some(lender) = Arc::into_inner(lender) {
        lender.finish().await;
    }
    let course = std::mem::take(&mut *lock(&course));
    let mut rows = rows(plan_of, places, &course);
    rows.insert(1, Row::told("of whom", victims));
    rows.insert(2, Row::told("meanwhile: the control plane, or the disk", outages));
    rows
}

/// How many injections have each value of something, the most frequent first.
fn counts<T: std::fmt::Debug>(injections: &VecDeque<Injection>, of: impl Fn(&Injection) -> T) -> String {
    let mut counts: Vec<(usize, String)> = Vec::new();
    for name in injections.iter().map(|injection| format!("{:?}", of(injection))) {
        match counts.iter_mut().find(|(_, known)| *known == name) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, name)),
        }
    }
    counts.sort_by(|a, b| b.cmp(a));
    counts.iter().map(|(count, name)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn lock(course: &Mutex<Course>) -> std::sync::MutexGuard<'_, Course> {
    course.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn work(lender: Arc<Lender>, topology: Topology, course: Arc<Mutex<Course>>) {
    let mut lane = Lane::start(&lender, topology).await;
    loop {
        let next = lock(&course).left.pop_front();
        let Some(injection) = next else { break };
        match lane.inject(injection).await {
            Ok(outcome) => lock(&course).outcomes.push(outcome),
            Err(why) => {
                eprintln!("FAILED: {injection}: {why}\nthe server wrote:\n{}", lane.told());
                lock(&course).failed += 1;
                // What is left of it is nothing to go on with.
                lane = Lane::start(&lender, topology).await;
            }
        }
    }
    lane.finish().await;
}

fn rows(plan: &Plan, places: usize, course: &Course) -> Vec<Row> {
    let mut rows = vec![
        Row::value("kills after which something did not hold", "", 0.0, course.failed as f64, "").remark(
            format!("of {} at {places} places, seed {}", course.outcomes.len() + course.failed, plan.seed),
        ),
    ];
    let mut times = |what: &str, times: Vec<Duration>| {
        if !times.is_empty() {
            let figures = Figures::of_times(&times);
            let text = format!("{:.0} / {:.0} ms", figures.median(), figures.p95());
            rows.push(Row::told(what, text).remark(format!("n={}", figures.count())));
        }
    };
    times(
        "from the start of the next server until it answers",
        course.outcomes.iter().filter_map(|outcome| outcome.server_back).collect(),
    );
    times(
        "a kill, from the run that is brought there until all was checked",
        course.outcomes.iter().map(|outcome| outcome.took).collect(),
    );
    rows
}
