//! The fleet against a simulated world: whatever people save and stop and whatever order things arrive in, what
//! must hold holds.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::{Value, json};
use wire::log::Record;
use wire::manifest::Manifest;
use wire::resume::Started;
use wire::{Artifact, BuildId, Failure, ResumeFrom, StopMode};

use super::*;

const ENTRY: &str = "/p/src/midrun/index.ts";

/// What a source tree says: a config and callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    config: u8,
    callbacks: u8,
}

impl Source {
    fn good(self) -> Good {
        // The model of one of them is another, and no run can go on with that.
        let config = json!({ "learningRate": self.config, "model": self.config == 2 });
        let content_hash = ContentHash::from(format!("{}-{}", self.config, self.callbacks));
        Good {
            artifact: Artifact { path: format!("/b/{content_hash}"), content_hash, size: 1 },
            manifest: Manifest {
                trainer: Some("t".into()),
                config_hash: Some(ConfigHash::of(&config)),
                config: Some(config),
                callbacks: [("onLog".to_owned(), self.callbacks.to_string())].into(),
                can_swap: true,
            },
        }
    }
}

/// A runner as its host would see it.
#[derive(Debug)]
struct Runner {
    armed: bool,
    /// SIGTERM came.
    terminated: bool,
    killed: bool,
    ended: bool,
    config_hash: Option<ConfigHash>,
    executes: ContentHash,
    /// Swaps rung for and not answered.
    swaps: VecDeque<ContentHash>,
    config: Value,
    /// Its job, once training has started.
    job: Option<JobId>,
    step: u64,
    /// The newest checkpoint of its lineage.
    reached: Option<Checkpointed>,
}

/// A checkpoint as the one who saved it knows it.
#[derive(Debug, Clone)]
struct Checkpointed {
    from: ResumeFrom,
    config: Value,
    /// The executor declares what may change.
    declares: bool,
}

impl Checkpointed {
    /// Whether a run with `config` can go on from here.
    fn fits(&self, config: &Value) -> bool {
        self.declares && self.config["model"] == config["model"]
    }
}

#[derive(Debug, Clone)]
enum Act {
    Save(Source),
    Break,
    Start {
        restarts: bool,
    },
    Arm(usize),
    Answer {
        runner: usize,
        ok: bool,
    },
    /// Training starts, or saves a checkpoint.
    Train(usize),
    /// An early stop ends, after a number of checkpoints.
    Checkpoint {
        runner: usize,
        code: i32,
        saved: u8,
    },
    Crash(usize),
    Stop {
        runner: usize,
        mode: StopMode,
    },
    /// The request that a run belongs to says that it starts the next.
    Claim(usize),
    /// A request that a run belonged to has had its time to say so.
    Unclaimed,
}

struct World {
    fleet: Fleet,
    runners: BTreeMap<RunId, Runner>,
    /// Runs a person stopped.
    stopped: Vec<RunId>,
    cancels: Vec<RunId>,
    /// Runs that belong to requests.
    requested: Vec<RunId>,
    /// Those whose requests said that they start the next, in time.
    claimed: Vec<RunId>,
    /// Those that were to be asked for after a while.
    awaited: Vec<RunId>,
    /// Signals that the newest rebuild caused, by run.
    signals: BTreeMap<RunId, u32>,
    clock: u64,
    source: Option<Source>,
}

