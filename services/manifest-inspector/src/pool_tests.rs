use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    evaluation: Duration::from_secs(10),
    start: Duration::from_secs(5),
    evaluations: 4,
    growth: 1_000,
    pause: Duration::from_millis(100),
    worn: 3,
    rest: Duration::from_millis(1_000),
};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn hello() -> Reply {
    Reply::Hello { hello: true, node: "v20.20.2".into() }
}

fn told(id: u64, rss_bytes: u64) -> Reply {
    Reply::Told { id, facts: facts(), rss_bytes }
}

fn facts() -> Facts {
    Facts { trainer: None, config: None, callbacks: BTreeMap::new(), can_swap: false }
}

fn answered(request: u64) -> Act {
    Act::Answer { request, outcome: Outcome::Told(facts()) }
}

fn send(to: u64, request: u64) -> Act {
    Act::Send { to: WorkerId(to), request, path: format!("/{request}") }
}

/// A pool, and a clock that a test sets.
struct Bench {
    pool: Pool,
    now: Instant,
}

impl Bench {
    /// A pool whose first worker is ready.
    fn warm() -> Self {
        let mut bench = Self { pool: Pool::new(LIMITS), now: Instant::now() };
        bench.pool.warm_up(bench.now);
        assert_eq!(bench.said(1, hello()), [Act::Start(WorkerId(1))]);
        bench
    }

    fn ask(&mut self, request: u64, entry: &str) -> Vec<Act> {
        self.pool.ask(self.now, request, entry, &format!("/{request}"));
        self.pool.take_acts()
    }

    fn said(&mut self, worker: u64, reply: Reply) -> Vec<Act> {
        self.pool.said(self.now, WorkerId(worker), reply);
        self.pool.take_acts()
    }

    fn ended(&mut self, worker: u64, why: &str) -> Vec<Act> {
        self.pool.ended(self.now, WorkerId(worker), why);
        self.pool.take_acts()
    }

    fn after(&mut self, time: Duration) -> Vec<Act> {
        self.now += time;
        self.pool.tick(self.now);
        self.pool.take_acts()
    }
}

fn failure(acts: &[Act], of: u64) -> &str {
    let why = acts.iter().find_map(|act| match act {
        Act::Answer { request, outcome: Outcome::Failed(why) } if *request == of => Some(why.as_str()),
        _ => None,
    });
    why.unwrap_or_else(|| panic!("no failure of {of} in {acts:?}"))
}

#[test]
fn a_request_before_the_worker_is_ready_waits_for_it() {
    let mut bench = Bench { pool: Pool::new(LIMITS), now: Instant::now() };
    assert_eq!(bench.ask(1, "a"), [Act::Start(WorkerId(1))]);
    assert_eq!(bench.ask(2, "a"), []);
    assert_eq!(bench.ask(3, "b"), []);
    assert_eq!(bench.said(1, hello()), [send(1, 2), send(1, 3)]);
    assert_eq!(bench.said(1, told(2, 0)), [answered(2)]);
    assert_eq!(bench.said(1, told(3, 0)), [answered(3)]);
    assert_eq!(bench.pool.next_tick(), None);
}

#[test]
fn an_await_that_hangs_holds_up_nobody_and_its_worker_is_replaced() {
    let mut bench = Bench::warm();
    assert_eq!(bench.ask(1, "a"), [send(1, 1)]);
    assert_eq!(bench.after(millis(500)), []);
    assert_eq!(bench.ask(2, "a"), [send(1, 2), Act::Start(WorkerId(2))]);
    assert_eq!(bench.said(1, Reply::Started { id: 2, started: true }), []);
    assert_eq!(bench.said(1, told(2, 0)), [answered(2)]);
    assert_eq!(bench.said(2, hello()), [Act::Kill(WorkerId(1))]);
    assert_eq!(bench.ask(3, "a"), [send(2, 3)]);
}

#[test]
fn a_loop_that_never_ends_is_left_as_soon_as_there_is_another_worker() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    bench.after(millis(500));
    assert_eq!(bench.ask(2, "a"), [send(1, 2), Act::Start(WorkerId(2))]);
    assert_eq!(bench.said(2, hello()), [send(2, 2), Act::Kill(WorkerId(1))]);
    assert_eq!(bench.said(1, told(2, 0)), [], "it is not the worker that was asked");
    assert_eq!(bench.said(2, told(2, 0)), [answered(2)]);
}

