//! A fleet that takes up the runs of an earlier one.

use serde_json::json;
use wire::log::Record;
use wire::manifest::Manifest;
use wire::{Artifact, BuildId, ControlPlane, StopMode};

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

/// Has a rebuild stop the run, and the run end well.
fn replaced(fleet: &mut Fleet, run: &RunId) -> Vec<Effect> {
    fleet.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    assert_eq!(fleet.view(run).unwrap().status, wire::RunStatus::EarlyStopping);
    fleet.happened(run, &Step::Exit { code: 0, signal: None }, NOW)
}

/// A run that belongs to a request.
fn of_a_request() -> (Fleet, RunId) {
    let mut fleet = fleet();
    fleet.rebuilt(rebuild("a", 0.1), "index.ts", NOW);
    let wish = Wish {
        entry: ENTRY.into(),
        shown_entry: "index.ts".into(),
        file: None,
        restarts: false,
        trace: TraceContext::default(),
    };
    let run = fleet.start(wish, NOW).unwrap().0;
    fleet.happened(&run, &ready(), NOW);
    (fleet, run)
}

fn awaits(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::AwaitClaim(_)))
}

#[test]
fn a_run_that_its_request_claims_is_not_restarted_by_the_server() {
    for claimed_first in [true, false] {
        let (mut fleet, run) = of_a_request();
        if claimed_first {
            assert!(fleet.claim(&run).unwrap().is_empty());
        }
        let effects = replaced(&mut fleet, &run);
        assert!(!restarts(&effects));
        assert_eq!(awaits(&effects), !claimed_first);
        let effects = fleet.claim(&run).unwrap();
        assert_eq!(
            effects.iter().any(|it| matches!(it, Effect::NotRestarted("client-restarts"))),
            !claimed_first
        );
        let view = fleet.view(&run).unwrap();
        assert_eq!(view.status, wire::RunStatus::Exited);
        assert!(view.reason.unwrap().ends_with("its client starts the next"));
        assert!(fleet.unclaimed(&run, NOW).is_empty());
        assert!(!restarts(&fleet.rebuilt(rebuild("c", 0.3), "index.ts", NOW)));
    }
}

#[test]
fn a_run_that_its_request_does_not_claim_is_restarted_by_the_server() {
    let (mut fleet, run) = of_a_request();
    assert!(awaits(&replaced(&mut fleet, &run)));
    let view = fleet.view(&run).unwrap();
    assert_eq!((view.status, view.exit_code), (wire::RunStatus::EarlyStopping, Some(0)));
    assert!(!restarts(&fleet.rebuilt(rebuild("c", 0.3), "index.ts", NOW)), "its request may be there");
    assert!(restarts(&fleet.unclaimed(&run, NOW)));
    assert!(fleet.unclaimed(&run, NOW).is_empty());
    assert!(fleet.claim(&run).unwrap().is_empty(), "too late");
}

#[test]
fn a_run_that_ended_while_no_registry_was_there_may_be_claimed_too() {
    let (mut first, run) = of_a_request();
    first.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    let taken_up = |log: &[Record], saved: Saved| {
        let mut second = fleet();
        let effects = second.restore(saved, log, NOW);
        second.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
        (second, effects)
    };
    let log = steps(vec![ready(), Step::Exit { code: 0, signal: None }]);
    let (mut second, effects) = taken_up(&log, first.saved(&run).unwrap());
    assert!(awaits(&effects) && !restarts(&effects));
    second.claim(&run).unwrap();
    assert_eq!(second.view(&run).unwrap().status, wire::RunStatus::Exited);
    let (mut second, _) = taken_up(&log, first.saved(&run).unwrap());
    assert!(restarts(&second.unclaimed(&run, NOW)));
    // The registry ended while it waited.
    replaced(&mut first, &run);
    let (mut third, effects) = taken_up(&log, first.saved(&run).unwrap());
    assert!(awaits(&effects));
    assert!(restarts(&third.unclaimed(&run, NOW)));
}