impl World {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(ENTRY.into(), Policy::default()),
            runners: BTreeMap::new(),
            stopped: Vec::new(),
            cancels: Vec::new(),
            requested: Vec::new(),
            claimed: Vec::new(),
            awaited: Vec::new(),
            signals: BTreeMap::new(),
            clock: 0,
            source: None,
        }
    }

    fn now(&mut self) -> Moment {
        self.clock += 1000;
        Moment(self.clock)
    }

    fn build(&mut self, result: Result<Good, Failure>) {
        self.signals.clear();
        let rebuild = Rebuild {
            build_id: BuildId::from(format!("b{}", self.clock)),
            entry: ENTRY.into(),
            changed: vec!["src/midrun/index.ts".into()],
            saved_at_us: self.clock,
            bundle_ms: 1.0,
            inspect_ms: 1.0,
            trace: TraceContext::default(),
            result,
        };
        let now = self.now();
        let effects = self.fleet.rebuilt(rebuild.clone(), "src/midrun/index.ts", now);
        self.carry_out(effects, true);
        // A feed that resyncs tells the same rebuild again.
        assert!(self.fleet.rebuilt(rebuild, "src/midrun/index.ts", now).is_empty());
    }

    /// Does what a host and a broker would do. `caused` by the newest rebuild.
    fn carry_out(&mut self, effects: Vec<Effect>, caused: bool) {
        for effect in effects {
            match effect {
                Effect::Swap { run, code, .. } => {
                    self.count(&run, caused);
                    let runner = self.runners.get_mut(&run).expect("a swap goes to a run that was started");
                    assert!(runner.armed, "swap before ready");
                    assert!(!runner.terminated && !runner.ended, "swap to a run that is ending");
                    assert_ne!(runner.swaps.back(), Some(&code.artifact.content_hash), "asked twice");
                    runner.swaps.push_back(code.artifact.content_hash);
                }
                Effect::EarlyStop { run, .. } => {
                    self.count(&run, caused);
                    let runner = self.runners.get_mut(&run).expect("a stop goes to a run that was started");
                    assert!(runner.armed, "SIGTERM before ready");
                    assert!(!runner.terminated, "a second SIGTERM");
                    runner.terminated = true;
                }
                Effect::Kill { run, .. } => {
                    let runner = self.runners.get_mut(&run).expect("known");
                    assert!(!runner.killed, "killed twice");
                    assert!(self.cancels.contains(&run), "killed before its cancel was committed");
                    runner.killed = true;
                }
                Effect::Cancel { run, .. } => {
                    assert!(!self.cancels.contains(&run), "cancelled twice");
                    self.cancels.push(run);
                }
                Effect::Start(plan) => {
                    if let Some(replaced) = &plan.replaces {
                        assert!(!self.stopped.contains(replaced), "restarted though a person stopped it");
                        assert!(self.runners[replaced].ended, "two runs of one lineage at once");
                        assert!(!self.claimed.contains(replaced), "its client restarts it too");
                        assert!(!self.awaited.contains(replaced), "its client may restart it too");
                        let newest = self.source.map(|source| source.good().artifact.content_hash);
                        assert_eq!(Some(&plan.code.artifact.content_hash), newest.as_ref());
                    }
                    let manifest = plan.code.manifest.as_ref().expect("built here");
                    let config = manifest.config.clone().expect("a source has one");
                    let reached = self.reached(&plan, &config);
                    let runner = Runner {
                        armed: false,
                        terminated: false,
                        killed: false,
                        ended: false,
                        config_hash: manifest.config_hash.clone(),
                        executes: plan.code.artifact.content_hash.clone(),
                        swaps: VecDeque::new(),
                        config,
                        job: None,
                        step: plan.resume().map_or(0, |from| from.step),
                        reached,
                    };
                    self.runners.insert(plan.run.clone(), runner);
                }
                Effect::AwaitClaim(run) => {
                    assert!(self.requested.contains(&run), "the server's own");
                    self.awaited.push(run);
                }
                Effect::Publish(_) | Effect::Retain(_) | Effect::Unwatch(_) | Effect::NotRestarted(_) => {}
            }
        }
    }

    /// What the lineage of a new run reached; checks that the run starts there if it can, and nowhere else.
    fn reached(&self, plan: &Plan, config: &Value) -> Option<Checkpointed> {
        let Some(replaced) = &plan.replaces else {
            assert_eq!(plan.resume(), None, "a first run has nothing to go on from");
            return None;
        };
        let reached = self.runners[replaced].reached.clone();
        let fits = reached.as_ref().filter(|reached| reached.fits(config));
        assert_eq!(plan.resume(), fits.map(|reached| &reached.from), "{reached:?} with {config}");
        reached
    }

    fn count(&mut self, run: &RunId, caused: bool) {
        if caused {
            let count = self.signals.entry(run.clone()).or_default();
            *count += 1;
            assert_eq!(*count, 1, "one rebuild, two signals");
        }
    }

    fn tell(&mut self, run: &RunId, step: &Step) {
        let now = self.now();
        let effects = self.fleet.happened(run, step, now);
        self.carry_out(effects, matches!(step, Step::Ready { .. }));
    }

    fn nth(&self, n: usize) -> Option<RunId> {
        let live: Vec<_> = self.runners.iter().filter(|(_, runner)| !runner.ended).collect();
        live.get(n % live.len().max(1)).map(|(run, _)| (*run).clone())
    }

    fn arm(&mut self, run: &RunId) {
        let runner = self.runners.get_mut(run).expect("known");
        if runner.armed || runner.killed {
            return;
        }
        runner.armed = true;
        let (content_hash, config_hash) = (runner.executes.clone(), runner.config_hash.clone());
        self.tell(run, &Step::Spawned { pid: 1, content_hash: content_hash.clone() });
        self.tell(run, &Step::Ready { content_hash, config_hash, trainer: None, can_swap: true });
    }

    fn answer(&mut self, run: &RunId, ok: bool) {
        let runner = self.runners.get_mut(run).expect("known");
        let Some(content_hash) = runner.swaps.pop_front() else { return };
        if ok {
            runner.executes = content_hash.clone();
        }
        let reason = (!ok).then(|| "superseded".to_owned());
        self.tell(run, &Step::Swap { content_hash, ok, reason, took_ms: None });
    }

    /// Training starts, or saves a checkpoint. Answers with the checkpoint.
    fn train(&mut self, run: &RunId) -> Option<Checkpointed> {
        let runner = self.runners.get_mut(run).expect("known");
        if !runner.armed || runner.killed {
            return None;
        }
        let declares = |job: &JobId| !job.as_str().ends_with('7');
        let Some(job) = runner.job.clone() else {
            let job = JobId::from(format!("job-{}", self.clock / 1000));
            runner.job = Some(job.clone());
            let keys = declares(&job).then(|| vec!["learningRate".to_owned()]);
            let started =
                Started { resumable_keys: keys, config: Some(runner.config.clone()), ..Started::default() };
            self.tell(run, &Step::Job { id: job, org_slug: None, project_slug: None, base_url: None });
            self.tell(run, &Step::Training(started));
            return None;
        };
        runner.step += 10;
        let (step, config) = (runner.step, runner.config.clone());
        self.tell(run, &Step::Checkpoint { step });
        Some(Checkpointed { declares: declares(&job), from: ResumeFrom { job, step }, config })
    }

    /// An early stop waits for a checkpoint, and ends after `saved` of them.
    fn end_early(&mut self, run: &RunId, code: i32, saved: u8) {
        self.tell(run, &early_stop(EarlyStopPhase::Waiting, None));
        let mut waited_for = false;
        for _ in 0..saved {
            let Some(checkpoint) = self.train(run) else { continue };
            let step = checkpoint.from.step;
            if !waited_for {
                self.runners.get_mut(run).expect("known").reached = Some(checkpoint);
                self.tell(run, &early_stop(EarlyStopPhase::Cancelling, Some(step)));
            }
            waited_for = true;
        }
        self.end(run, code);
    }

    fn end(&mut self, run: &RunId, code: i32) {
        self.runners.get_mut(run).expect("known").ended = true;
        if code == 0 {
            self.tell(run, &early_stop(EarlyStopPhase::Done, None));
        }
        self.tell(run, &Step::Exit { code, signal: None });
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Save(source) => {
                self.source = Some(source);
                self.build(Ok(source.good()));
            }
            Act::Break => {
                self.build(Err(Failure::plain("broken")));
            }
            Act::Start { restarts } => {
                let wish = Wish {
                    entry: ENTRY.into(),
                    shown_entry: "e".into(),
                    file: None,
                    restarts,
                    trace: TraceContext::default(),
                };
                let now = self.now();
                if let Ok((run, effects)) = self.fleet.start(wish, now) {
                    if !restarts {
                        self.requested.push(run);
                    }
                    self.carry_out(effects, false);
                }
            }
            Act::Arm(n) => {
                if let Some(run) = self.nth(n) {
                    self.arm(&run);
                }
            }
            Act::Answer { runner, ok } => {
                if let Some(run) = self.nth(runner) {
                    // Only the newest swap is what the run must come to; a skipped one was superseded.
                    let ok = ok || self.runners[&run].swaps.len() < 2;
                    self.answer(&run, ok);
                }
            }
            Act::Train(n) => {
                if let Some(run) = self.nth(n)
                    && let Some(checkpoint) = self.train(&run)
                {
                    self.runners.get_mut(&run).expect("known").reached = Some(checkpoint);
                }
            }
            Act::Checkpoint { runner, code, saved } => {
                if let Some(run) = self.nth(runner).filter(|run| self.runners[run].terminated) {
                    self.end_early(&run, code, saved);
                }
            }
            Act::Crash(n) => {
                if let Some(run) = self.nth(n) {
                    self.end(&run, 1);
                }
            }
            Act::Stop { runner, mode } => {
                if let Some(run) = self.nth(runner) {
                    let now = self.now();
                    let effects = self.fleet.stop(&run, mode, "a person", now).expect("it is live");
                    self.stopped.push(run);
                    self.carry_out(effects, false);
                }
            }
            Act::Claim(n) => {
                if let Some(run) = self.requested.get(n % self.requested.len().max(1)).cloned() {
                    self.claim(&run);
                }
            }
            Act::Unclaimed => {
                if let Some(run) = self.awaited.pop() {
                    let now = self.now();
                    let effects = self.fleet.unclaimed(&run, now);
                    self.carry_out(effects, false);
                }
            }
        }
    }

    fn claim(&mut self, run: &RunId) {
        if self.awaited.contains(run) || !self.runners[run].ended {
            self.claimed.push(run.clone());
        }
        let effects = self.fleet.claim(run).expect("known");
        self.carry_out(effects, false);
    }

    /// Lets everything that is under way arrive.
    fn settle(&mut self) {
        loop {
            let before = self.clock;
            for run in self.runners.keys().cloned().collect::<Vec<_>>() {
                let runner = &self.runners[&run];
                if runner.ended {
                    continue;
                } else if runner.killed {
                    self.end(&run, 137);
                } else if !runner.armed {
                    self.arm(&run);
                } else if !runner.swaps.is_empty() {
                    self.answer(&run, true);
                } else if runner.terminated {
                    self.end(&run, 0);
                }
            }
            self.act(&Act::Unclaimed);
            if self.clock == before {
                return;
            }
        }
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let source = (0_u8..3, 0_u8..4).prop_map(|(config, callbacks)| Source { config, callbacks });
    let mode = prop_oneof![Just(StopMode::Checkpoint), Just(StopMode::Now)];
    let act = prop_oneof![
        6 => source.prop_map(Act::Save),
        1 => Just(Act::Break),
        2 => any::<bool>().prop_map(|restarts| Act::Start { restarts }),
        4 => any::<usize>().prop_map(Act::Arm),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(runner, ok)| Act::Answer { runner, ok }),
        5 => any::<usize>().prop_map(Act::Train),
        3 => (any::<usize>(), prop_oneof![4 => Just(0), 1 => Just(143)], 0_u8..4)
            .prop_map(|(runner, code, saved)| Act::Checkpoint { runner, code, saved }),
        1 => any::<usize>().prop_map(Act::Crash),
        1 => (any::<usize>(), mode).prop_map(|(runner, mode)| Act::Stop { runner, mode }),
        2 => any::<usize>().prop_map(Act::Claim),
        1 => Just(Act::Unclaimed),
    ];
    prop::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_must_hold_holds(acts in acts()) {
        let mut world = World::new();
        world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
        world.act(&Act::Start { restarts: true });
        for act in &acts {
            world.act(act);
        }
        // A last good save; then everything arrives.
        world.act(&Act::Save(Source { config: 9, callbacks: 9 }));
        world.settle();
        let newest = Source { config: 9, callbacks: 9 }.good();
        for (run, runner) in world.runners.iter().filter(|(_, runner)| !runner.ended) {
            prop_assert_eq!(&runner.executes, &newest.artifact.content_hash);
            prop_assert_eq!(&runner.config_hash, &newest.manifest.config_hash);
            prop_assert_eq!(world.fleet.runs[run].executing(), &runner.executes);
        }
        for run in world.fleet.views() {
            let says_where = run.resume.is_some() != run.from_scratch.is_some();
            prop_assert_eq!(run.replaces.is_some(), says_where, "{:?} does not say where it started", run);
            let waits = matches!(run.status, wire::RunStatus::Restarting | wire::RunStatus::EarlyStopping);
            prop_assert!(!waits, "{:?} waits though a good build is there", run);
            if run.ended_by == Some(EndedBy::Failed) {
                prop_assert!(world.cancels.contains(&run.id), "its job is left behind");
                prop_assert!(run.reason.is_some(), "no reason a person can read");
            }
        }
    }
}

