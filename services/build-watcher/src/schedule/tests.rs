//! Every rule once, and all of them over random histories.

use super::*;
use proptest::prelude::*;

const TIMING: Timing = Timing::new(Duration::from_millis(30));

struct Bench {
    schedule: Schedule,
    start: Instant,
}

impl Bench {
    /// An entry whose first build was published.
    fn published() -> Self {
        let start = Instant::now();
        let mut schedule = Schedule::new(TIMING, Seen { at: start, wall_us: 0 });
        assert_eq!(schedule.next(start, false), Step::Build);
        schedule.began(start);
        assert!(schedule.ended(Verdict::Good, start));
        assert_eq!(schedule.next(start, false), Step::Publish);
        schedule.done();
        assert_eq!(schedule.next(start, false), Step::Idle);
        Self { schedule, start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn see(&mut self, ms: u64, file: &str, touch: Touch) {
        let seen = Seen { at: self.at(ms), wall_us: ms * 1000 };
        self.schedule.see(Path::new(file), touch, seen);
    }

    fn build(&mut self, ms: u64, verdict: Verdict) {
        assert_eq!(self.schedule.next(self.at(ms), false), Step::Build);
        self.schedule.began(self.at(ms));
        assert!(self.schedule.ended(verdict, self.at(ms)));
    }

    fn next(&self, ms: u64) -> Step {
        self.schedule.next(self.at(ms), false)
    }

    fn wait(&self, ms: u64) -> Step {
        Step::Wait(self.at(ms))
    }
}

#[test]
fn a_complete_save_is_built_and_published_at_once() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Complete);
    bench.build(10, Verdict::Good);
    assert_eq!(bench.next(10), Step::Publish);
    let changes = bench.schedule.done().expect("a change");
    assert_eq!(changes.files, BTreeSet::from([PathBuf::from("a.ts")]));
    assert_eq!(changes.first.wall_us, 10_000);
    assert_eq!(bench.next(10), Step::Idle);
}

#[test]
fn a_file_being_written_waits_for_its_writer() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Writing { empty: true });
    assert_eq!(bench.next(10), bench.wait(1010));
    bench.see(20, "a.ts", Touch::Writing { empty: false });
    assert_eq!(bench.next(20), bench.wait(70));
    bench.see(21, "a.ts", Touch::Complete);
    bench.build(21, Verdict::Good);
    assert_eq!(bench.next(21), Step::Publish);
}

#[test]
fn a_writer_that_never_closes_is_not_waited_for_without_end() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Writing { empty: false });
    bench.build(60, Verdict::Failed);
    assert_eq!(bench.next(60), bench.wait(1010));
    assert_eq!(bench.next(1010), Step::Publish);
}

#[test]
fn a_failure_settles_and_a_change_supersedes_it() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Complete);
    bench.build(10, Verdict::Failed);
    assert_eq!(bench.next(10), bench.wait(40));
    bench.see(39, "a.ts", Touch::Complete);
    bench.build(39, Verdict::Doubtful);
    assert_eq!(bench.next(39), bench.wait(1039));
    bench.see(50, "a.ts", Touch::Complete);
    bench.build(50, Verdict::Good);
    assert_eq!(bench.next(50), Step::Publish);
}

#[test]
fn a_file_that_is_gone_gets_the_settle_time_to_come_back() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Gone);
    assert_eq!(bench.next(10), bench.wait(40));
    bench.build(40, Verdict::Failed);
    assert_eq!(bench.next(40), Step::Publish);
}

#[test]
fn a_crowd_waits_for_quiet_but_not_for_ever() {
    let mut bench = Bench::published();
    for n in 0..200 {
        bench.see(10 + n, &format!("{n}.ts"), Touch::Complete);
    }
    assert_eq!(bench.next(209), bench.wait(239));
    for n in 200..4000 {
        bench.see(10 + n, &format!("{}.ts", n % 200), Touch::Complete);
    }
    assert_eq!(bench.next(2010), Step::Build);
    let changes = bench.schedule.changes().expect("changes");
    assert!(changes.files.len() == NAMED && changes.more);
}

