//! The fleet against a simulated world: whatever people save and stop and whatever order things arrive in, what
//! must hold holds.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::json;
use wire::Artifact;
use wire::manifest::Manifest;

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
        let config = json!({ "learningRate": self.config });
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
}

#[derive(Debug, Clone)]
enum Act {
    Save(Source),
    Break,
    Start { restarts: bool },
    Arm(usize),
    Answer { runner: usize, ok: bool },
    Checkpoint { runner: usize, code: i32 },
    Crash(usize),
    Stop { runner: usize, mode: StopMode },
}

struct World {
    fleet: Fleet,
    runners: BTreeMap<RunId, Runner>,
    /// Runs a person stopped.
    stopped: Vec<RunId>,
    cancels: Vec<RunId>,
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
                        let newest = self.source.map(|source| source.good().artifact.content_hash);
                        assert_eq!(Some(&plan.code.artifact.content_hash), newest.as_ref());
                    }
                    let manifest = plan.code.manifest.as_ref().expect("built here");
                    let runner = Runner {
                        armed: false,
                        terminated: false,
                        killed: false,
                        ended: false,
                        config_hash: manifest.config_hash.clone(),
                        executes: plan.code.artifact.content_hash.clone(),
                        swaps: VecDeque::new(),
                    };
                    self.runners.insert(plan.run.clone(), runner);
                }
                Effect::Publish(_) | Effect::Retain(_) | Effect::Unwatch(_) => {}
            }
        }
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

    fn end(&mut self, run: &RunId, code: i32) {
        self.runners.get_mut(run).expect("known").ended = true;
        if code == 0 {
            self.tell(run, &Step::EarlyStop { phase: EarlyStopPhase::Done });
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
                let wish = Wish { entry: ENTRY.into(), shown_entry: "e".into(), file: None, restarts };
                let now = self.now();
                if let Ok((_, effects)) = self.fleet.start(wish, now) {
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
            Act::Checkpoint { runner, code } => {
                if let Some(run) = self.nth(runner).filter(|run| self.runners[run].terminated) {
                    self.end(&run, code);
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
        }
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
        3 => (any::<usize>(), prop_oneof![4 => Just(0), 1 => Just(143)])
            .prop_map(|(runner, code)| Act::Checkpoint { runner, code }),
        1 => any::<usize>().prop_map(Act::Crash),
        1 => (any::<usize>(), mode).prop_map(|(runner, mode)| Act::Stop { runner, mode }),
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
            prop_assert!(!matches!(run.status, wire::RunStatus::Restarting), "{:?} waits though a good build is there", run);
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
    assert_eq!(world.runners.len(), 1, "the server starts no successor");
    let reason = world.fleet.view(&run).expect("known").reason.expect("said");
    assert!(reason.ends_with("its client starts the next"), "{reason}");
}
