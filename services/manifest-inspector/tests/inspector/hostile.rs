//! Artifacts that hang, end their process, or use it up.

use std::time::Duration;

use crate::bench::{Bench, alive, eventually, lines, note, trainer};

#[tokio::test]
async fn after_an_await_that_hangs_the_next_save_is_told_and_the_worker_replaced() {
    let mut bench = Bench::new();
    let first = bench.worker("").await;
    let log = bench.project.path().join("began");
    bench.save("index.ts", &format!("{}\nawait new Promise(() => {{}});", note(&log, "hang")));
    eventually("the evaluation begins", || !lines(&log).is_empty()).await;
    bench.manifest(&trainer("{ mended: true }", "")).await;
    eventually("the old worker is gone", || !alive(first)).await;
    let second = bench.worker("// again").await;
    assert_ne!(first, second);
    assert!(bench.no_more(), "the artifact that hung is never told");
}

#[tokio::test]
async fn after_a_loop_that_never_ends_the_next_save_is_told() {
    let mut bench = Bench::new();
    let first = bench.worker("").await;
    let log = bench.project.path().join("began");
    bench.save("index.ts", &format!("{}\nfor (;;);", note(&log, "loop")));
    eventually("the evaluation begins", || !lines(&log).is_empty()).await;
    let second = bench.worker("// again").await;
    assert_ne!(first, second);
    eventually("the looping worker is gone", || !alive(first)).await;
}

#[tokio::test]
async fn what_takes_too_long_is_a_failure() {
    let mut bench = Bench::with(|settings| settings.time_limit = Duration::from_secs(3), |_| Ok(None));
    bench.manifest(&trainer("'warm'", "")).await;
    for code in ["await new Promise(() => {});", "for (;;);"] {
        let failure = bench.failure(code).await;
        assert!(failure.message.contains("took more than 3 s: a top-level await"), "{}", failure.message);
        bench.manifest(&trainer("{}", &format!("// {code}"))).await;
    }
}

#[tokio::test]
async fn an_artifact_that_ends_its_process_is_told_of_and_hurts_no_other() {
    let mut bench = Bench::new();
    for (code, words) in [
        ("process.exit(3);", "the trainer called process.exit(3) while it was imported"),
        ("process.abort();", "was ended by SIGABRT"),
        ("process.kill(process.pid, 'SIGKILL'); for (;;);", "was ended by SIGKILL"),
    ] {
        let failure = bench.failure(code).await;
        assert!(failure.message.contains(words), "{}", failure.message);
        bench.manifest(&trainer("{}", &format!("// {code}"))).await;
    }
}

#[tokio::test]
async fn a_bomb_that_an_earlier_artifact_left_hurts_no_later_one() {
    let mut bench = Bench::new();
    let bomb = trainer("'bomb'", "setTimeout(() => process.exit(5), 500);");
    bench.manifest(&bomb).await;
    let slow = "await new Promise((later) => setTimeout(later, 1500));";
    assert_eq!(bench.manifest(&trainer("'slow'", slow)).await.config, Some("slow".into()));
}

#[tokio::test]
async fn what_a_worker_started_ends_with_it() {
    let mut bench = Bench::new();
    let pids = bench.project.path().join("pids");
    let path = serde_json::Value::from(pids.to_string_lossy());
    let spawns = format!(
        "const child = (await import('node:child_process')).spawn('sleep', ['600'], {{ stdio: 'ignore' }});\n\
         (await import('node:fs')).writeFileSync({path}, String(child.pid));"
    );
    bench.manifest(&trainer("{}", &spawns)).await;
    let child = lines(&pids)[0].parse().unwrap();
    assert!(alive(child));
    bench.inspector.shutdown(Duration::from_secs(5)).await;
    eventually("its child is gone", || !alive(child)).await;
}

#[tokio::test]
async fn a_flood_of_output_at_import_holds_up_nothing() {
    let mut bench = Bench::new();
    let flood =
        "for (let i = 0; i < 2000; i++) { console.log('x'.repeat(1000)); console.error('y'.repeat(1000)); }";
    bench.manifest(&trainer("{}", flood)).await;
}

#[tokio::test]
async fn a_config_with_a_dataset_in_it_is_told_whole() {
    let mut bench = Bench::new();
    let manifest = bench.manifest(&trainer("{ data: 'é'.repeat(3_000_000) }", "")).await;
    assert_eq!(manifest.config.unwrap()["data"].as_str().unwrap().len(), 6_000_000);
}
