//! Broken saves: shown with their place, harmless to the run, mended by the next save.

use testkit::{Dev, Event, Layout, RunLog, Sse, Stage, Ticker};

use super::frames::{decided, decision, status, swapped};
use super::records::{SWAP, signals};
use super::ticks::tags_of_each_step_once;

/// A running run of a ticker.
async fn running() -> (Stage, Dev, Sse, String, RunLog) {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let log = dev.log(&run).await;
    (stage, dev, events, run, log)
}

/// The run goes on: steps come that were not there yet.
async fn goes_on(log: &mut RunLog) {
    let steps = |lines: &[&str]| lines.iter().filter(|line| line.starts_with("TICK ")).count();
    let before = log.lines();
    let before = steps(&before.iter().map(String::as_str).collect::<Vec<_>>());
    log.wait_for_lines("steps after the broken save", |lines| (steps(lines) > before + 3).then_some(()))
        .await;
}

/// The error's place must be that line of that file.
fn assert_place(error: &Event, file: &str, line: u64) {
    let place = &error.data["diagnostics"][0];
    assert_eq!((place["file"].as_str(), place["line"].as_u64()), (Some(file), Some(line)), "{error}");
    assert!(place["column"].as_u64().is_some_and(|column| column > 0), "{error}");
}

#[tokio::test]
async fn a_syntax_error_is_shown_with_its_place_and_leaves_the_run_alone() {
    let (stage, dev, mut events, run, mut log) = running().await;
    let good = Ticker::callbacks("v1");
    stage.project.write("callbacks.ts", "export const other = 1;\nexport const onTick = ;\n");
    let error = events.next_named("error").await;
    assert_place(&error, "src/midrun/callbacks.ts", 2);
    let frame = error.data["diagnostics"][0]["frame"].as_str().unwrap_or_default();
    assert!(frame.contains("export const onTick = ;") && frame.contains('^'), "a code frame: {frame}");
    let manifest = dev.client.get("/api/manifest").await.expect(400).json();
    assert_eq!(manifest["diagnostics"], error.data["diagnostics"]);
    assert!(manifest["error"].is_string());
    let refused = dev.client.post("/api/runs", &serde_json::json!({})).await.expect(400).json();
    assert!(refused["error"].as_str().is_some_and(|text| text.contains("failing")), "{refused}");
    goes_on(&mut log).await;
    // Back to what the run has: said, so that the error goes away, and nothing to do.
    stage.project.write("callbacks.ts", &good);
    let mended = events.next_named("rebuild").await;
    assert_eq!(decision(&mended, &run), decided("nothing", "same bytes"));
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    assert_eq!((signals(&stage, &run), events.count("error")), (vec![SWAP], 1));
    log.wait_for_start("TICK v2 ").await;
    tags_of_each_step_once(&log.lines());
    dev.finish().await;
}

#[tokio::test]
async fn a_throw_while_importing_is_shown_with_its_place_and_leaves_the_run_alone() {
    let (stage, dev, mut events, run, mut log) = running().await;
    let throws = "export const onTick = () => {};\n\nthrow new Error(\"boom at import\");\n";
    stage.project.write("callbacks.ts", throws);
    let error = events.next_named("error").await;
    assert!(error.text("message").contains("boom at import"), "{error}");
    assert_place(&error, "src/midrun/callbacks.ts", 3);
    let _ = dev.client.get("/api/manifest").await.expect(400);
    goes_on(&mut log).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let mended = events.next_named("rebuild").await;
    assert_eq!(decision(&mended, &run), decided("hot-swap", "only callbacks changed: onTick"));
    swapped(&mut events, &run).await;
    assert_eq!(signals(&stage, &run), [SWAP]);
    dev.finish().await;
}

#[tokio::test]
async fn a_failed_evaluation_is_tried_again_on_the_next_save_of_the_same_bytes() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let there = stage.flag("there");
    let needs = format!(
        "import {{ readFileSync }} from \"node:fs\";\nreadFileSync({:?});\n{}",
        there.path(),
        Ticker::callbacks("v2")
    );
    stage.project.write("callbacks.ts", &needs);
    let error = events.next_named("error").await;
    assert!(error.text("message").contains("ENOENT"), "{error}");
    there.raise();
    stage.project.write("callbacks.ts", &needs);
    events.next_named("rebuild").await;
    let _ = dev.client.get("/api/manifest").await.expect(200);
    dev.finish().await;
}