#[test]
fn a_restart_waits_for_a_good_build_and_says_so() {
    let mut world = World::new();
    world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
    world.act(&Act::Start { restarts: true });
    world.act(&Act::Arm(0));
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    world.act(&Act::Break);
    let old = world.nth(0).expect("live");
    world.end(&old, 0);
    let waiting = world.fleet.view(&old).expect("known");
    assert_eq!(waiting.status, wire::RunStatus::Restarting);
    assert_eq!(waiting.reason.as_deref(), Some("config.learningRate 0 -> 1; waits for the next good build"));
    world.act(&Act::Save(Source { config: 2, callbacks: 0 }));
    let ended = world.fleet.view(&old).expect("known");
    assert_eq!(ended.status, wire::RunStatus::Exited);
    assert_eq!(ended.ended_by, Some(EndedBy::Replaced));
    let successor = world.fleet.view(&ended.replaced_by.expect("replaced")).expect("known");
    assert_eq!(successor.replaces, Some(old));
}

fn early_stop(phase: EarlyStopPhase, step: Option<u64>) -> Step {
    Step::EarlyStop { phase, step }
}

/// A world with a run that has saved a checkpoint at step 10, and the run.
fn trained() -> (World, RunId) {
    let mut world = World::new();
    world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
    world.act(&Act::Start { restarts: true });
    let run = world.nth(0).expect("live");
    world.arm(&run);
    world.train(&run);
    world.act(&Act::Train(0));
    (world, run)
}