#[test]
fn a_run_that_waits_for_its_claim_can_be_stopped() {
    for stop_all in [true, false] {
        let (mut fleet, run) = of_a_request();
        replaced(&mut fleet, &run);
        if stop_all {
            fleet.stop_all(StopMode::Checkpoint, NOW);
        } else {
            fleet.stop(&run, StopMode::Now, "enough", NOW).unwrap();
        }
        assert_eq!(fleet.view(&run).unwrap().status, wire::RunStatus::Exited);
        assert!(fleet.unclaimed(&run, NOW).is_empty());
    }
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
    assert_eq!(second.named(), BTreeSet::from([file.clone()]));
    assert!(matches!(second.retain(), Some(Effect::Retain(hashes)) if hashes == ["a".into()]));
    let effects = second.happened(&run, &Step::Exit { code: 0, signal: None }, NOW);
    assert!(!second.needs(&file));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Unwatch(entry) if *entry == file)));
}

#[test]
fn a_stop_that_could_not_be_put_on_record_is_decided_anew() {
    let mut fleet = fleet();
    let run = started(&mut fleet);
    fleet.happened(&run, &ready(), NOW);
    fleet.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    fleet.rebuilt(rebuild("c", 0.1), "index.ts", NOW);
    fleet.not_stopped(&run).expect("a rebuild asked for it");
    let swapped = |effects: &[Effect]| match effects {
        [Effect::Swap { code, .. }] => Some(code.artifact.content_hash.clone()),
        _ => None,
    };
    assert_eq!(swapped(&fleet.reconsider(&run, NOW)), Some("c".into()), "its config is the run's own again");
    assert!(fleet.reconsider(&run, NOW).is_empty(), "it was told");
}

#[test]
fn what_a_request_said_is_known_to_the_next_server() {
    let (mut first, run) = of_a_request();
    first.claim(&run).unwrap();
    first.rebuilt(rebuild("b", 0.2), "index.ts", NOW);
    let mut second = fleet();
    let effects = second.restore(
        first.saved(&run).unwrap(),
        &steps(vec![ready(), Step::Exit { code: 0, signal: None }]),
        NOW,
    );
    assert!(!restarts(&effects) && !awaits(&effects));
    assert!(second.view(&run).unwrap().reason.unwrap().ends_with("its client starts the next"));
}

#[test]
fn a_run_that_is_stopped_before_it_is_started_was_ended_by_whoever_stopped_it() {
    for mode in [StopMode::Checkpoint, StopMode::Now] {
        let mut fleet = fleet();
        let run = started(&mut fleet);
        assert!(fleet.is_wanted(&run));
        fleet.stop(&run, mode, "enough", NOW).unwrap();
        assert!(!fleet.is_wanted(&run));
        fleet.not_started(&run, "it was stopped before it was started".into(), NOW);
        let view = fleet.view(&run).unwrap();
        assert_eq!((view.ended_by, view.reason.as_deref()), (Some(EndedBy::User), Some("enough")));
    }
}

#[test]
fn a_job_is_cancelled_where_it_is_and_by_nobody_from_elsewhere() {
    let acts = |url: &str| ControlPlane {
        url: url.into(),
        token: wire::Secret::new("s3cret"),
        org_slug: "mine".into(),
        project_slug: "p".into(),
    };
    let mut fleet = fleet();
    let run = started(&mut fleet);
    let job = Step::Job {
        id: "j".into(),
        org_slug: Some("ours".into()),
        project_slug: None,
        base_url: Some("https://plane.example/".into()),
    };
    fleet.happened(&run, &job, NOW);
    let scope = fleet.job_scope(&run).unwrap();
    let there = scope.within(&acts("https://plane.example")).unwrap();
    assert_eq!((there.org_slug.as_str(), there.project_slug.as_str()), ("ours", "p"));
    assert!(scope.within(&acts("http://127.0.0.1:1")).is_none());
}