#[tokio::test]
async fn a_top_level_await_that_hangs_is_an_error_in_time() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::options(&stage, &[]).env("MIDRUN_INSPECTOR__TIME_LIMIT_MS", "5000").start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let hangs = "export const onTick = () => {};\nawait new Promise((settle) => setTimeout(settle, 1e9));\n";
    stage.project.write("callbacks.ts", hangs);
    let error = events.next_named("error").await;
    assert!(error.text("message").contains("await"), "it says what may be the cause: {error}");
    goes_on(&mut dev.log(&run).await).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    assert_eq!(signals(&stage, &run), [SWAP]);
    dev.finish().await;
}

#[tokio::test]
async fn a_hanging_import_does_not_hold_up_the_save_that_mends_it() {
    let stage = Stage::ticker(&Ticker::default());
    // Longer than this test waits: only a loop that gives the hanging import up passes.
    let dev = Dev::options(&stage, &[]).env("MIDRUN_INSPECTOR__TIME_LIMIT_MS", "600000").start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let begun = stage.flag("begun");
    let hangs = format!(
        "import {{ writeFileSync }} from \"node:fs\";\nexport const onTick = () => {{}};\nwriteFileSync({:?}, \"\");\n\
         await new Promise((settle) => setTimeout(settle, 1e9));\n",
        begun.path()
    );
    stage.project.write("callbacks.ts", &hangs);
    testkit::eventually("hanging import", testkit::LIMIT, || begun.path().exists().then_some(())).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    assert_eq!((events.count("error"), signals(&stage, &run)), (0, vec![SWAP]));
    dev.finish().await;
}

#[tokio::test]
async fn an_import_that_kills_the_process_hurts_nobody_else() {
    let (stage, dev, mut events, run, mut log) = running().await;
    let dies = "export const onTick = () => {};\nif (!process.env.MIDRUN_RUN_ID) process.kill(process.pid, \"SIGKILL\");\n";
    stage.project.write("callbacks.ts", dies);
    events.next_named("error").await;
    goes_on(&mut log).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    dev.finish().await;
}

#[tokio::test]
async fn an_entry_that_is_deleted_is_one_error_and_comes_back_by_itself() {
    let (stage, dev, mut events, run, mut log) = running().await;
    stage.project.delete("index.ts");
    let error = events.next_named("error").await;
    assert!(error.data.to_string().contains("index.ts"), "{error}");
    goes_on(&mut log).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    stage.project.write("index.ts", &Ticker::default().entry());
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &run).0, "hot-swap", "{frame}");
    swapped(&mut events, &run).await;
    assert_eq!((events.count("error"), signals(&stage, &run)), (1, vec![SWAP]));
    dev.finish().await;
}

#[tokio::test]
async fn a_server_without_an_entry_starts_the_loop_when_it_appears() {
    let stage = Stage::bare(Layout::Midrun);
    let dev = Dev::start(&stage).await;
    let mut events = dev.events().await;
    let error = events.next_named("error").await;
    assert!(error.text("message").contains("src/midrun"), "it says where the entry should be: {error}");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &Ticker::default().entry());
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("TICK v1 ").await;
    assert_eq!(events.count("error"), 1);
    dev.finish().await;
}

#[tokio::test]
async fn a_missing_import_mends_when_the_file_appears() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let callbacks = format!(
        "import {{ late }} from \"./deep/late\";\nexport const sum = late;\n{}",
        Ticker::callbacks("v2")
    );
    stage.project.write("callbacks.ts", &callbacks);
    let error = events.next_named("error").await;
    assert!(error.data.to_string().contains("./deep/late"), "{error}");
    stage.project.write("deep/late.ts", "export const late: number = 1;\n");
    events.next_named("rebuild").await;
    // And from now on that file is watched.
    stage.project.write("deep/late.ts", "export const late: number = 1;\nconsole.log(\"late is here\");\n");
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["changed"], serde_json::json!(["src/midrun/deep/late.ts"]));
    dev.finish().await;
}

#[tokio::test]
async fn a_callback_that_throws_ends_its_run_and_nothing_else() {
    let (stage, dev, mut events, run, mut log) = running().await;
    stage
        .project
        .write("callbacks.ts", "export const onTick = () => { throw new Error(\"a bad callback\"); };\n");
    swapped(&mut events, &run).await;
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 1, "{exited}");
    log.exit().await;
    assert!(log.output().contains("a bad callback"), "{}", log.output());
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    events.next_named("rebuild").await;
    let next = dev.running(&mut events).await;
    dev.log(&next).await.wait_for_start("TICK v2 ").await;
    dev.finish().await;
}