fn successor_of(world: &World, run: &RunId) -> Run {
    let ended = world.fleet.view(run).expect("known");
    world.fleet.view(&ended.replaced_by.expect("it is replaced")).expect("known")
}

#[test]
fn a_successor_resumes_at_the_checkpoint_that_was_waited_for_and_says_so() {
    let (mut world, old) = trained();
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    world.end_early(&old, 0, 2);
    let ended = world.fleet.view(&old).expect("known");
    assert_eq!((ended.last_checkpoint, ended.resume), (Some(30), None));
    let want = "config.learningRate 0 -> 1; its successor resumes at step 20";
    assert_eq!(ended.reason.as_deref(), Some(want));
    let next = successor_of(&world, &old);
    let job = ended.job_id.expect("it had one");
    assert_eq!((next.resume, next.from_scratch), (Some(ResumeFrom { job, step: 20 }), None));
    assert_eq!(next.reason.as_deref(), Some("resumes at step 20"));
    let row = |run: &Run| {
        let [row] = run.config.as_slice() else { panic!("one key changed: {:?}", run.config) };
        assert_eq!(row.path, "config.learningRate");
        [&row.before, &row.in_checkpoint, &row.wanted, &row.effective].map(Option::clone)
    };
    let view = |world: &World| world.fleet.view(&next.id).expect("known");
    assert_eq!(row(&view(&world)), [Some(json!(0)), Some(json!(0)), Some(json!(1)), None]);
    world.arm(&next.id);
    world.train(&next.id);
    assert_eq!(row(&view(&world)), [Some(json!(0)), Some(json!(0)), Some(json!(1)), Some(json!(1))]);
    assert_eq!(
        world.fleet.saved(&next.id).expect("known").origin.map(|it| it.before),
        Some(Some(old_config()))
    );
}

