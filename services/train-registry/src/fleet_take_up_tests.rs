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
