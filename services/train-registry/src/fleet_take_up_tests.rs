//! A fleet that takes up the runs of an earlier one.

use serde_json::json;
use wire::Artifact;
use wire::manifest::Manifest;

use super::*;

const ENTRY: &str = "/p/src/midrun/index.ts";
const NOW: Moment = Moment(1);

fn rebuild(bytes: &str, rate: f64) -> Rebuild {
    let config = json!({ "learningRate": rate });
    let manifest = Manifest {
        trainer: Some("t".into()),
        config_hash: Some(ConfigHash::of(&config)),
        config: Some(config),
        callbacks: BTreeMap::new().into_iter().collect(),
        can_swap: true,
    };
    let artifact = Artifact { content_hash: bytes.into(), path: format!("/b/{bytes}"), size: 1 };
    Rebuild {
        build_id: BuildId::from(bytes),
        entry: ENTRY.into(),
        changed: Vec::new(),
        saved_at_us: 0,
        bundle_ms: 0.0,
        inspect_ms: 0.0,
        trace: TraceContext::default(),
        result: Ok(Good { artifact, manifest }),
    }
}

fn fleet() -> Fleet {
    Fleet::new(ENTRY.into(), Policy::default())
}

fn started(fleet: &mut Fleet) -> RunId {
    fleet.rebuilt(rebuild("a", 0.1), "index.ts", NOW);
    let wish = Wish {
        entry: ENTRY.into(),
        shown_entry: "index.ts".into(),
        file: None,
        restarts: true,
        trace: TraceContext::default(),
    };
    fleet.start(wish, NOW).expect("the build is good").0
}

fn steps(steps: Vec<Step>) -> Vec<Record> {
    (1..).zip(steps).map(|(seq, step)| Record { seq, ts: String::new(), step }).collect()
}

fn ready() -> Step {
    let config_hash = Some(ConfigHash::of(&json!({ "learningRate": 0.1 })));
    Step::Ready { content_hash: "a".into(), config_hash, trainer: None, can_swap: true }
}

fn cancels(effects: &[Effect]) -> Vec<RunId> {
    let run = |effect: &Effect| match effect {
        Effect::Cancel { run, .. } => Some(run.clone()),
        _ => None,
    };
    effects.iter().filter_map(run).collect()
}

#[test]
fn a_cancel_is_owed_until_it_is_in_the_outbox() {
    let mut first = fleet();
    let run = started(&mut first);
    assert_eq!(cancels(&first.stop(&run, StopMode::Now, "why", NOW).unwrap()), std::slice::from_ref(&run));
    assert!(cancels(&first.lost(&run, "gone".into(), NOW)).is_empty(), "one at a time");
    // It died before the cancel was committed.
    let saved = first.saved(&run).unwrap();
    let mut second = fleet();
    assert_eq!(cancels(&second.restore(saved, &[], NOW)), std::slice::from_ref(&run));
    second.cancel_committed(&run);
    let saved = second.saved(&run).unwrap();
    assert!(cancels(&fleet().restore(saved, &[], NOW)).is_empty());
}

#[test]
fn a_stop_at_once_is_carried_out_by_the_next_server() {
    let mut first = fleet();
    let run = started(&mut first);
    first.stop(&run, StopMode::Now, "why", NOW).unwrap();
    let mut second = fleet();
    let log = steps(vec![ready()]);
    assert!(second.restore(first.saved(&run).unwrap(), &log, NOW).is_empty(), "not before its host is there");
    let effects = second.taken_up(&run, NOW);
    assert!(matches!(&effects[..], [Effect::Cancel { .. }, Effect::Kill { .. }]), "{effects:?}");
}

#[test]
fn a_runner_that_failed_may_have_left_its_job() {
    for (status, want) in [("failed", 1), ("completed", 0), ("cancelled", 0)] {
        let mut fleet = fleet();
        let run = started(&mut fleet);
        for step in [ready(), Step::Finished { status: status.into(), reason: None }] {
            fleet.happened(&run, &step, NOW);
        }
        let effects = fleet.happened(&run, &Step::Exit { code: 1, signal: None }, NOW);
        assert_eq!(cancels(&effects).len(), want, "{status}");
    }
}

#[test]
fn a_successor_that_was_never_started_is_due_again() {
    let mut first = fleet();
    let old = started(&mut first);
    first.happened(&old, &ready(), NOW);
    first.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    let effects = first.happened(&old, &Step::Exit { code: 0, signal: None }, NOW);
    let next = effects.iter().find_map(|effect| match effect {
        Effect::Start(plan) => Some(plan.run.clone()),
        _ => None,
    });
    let next = next.expect("it has a successor");

    let mut second = fleet();
    let log = steps(vec![ready(), Step::Exit { code: 0, signal: None }]);
    second.restore(first.saved(&old).unwrap(), &log, NOW);
    second.restore(first.saved(&next).unwrap(), &[], NOW);
    second.never_started(&next, NOW);
    assert!(!second.is_live(&next));
    let effects = second.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    let again: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Start(plan) => Some((plan.run.clone(), plan.replaces.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].0, next, "under another name, since nobody may start that one any more");
    assert_eq!(again[0].1.as_ref(), Some(&old));
    assert_eq!(second.view(&old).unwrap().replaced_by.as_ref(), Some(&again[0].0));
}