fn old_config() -> Value {
    Source { config: 0, callbacks: 0 }.good().manifest.config.expect("a source has one")
}

#[test]
fn a_successor_that_reached_no_checkpoint_leaves_its_lineage_the_older_one() {
    let (mut world, first) = trained();
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    world.end_early(&first, 0, 1);
    let second = successor_of(&world, &first);
    world.arm(&second.id);
    world.act(&Act::Save(Source { config: 3, callbacks: 0 }));
    world.end_early(&second.id, 0, 0);
    let third = successor_of(&world, &second.id);
    assert_eq!(third.resume, second.resume);
    let [row] = third.config.as_slice() else { panic!("one key changed: {:?}", third.config) };
    let told = [&row.before, &row.in_checkpoint, &row.wanted].map(Option::clone);
    assert_eq!(told, [1, 0, 3].map(|rate| Some(json!(rate))), "the checkpoint is older than the run before");
}

#[test]
fn another_model_starts_from_scratch_and_the_way_back_does_not() {
    let (mut world, first) = trained();
    world.act(&Act::Save(Source { config: 2, callbacks: 0 }));
    world.end_early(&first, 0, 1);
    let second = successor_of(&world, &first);
    assert_eq!((&second.resume, second.from_scratch.as_deref()), (&None, Some("config.model changed")));
    assert_eq!(second.reason.as_deref(), Some("from scratch: config.model changed"));
    world.arm(&second.id);
    world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
    world.end_early(&second.id, 0, 0);
    let third = successor_of(&world, &second.id);
    assert_eq!(third.resume.map(|from| from.step), Some(20), "what the lineage reached is not lost");
}

