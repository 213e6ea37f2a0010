//! What becomes of artifacts that are in order.

use std::time::Duration;

use manifest_inspector::inspect_once;
use serde_json::json;
use wire::{BuildOutcome, ConfigHash, Failure};

use crate::bench::{Bench, lines, note, settings, trainer};

#[tokio::test]
async fn a_build_becomes_a_rebuild_with_a_manifest() {
    let mut bench = Bench::new();
    let code = trainer("{ model: 'm', learningRate: 1e-3, a: undefined, f: -0 }", "");
    let id = bench.save("index.ts", &code);
    let rebuild = bench.rebuild().await;
    assert_eq!((&rebuild.build_id, rebuild.entry.as_str()), (&id, "index.ts"));
    assert_eq!(
        (rebuild.saved_at_us, rebuild.changed.as_slice()),
        (7, ["src/midrun/index.ts".to_owned()].as_slice())
    );
    assert_eq!(rebuild.trace.traceparent.as_deref(), Some("00-1-2-01"));
    assert!(rebuild.inspect_ms > 0.0);
    let good = rebuild.result.as_ref().unwrap();
    assert_eq!(good.artifact, bench.artifact(&code));
    let config = json!({"model": "m", "learningRate": 0.001, "f": 0});
    assert_eq!(good.manifest.trainer.as_deref(), Some("hand"));
    assert_eq!(good.manifest.config_hash, Some(ConfigHash::of(&config)));
    assert_eq!(good.manifest.callbacks.keys().collect::<Vec<_>>(), ["onLog"]);
    assert!(good.manifest.can_swap);
    let none = bench.manifest("export const a = 1;").await;
    assert_eq!((none.trainer, none.config, none.can_swap), (None, None, false));
}

#[tokio::test]
async fn the_same_bytes_are_evaluated_once_and_a_failure_each_time() {
    let mut bench = Bench::new();
    let log = bench.project.path().join("evaluations");
    let good = trainer("{}", &note(&log, "good"));
    let bad = format!("{}\nthrow new Error('bad');", note(&log, "bad"));
    let manifest = bench.manifest(&good).await;
    bench.failure(&bad).await;
    assert_eq!(bench.manifest(&good).await, manifest);
    bench.failure(&bad).await;
    assert_eq!(lines(&log), ["good", "bad", "bad"]);
}

#[tokio::test]
async fn a_failed_build_is_passed_on_and_takes_the_place_of_what_was_under_way() {
    let mut bench = Bench::new();
    let log = bench.project.path().join("began");
    bench.save("index.ts", &format!("{}\nawait new Promise(() => {{}});", note(&log, "hang")));
    crate::bench::eventually("the evaluation begins", || !lines(&log).is_empty()).await;
    let failed = bench.build("index.ts", BuildOutcome::Failed(Failure::plain("no such import")));
    let rebuild = bench.rebuild().await;
    assert_eq!(rebuild.build_id, failed);
    assert_eq!(rebuild.result, Err(Failure::plain("no such import")));
    bench.manifest(&trainer("{}", "")).await;
    assert!(bench.no_more());
}

#[tokio::test]
async fn entries_do_not_wait_for_one_another() {
    let mut bench = Bench::new();
    let gate = bench.project.path().join("gate");
    let path = serde_json::Value::from(gate.to_string_lossy());
    let waits = format!(
        "const fs = await import('node:fs');\n\
         while (!fs.existsSync({path})) await new Promise((later) => setTimeout(later, 5));"
    );
    let slow = bench.save("slow.ts", &trainer("{ slow: true }", &waits));
    let quick = bench.save("quick.ts", &trainer("{ quick: true }", ""));
    assert_eq!(bench.rebuild().await.build_id, quick);
    std::fs::write(&gate, "").unwrap();
    let rebuild = bench.rebuild().await;
    assert_eq!(rebuild.build_id, slow);
    assert!(rebuild.result.is_ok());
}

#[tokio::test]
async fn of_a_burst_of_saves_the_last_one_is_told_and_none_out_of_order() {
    let mut bench = Bench::new();
    bench.manifest(&trainer("'warm'", "")).await;
    let ids: Vec<_> = (0..200).map(|n| bench.save("index.ts", &trainer(&n.to_string(), ""))).collect();
    let mut last = None;
    while last != Some(ids.len() - 1) {
        let rebuild = bench.rebuild().await;
        let place = ids.iter().position(|id| *id == rebuild.build_id);
        assert!(place > last, "an older build after a newer one");
        assert_eq!(rebuild.result.as_ref().unwrap().manifest.config, place.map(Into::into));
        last = place;
    }
}

#[tokio::test]
async fn one_artifact_can_be_inspected_without_a_server() {
    let bench = Bench::new();
    let settings = settings(bench.project.path());
    let artifact = bench.artifact(&trainer("{ a: 1 }", ""));
    let good = inspect_once(&settings, &artifact, async { panic!("nobody asked") }).await;
    assert_eq!(good.unwrap().config, Some(json!({"a": 1})));
    let bad = inspect_once(&settings, &bench.artifact("throw new TypeError('boom');"), async { None }).await;
    assert!(bad.unwrap_err().message.starts_with("TypeError: boom\n    at .midrun/build/"));
    let short = manifest_inspector::Settings { time_limit: Duration::from_millis(50), ..settings };
    let hang = inspect_once(&short, &bench.artifact("await new Promise(() => {});"), async { None }).await;
    assert!(hang.unwrap_err().message.contains("more than 0.05 s"));
}