#[test]
fn a_start_that_somebody_asked_for_is_not_made_behind_their_back() {
    let mut first = fleet();
    let run = started(&mut first);
    let mut second = fleet();
    second.restore(first.saved(&run).unwrap(), &[], NOW);
    second.never_started(&run, NOW);
    let ended = second.view(&run).unwrap();
    assert_eq!(ended.ended_by, Some(EndedBy::Failed));
    assert!(ended.reason.is_some());
    let effects = second.rebuilt(rebuild("a", 0.1), "index.ts", NOW);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Start(_))));
}

#[test]
fn a_swap_that_an_earlier_server_asked_for_is_not_asked_for_again() {
    let mut first = fleet();
    let run = started(&mut first);
    let mut second = fleet();
    second.restore(first.saved(&run).unwrap(), &steps(vec![ready()]), NOW);
    // Its host was slow to carry it out, and the first build of this server is slower.
    for step in [
        Step::Signal { signal: 12, why: String::new(), content_hash: Some("b".into()) },
        Step::Swap { content_hash: "b".into(), ok: true, reason: None, took_ms: None },
    ] {
        second.happened(&run, &step, NOW);
    }
    let effects = second.rebuilt(rebuild("b", 0.1), "index.ts", NOW);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Swap { .. })), "{effects:?}");
    assert_eq!(second.view(&run).unwrap().content_hash, "b".into());

    // What the swapped bytes say of their config went with the earlier server.
    let effects = second.rebuilt(rebuild("c", 0.2), "index.ts", NOW);
    let why = effects.iter().find_map(|effect| match effect {
        Effect::EarlyStop { why, .. } => Some(why.as_str()),
        _ => None,
    });
    assert_eq!(why, Some("config.learningRate 0.1 -> 0.2"));
}

fn restarts(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Start(_)))
}

/// Has a rebuild stop the run, and the run end well at `now`.
fn replaced(fleet: &mut Fleet, run: &RunId, now: Moment) -> Vec<Effect> {
    fleet.rebuilt(rebuild("b", 0.2), "index.ts", now);
    assert_eq!(fleet.view(run).unwrap().status, wire::RunStatus::EarlyStopping);
    fleet.happened(run, &Step::Exit { code: 0, signal: None }, now)
}

#[test]
fn a_run_whose_request_is_gone_is_restarted_by_the_server() {
    let seconds = |seconds: u64| Moment(seconds * 1_000_000);
    let of_a_request = || {
        let mut fleet = fleet();
        fleet.rebuilt(rebuild("a", 0.1), "index.ts", NOW);
        let wish = Wish {
            entry: ENTRY.into(),
            shown_entry: "index.ts".into(),
            file: None,
            restarts: false,
            trace: TraceContext::default(),
        };
        let run = fleet.start(wish, seconds(1)).unwrap().0;
        fleet.happened(&run, &ready(), seconds(1));
        (fleet, run)
    };
    let (mut first, run) = of_a_request();
    assert!(!restarts(&replaced(&mut first, &run, seconds(60))), "its client starts the next");
    let (mut first, run) = of_a_request();
    first.hold(&run, seconds(80));
    assert!(!restarts(&replaced(&mut first, &run, seconds(160))));
    let (mut first, run) = of_a_request();
    assert!(restarts(&replaced(&mut first, &run, seconds(160))), "nobody has read its log for long");

    let (first, run) = of_a_request();
    let taken_up = || {
        let mut second = fleet();
        second.restore(first.saved(&run).unwrap(), &steps(vec![ready()]), seconds(2));
        second
    };
    assert!(restarts(&replaced(&mut taken_up(), &run, seconds(3))), "its request died with the server");
    let mut second = taken_up();
    second.hold(&run, seconds(3));
    assert!(!restarts(&replaced(&mut second, &run, seconds(4))), "only the registry was started again");
}

#[test]
fn a_runner_that_was_signalled_from_outside_is_not_signalled_again() {
    let mut first = fleet();
    let run = started(&mut first);
    let mut second = fleet();
    let log = steps(vec![ready(), Step::EarlyStop { phase: EarlyStopPhase::Waiting, step: None }]);
    second.restore(first.saved(&run).unwrap(), &log, NOW);
    assert_eq!(second.view(&run).unwrap().status, wire::RunStatus::EarlyStopping);
    let effects = second.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::EarlyStop { .. })), "{effects:?}");
}

#[test]
fn the_files_that_runs_were_started_from_are_needed_while_a_run_of_them_is_not_over() {
    let file = EntryPath::from("/p/src/midrun/other.ts");
    let mut first = fleet();
    first.rebuilt(Rebuild { entry: file.clone(), ..rebuild("a", 0.1) }, "other.ts", NOW);
    let wish = Wish {
        entry: file.clone(),
        shown_entry: "other.ts".into(),
        file: Some("other.ts".into()),
        restarts: true,
        trace: TraceContext::default(),
    };
    let run = first.start(wish, NOW).unwrap().0;
    let mut second = fleet();
    second.restore(first.saved(&run).unwrap(), &steps(vec![ready()]), NOW);
    assert_eq!(second.needed(), BTreeSet::from([file.clone()]));
    assert!(matches!(second.retain(), Some(Effect::Retain(hashes)) if hashes == ["a".into()]));
    let effects = second.happened(&run, &Step::Exit { code: 0, signal: None }, NOW);
    assert!(second.needed().is_empty());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Unwatch(entry) if *entry == file)));
}