#[test]
fn a_save_close_after_another_needs_no_second_worker() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    assert_eq!(bench.ask(2, "a"), [send(1, 2)]);
    assert_eq!(bench.said(1, told(1, 0)), [], "nobody wants it any more");
    assert_eq!(bench.said(1, told(2, 0)), [answered(2)]);
    assert_eq!(bench.after(millis(1_000)), []);
}

#[test]
fn slow_code_of_another_entry_is_left_in_peace() {
    let mut bench = Bench::warm();
    bench.ask(1, "slow");
    bench.ask(2, "a");
    bench.after(millis(100));
    assert_eq!(bench.ask(3, "a"), [send(1, 3), Act::Start(WorkerId(2))]);
    assert_eq!(bench.said(2, hello()), [send(2, 3)], "the worker with the slow code lives on");
    assert_eq!(bench.said(2, told(3, 0)), [answered(3)]);
    assert_eq!(bench.said(1, told(1, 0)), [answered(1), Act::Kill(WorkerId(1))]);
}

#[test]
fn code_that_takes_too_long_is_a_failure_and_its_worker_is_replaced() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    assert_eq!(bench.pool.next_tick(), Some(bench.now + LIMITS.evaluation));
    assert_eq!(bench.after(LIMITS.evaluation - millis(1)), []);
    let acts = bench.after(millis(1));
    assert!(failure(&acts, 1).contains("more than 10 s"), "{acts:?}");
    assert_eq!(acts.last(), Some(&Act::Start(WorkerId(2))));
    assert_eq!(bench.said(2, hello()), [Act::Kill(WorkerId(1))]);
}

#[test]
fn a_crash_is_tried_again_once_unless_nothing_else_can_be_to_blame() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    let acts = bench.ended(1, "was ended by SIGABRT");
    assert!(failure(&acts, 1).ends_with("was ended by SIGABRT"));
    assert_eq!((&acts[0], &acts[2]), (&Act::Kill(WorkerId(1)), &Act::Start(WorkerId(2))));
    bench.said(2, hello());
    bench.ask(2, "a");
    bench.said(2, told(2, 0));
    bench.ask(3, "a");
    assert_eq!(bench.ended(2, "was ended by SIGKILL"), [Act::Kill(WorkerId(2)), Act::Start(WorkerId(3))]);
    assert_eq!(bench.said(3, hello()), [send(3, 3)]);
    let acts = bench.said(3, Reply::Exit { id: Some(3), exit: 7 });
    assert_eq!(failure(&acts, 3), "the trainer called process.exit(7) while it was imported");
}

#[test]
fn an_exit_that_an_earlier_artifact_set_off_hurts_nobody() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    bench.said(1, told(1, 0));
    assert_eq!(
        bench.said(1, Reply::Exit { id: None, exit: 0 }),
        [Act::Kill(WorkerId(1)), Act::Start(WorkerId(2))]
    );
    assert_eq!(bench.ask(2, "a"), []);
    assert_eq!(bench.said(2, hello()), [send(2, 2)]);
    assert_eq!(bench.ended(1, "exited"), [], "it was known");
}

#[test]
fn a_worker_is_replaced_for_its_age_in_a_pause() {
    let mut bench = Bench::warm();
    for request in 1..=4 {
        bench.now += millis(10);
        bench.ask(request, "a");
        assert_eq!(bench.said(1, told(request, 0)), [answered(request)]);
    }
    assert_eq!(bench.after(millis(99)), []);
    bench.ask(5, "a");
    bench.said(1, told(5, 0));
    assert_eq!(bench.after(millis(99)), [], "there was no pause");
    assert_eq!(bench.pool.next_tick(), Some(bench.now + millis(1)));
    assert_eq!(bench.after(millis(1)), [Act::Start(WorkerId(2))]);
    assert_eq!(bench.ask(6, "a"), [send(1, 6)], "until then the old one serves");
    assert_eq!(bench.said(1, told(6, 0)), [answered(6)]);
    assert_eq!(bench.said(2, hello()), [Act::Kill(WorkerId(1))]);
    assert_eq!(bench.pool.next_tick(), None);
}