#[test]
fn a_checkout_is_waited_for() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Complete);
    assert_eq!(bench.schedule.next(bench.at(10), true), bench.wait(40));
    assert_eq!(bench.schedule.next(bench.at(9990), true), bench.wait(10_010));
    assert_eq!(bench.schedule.next(bench.at(10_010), true), Step::Build);
}

#[test]
fn a_change_during_a_build_makes_its_outcome_stale() {
    let mut bench = Bench::published();
    bench.see(10, "a.ts", Touch::Complete);
    bench.schedule.began(bench.at(10));
    bench.see(11, "b.ts", Touch::Complete);
    assert!(!bench.schedule.ended(Verdict::Good, bench.at(12)));
    assert_eq!(bench.next(12), Step::Build);
    assert_eq!(bench.schedule.changes().expect("changes").files.len(), 2);
}

#[derive(Debug, Clone)]
enum Move {
    See(u8, Touch),
    Lost,
    Pass(u16),
    /// A build that takes so long, with a change in the middle or not.
    Run(Verdict, u8, bool),
}

fn any_move() -> impl Strategy<Value = Move> {
    let touch = prop_oneof![
        Just(Touch::Complete),
        any::<bool>().prop_map(|empty| Touch::Writing { empty }),
        Just(Touch::Gone)
    ];
    let verdict = prop_oneof![Just(Verdict::Good), Just(Verdict::Doubtful), Just(Verdict::Failed)];
    prop_oneof![
        4 => (0..8_u8, touch).prop_map(|(file, touch)| Move::See(file, touch)),
        1 => Just(Move::Lost),
        3 => (0..400_u16).prop_map(Move::Pass),
        5 => (verdict, 0..60_u8, any::<bool>()).prop_map(|(v, ms, stale)| Move::Run(v, ms, stale)),
    ]
}

proptest! {
    /// Whatever happens in whatever order: nothing stale is published, no failure before it settled, and
    /// everything that changed is built and published in bounded time.
    #[test]
    fn what_must_hold(moves in prop::collection::vec(any_move(), 1..60), checkout in any::<bool>()) {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(TIMING, Seen { at: now, wall_us: 0 });
        let mut last_change = now;
        let mut held: Option<(Verdict, Instant)> = None;
        let finish = [Move::Pass(11_000), Move::Run(Verdict::Good, 0, false), Move::Pass(11_000)];
        for step in moves.into_iter().chain(finish) {
            match step {
                Move::See(file, touch) => {
                    schedule.see(Path::new(&file.to_string()), touch, Seen { at: now, wall_us: 0 });
                    last_change = now;
                    held = None;
                }
                Move::Lost => {
                    schedule.see_anything(Seen { at: now, wall_us: 0 });
                    last_change = now;
                    held = None;
                }
                Move::Pass(ms) => now += Duration::from_millis(ms.into()),
                Move::Run(verdict, ms, stale) => {
                    if schedule.next(now, checkout) == Step::Build {
                        let began = now;
                        schedule.began(now);
                        now += Duration::from_millis(ms.into());
                        if stale {
                            schedule.see(Path::new("x"), Touch::Complete, Seen { at: now, wall_us: 0 });
                            last_change = now;
                        }
                        prop_assert_eq!(schedule.ended(verdict, now), !stale);
                        held = (!stale).then_some((verdict, began));
                    }
                }
            }
            match schedule.next(now, checkout) {
                Step::Publish => {
                    let (verdict, began) = held.take().expect("only what was built is published");
                    prop_assert!(began >= last_change, "a stale outcome");
                    let since = now - last_change;
                    prop_assert!(verdict != Verdict::Failed || since >= TIMING.settle, "not settled");
                    prop_assert!(verdict != Verdict::Doubtful || since >= TIMING.long_pause, "not sure");
                    schedule.done();
                }
                Step::Wait(until) => {
                    prop_assert!(until > now);
                    let first = schedule.changes().expect("changes").first.at;
                    let limit = if checkout { TIMING.checkout_limit } else { TIMING.limit };
                    let told = now + TIMING.long_pause + TIMING.settle;
                    prop_assert!(until <= told.max(first + limit), "a wait without end");
                }
                Step::Idle => prop_assert!(schedule.changes().is_none()),
                Step::Build => {}
            }
        }
        prop_assert_eq!(schedule.next(now, checkout), Step::Idle, "everything was published in the end");
    }
}