#[test]
fn a_restart_that_a_later_server_carries_out_resumes_too() {
    let (mut world, old) = trained();
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    let saved = world.fleet.saved(&old).expect("known");
    let job = world.runners[&old].job.clone().expect("it has one");
    let started = Started { resumable_keys: Some(vec!["learningRate".to_owned()]), ..Started::default() };
    let steps = [
        Step::Spawned { pid: 1, content_hash: "0-0".into() },
        Step::Job { id: job.clone(), org_slug: None, project_slug: None, base_url: None },
        Step::Training(started),
        Step::Checkpoint { step: 10 },
        early_stop(EarlyStopPhase::Waiting, None),
        Step::Checkpoint { step: 20 },
        early_stop(EarlyStopPhase::Cancelling, Some(20)),
        Step::Checkpoint { step: 21 },
        early_stop(EarlyStopPhase::Done, None),
        Step::Exit { code: 0, signal: None },
    ];
    let record =
        |(at, step): (usize, &Step)| Record { seq: at as u64 + 1, ts: String::new(), step: step.clone() };
    let log: Vec<Record> = steps.iter().enumerate().map(record).collect();
    let text = serde_json::to_string(&saved).expect("it is JSON");
    let mut later = World::new();
    later.clock = world.clock;
    let now = later.now();
    later.fleet.restore(serde_json::from_str(&text).expect("it was written so"), &log, now);
    later.runners = world.runners;
    let ended = later.runners.get_mut(&old).expect("known");
    ended.ended = true;
    ended.reached = Some(Checkpointed {
        from: ResumeFrom { job, step: 20 },
        config: ended.config.clone(),
        declares: true,
    });
    later.act(&Act::Save(Source { config: 3, callbacks: 0 }));
    assert_eq!(successor_of(&later, &old).resume.map(|from| from.step), Some(20));
}

#[test]
fn a_run_that_failed_gives_its_own_reason() {
    let (mut world, run) = trained();
    let reason = Some("cannot go on from step 40".to_owned());
    world.tell(&run, &Step::Finished { status: "failed".into(), reason });
    world.act(&Act::Crash(0));
    let ended = world.fleet.view(&run).expect("known");
    assert_eq!(ended.reason.as_deref(), Some("cannot go on from step 40 (exit status 1)"));
    assert_eq!(world.cancels, [run], "whether its job is at its end, nobody said");
}

#[test]
fn a_failed_early_stop_is_not_restarted_and_its_job_is_cancelled() {
    let mut world = World::new();
    world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
    world.act(&Act::Start { restarts: true });
    world.act(&Act::Arm(0));
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    let old = world.nth(0).expect("live");
    world.end(&old, 143);
    let ended = world.fleet.view(&old).expect("known");
    assert_eq!(ended.ended_by, Some(EndedBy::Failed));
    assert_eq!(ended.reason.as_deref(), Some("not restarted: the early stop failed (exit status 143)"));
    assert_eq!(ended.replaced_by, None);
    assert_eq!(world.cancels, [old]);
}

#[test]
fn a_request_s_run_is_stopped_and_its_client_starts_the_next() {
    let mut world = World::new();
    world.act(&Act::Save(Source { config: 0, callbacks: 0 }));
    world.act(&Act::Start { restarts: false });
    world.act(&Act::Arm(0));
    world.act(&Act::Save(Source { config: 1, callbacks: 0 }));
    let run = world.nth(0).expect("live");
    assert!(world.runners[&run].terminated);
    world.end(&run, 0);
    world.claim(&run);
    world.act(&Act::Unclaimed);
    assert_eq!(world.runners.len(), 1, "the server starts no successor");
    let reason = world.fleet.view(&run).expect("known").reason.expect("said");
    assert!(reason.ends_with("its client starts the next"), "{reason}");
}