#[test]
fn a_worn_worker_is_replaced_when_nobody_saves_any_more() {
    let mut bench = Bench::warm();
    for request in 1..LIMITS.worn.into() {
        bench.ask(request, "a");
        bench.said(1, told(request, 0));
    }
    assert_eq!(bench.after(LIMITS.rest), [], "it is not worn");
    bench.ask(LIMITS.worn.into(), "a");
    bench.said(1, told(LIMITS.worn.into(), 0));
    assert_eq!(bench.after(LIMITS.rest - millis(1)), []);
    assert_eq!(bench.after(millis(1)), [Act::Start(WorkerId(2))]);
    assert_eq!(bench.said(2, hello()), [Act::Kill(WorkerId(1))]);
    assert_eq!(bench.pool.next_tick(), None, "the new one did nothing");
}

#[test]
fn without_any_pause_it_is_replaced_all_the_same() {
    let mut bench = Bench::warm();
    let mut acts = Vec::new();
    for request in 1..=8 {
        acts = bench.ask(request, "a");
        acts.extend(bench.said(1, told(request, 0)));
    }
    assert!(acts.contains(&Act::Start(WorkerId(2))), "{acts:?}");
}

#[test]
fn a_worker_that_has_grown_is_replaced() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    bench.said(1, told(1, 5_000));
    bench.ask(2, "a");
    bench.said(1, told(2, 6_000));
    assert_eq!(bench.after(LIMITS.pause), []);
    bench.ask(3, "a");
    bench.said(1, told(3, 6_001));
    assert_eq!(bench.after(LIMITS.pause), [Act::Start(WorkerId(2))]);
}

#[test]
fn without_node_every_save_says_so_and_the_next_one_tries_again() {
    let mut bench = Bench { pool: Pool::new(LIMITS), now: Instant::now() };
    bench.ask(1, "a");
    let acts = bench.ended(1, "was not found");
    assert_eq!(failure(&acts, 1), "no worker to import the trainer: node was not found");
    assert_eq!(acts.len(), 1);
    assert_eq!(bench.ask(2, "a"), [Act::Start(WorkerId(2))]);
    let acts = bench.said(2, Reply::Hello { hello: true, node: "v18.19.1".into() });
    assert_eq!(acts[0], Act::Kill(WorkerId(2)));
    assert!(failure(&acts, 2).contains("node is v18.19.1, and midrun needs 20.3"));
    bench.ask(3, "a");
    let acts = bench.after(LIMITS.start);
    assert!(failure(&acts, 3).contains("did not start within 5 s"));
    assert_eq!(bench.pool.next_tick(), None);
}

#[test]
fn a_successor_that_does_not_start_is_not_tried_in_a_loop() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    bench.after(millis(500));
    assert_eq!(bench.ask(2, "a"), [send(1, 2), Act::Start(WorkerId(2))]);
    assert_eq!(bench.ended(2, "was not found"), []);
    assert_eq!(bench.pool.next_tick(), Some(bench.now + RETRY));
    assert_eq!(bench.after(RETRY), [Act::Start(WorkerId(3))]);
    assert_eq!(bench.said(3, hello()), [send(3, 2), Act::Kill(WorkerId(1))]);
}

#[test]
fn the_end_ends_every_worker() {
    let mut bench = Bench::warm();
    bench.ask(1, "a");
    bench.after(millis(500));
    bench.ask(2, "a");
    bench.pool.close();
    assert_eq!(bench.pool.take_acts(), [Act::Kill(WorkerId(1)), Act::Kill(WorkerId(2))]);
    assert_eq!(bench.said(2, hello()), []);
    assert_eq!(bench.pool.next_tick(), None);
}

/// What a simulated world does next. Numbers choose among what is possible then.
#[derive(Debug, Clone)]
enum Event {
    Save(u8),
    Hello(usize),
    Reply(usize),
    Started(usize),
    Crash(usize),
    Exit(usize),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0_u8..3).prop_map(Event::Save),
        3 => (0_usize..4).prop_map(Event::Hello),
        5 => (0_usize..6).prop_map(Event::Reply),
        2 => (0_usize..6).prop_map(Event::Started),
        1 => (0_usize..4).prop_map(Event::Crash),
        1 => (0_usize..6).prop_map(Event::Exit),
        3 => (1_u64..2_000).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..120)
}

/// The processes and requests as the world outside the pool sees them.
#[derive(Default)]
struct World {
    /// Live processes, and what each was sent and has not answered.
    live: BTreeMap<WorkerId, BTreeSet<u64>>,
    newest: BTreeMap<u8, u64>,
    answered: BTreeSet<u64>,
    most: usize,
}

impl World {
    fn carry_out(&mut self, acts: Vec<Act>) -> Result<(), TestCaseError> {
        for act in acts {
            match act {
                Act::Start(id) => prop_assert!(self.live.insert(id, BTreeSet::new()).is_none()),
                Act::Kill(id) => drop(self.live.remove(&id)),
                Act::Send { to, request, .. } => {
                    let sent = self.live.get_mut(&to).map(|sent| sent.insert(request));
                    prop_assert_eq!(
                        sent,
                        Some(true),
                        "request {} went to {:?}, which is not there",
                        request,
                        to
                    );
                }
                Act::Answer { request, .. } => {
                    prop_assert!(self.answered.insert(request), "answered twice");
                    prop_assert!(
                        self.newest.values().any(|newest| *newest == request),
                        "an old one was answered"
                    );
                }
                Act::Complain(_) => {}
            }
        }
        self.most = self.most.max(self.live.len());
        Ok(())
    }

    fn worker(&self, choice: usize) -> Option<WorkerId> {
        self.live.keys().nth(choice).copied()
    }

    fn sent(&self, choice: usize) -> Option<(WorkerId, u64)> {
        self.live.iter().flat_map(|(id, sent)| sent.iter().map(|request| (*id, *request))).nth(choice)
    }
}

proptest! {
    /// Whatever happens: no request goes to a process that is not there, none is answered twice, the newest of each
    /// entry is answered in the end, and in the end there is one process.
    #[test]
    fn the_newest_request_of_each_entry_is_answered(script in events()) {
        let mut bench = Bench { pool: Pool::new(LIMITS), now: Instant::now() };
        let mut world = World::default();
        let mut ready = BTreeSet::new();
        let mut next = 0;
        for event in script {
            let acts = match event {
                Event::Save(entry) => {
                    next += 1;
                    world.newest.insert(entry, next);
                    bench.ask(next, &entry.to_string())
                }
                Event::Hello(choice) => match world.worker(choice).filter(|id| ready.insert(*id)) {
                    Some(id) => bench.said(id.0, hello()),
                    None => continue,
                },
                Event::Reply(choice) => match world.sent(choice) {
                    Some((id, request)) => {
                        world.live.get_mut(&id).expect("it was chosen").remove(&request);
                        bench.said(id.0, told(request, request * 100))
                    }
                    None => continue,
                },
                Event::Started(choice) => match world.sent(choice) {
                    Some((id, request)) => bench.said(id.0, Reply::Started { id: request, started: true }),
                    None => continue,
                },
                Event::Crash(choice) => match world.worker(choice) {
                    Some(id) => {
                        world.live.remove(&id);
                        bench.ended(id.0, "crashed")
                    }
                    None => continue,
                },
                Event::Exit(choice) => match world.sent(choice) {
                    Some((id, request)) => {
                        world.live.remove(&id);
                        bench.said(id.0, Reply::Exit { id: Some(request), exit: 1 })
                    }
                    None => continue,
                },
                Event::Pass(time) => bench.after(millis(time)),
            };
            world.carry_out(acts)?;
        }
        // From here on everything goes well.
        for _ in 0..200 {
            let starting: Vec<_> = world.live.keys().filter(|id| !ready.contains(*id)).copied().collect();
            for id in starting {
                ready.insert(id);
                let acts = bench.said(id.0, hello());
                world.carry_out(acts)?;
            }
            while let Some((id, request)) = world.sent(0) {
                world.live.get_mut(&id).expect("it was chosen").remove(&request);
                let acts = bench.said(id.0, told(request, 0));
                world.carry_out(acts)?;
            }
            let Some(at) = bench.pool.next_tick() else { break };
            let wait = at.saturating_duration_since(bench.now);
            let acts = bench.after(wait);
            world.carry_out(acts)?;
        }
        for newest in world.newest.values() {
            prop_assert!(world.answered.contains(newest), "{} was never answered", newest);
        }
        prop_assert_eq!(bench.pool.next_tick(), None, "it comes to rest");
        prop_assert!(world.live.len() <= 1, "{} processes in the end", world.live.len());
        prop_assert!(world.most <= MOST_WORKERS, "{} processes at once", world.most);
    }
}
