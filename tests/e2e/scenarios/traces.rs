//! One trace per rebuild, seen by a real collector: parents, order, attributes; and nothing of it where none is
//! configured.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use testkit::{Checkpoints, Collected, Collector, Dev, DevOptions, Sse, Stage, Ticker};

use super::frames::{status, successor, swapped};
use super::records::SWAP;

/// Batches at once, so that no test waits for one.
const AT_ONCE: &str = "20";

fn traced(options: DevOptions, endpoint: &str) -> DevOptions {
    options.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", AT_ONCE)
}

async fn started(stage: &Stage, collector: &Collector) -> (Dev, Sse) {
    let dev = traced(Dev::options(stage, &[]), &collector.endpoint()).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    (dev, events)
}

/// The spans of `trace` by these names, each below the one before it.
async fn chain(collector: &Collector, trace: &str, names: &[(&str, &str)]) -> Vec<Collected> {
    let mut spans: Vec<Collected> = Vec::new();
    for (name, service) in names {
        let span = collector.span(trace, name).await;
        assert_eq!(span.service, *service, "{span:?}");
        assert_eq!(span.attributes["service.namespace"], "midrun", "{span:?}");
        let above = spans.last().map_or("", |above| &above.id);
        assert_eq!(span.parent, above, "{name} stands below the one before it");
        if let Some(above) = spans.last() {
            assert!(span.began >= above.began, "{name} begins before what caused it: {span:?} {above:?}");
        }
        assert!(span.ended >= span.began, "{span:?}");
        spans.push(span);
    }
    spans
}

/// What a span says besides its resource.
fn said(span: &Collected) -> String {
    let own = |key: &&String| ["midrun.", "code.", "error."].iter().any(|start| key.starts_with(start));
    span.attributes
        .keys()
        .filter(own)
        .map(|key| key.trim_start_matches("midrun."))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The spans below `parent` as a tree: a line for each, those that one span caused in the order of their names.
fn draw(spans: &[Collected], parent: &str, depth: usize, picture: &mut String) {
    let mut children: Vec<&Collected> = spans.iter().filter(|span| span.parent == parent).collect();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    for span in children {
        let (indent, said) = ("  ".repeat(depth), said(span));
        let _ = writeln!(picture, "{indent}{} {}: {said}", span.service, span.name);
        draw(spans, &span.id, depth + 1, picture);
    }
}

fn drawn(spans: &[Collected]) -> String {
    let mut picture = String::new();
    draw(spans, "", 0, &mut picture);
    picture
}

/// Checks that `trace` comes to be exactly this tree, in one process and in six: none is missing, none stands elsewhere
/// or is from another trace, none begins before what caused it, and who speaks for a service is its process.
async fn is_drawn(collector: &Collector, dev: &mut Dev, trace: &str, picture: &str) {
    let count = picture.lines().count();
    let spans = collector.trace(&format!("{count} spans"), trace, |spans| spans.len() >= count).await;
    assert_eq!(drawn(&spans), picture);
    for span in &spans {
        let above = spans.iter().find(|above| above.id == span.parent);
        assert!(above.is_none_or(|above| above.began <= span.began), "{span:?} {above:?}");
        assert!(span.began <= span.ended, "{span:?}");
        assert_eq!(span.text("service.version"), spans[0].text("service.version"));
        if span.service != "run-host" && span.name != "signal" {
            assert_eq!(span.text("process.pid"), dev.pid_of(&span.service).to_string(), "{span:?}");
        }
    }
}

const SWAP_PICTURE: &str = "\
build-watcher rebuild: build.id bundle.size changed content_hash entry
  build-watcher bundle: build.id bundle.size changed content_hash entry
    manifest-inspector inspect: build.id config_hash content_hash
      train-registry dispatch: build.id content_hash
        sse-gateway broadcast: build.id content_hash sse.clients
        train-registry signal: content_hash decision decision.why run.id signal
          run-host swap: content_hash run.id
            run-host callback: code.function.name content_hash run.id
";

const RESTART_PICTURE: &str = "\
build-watcher rebuild: build.id bundle.size changed content_hash entry
  build-watcher bundle: build.id bundle.size changed content_hash entry
    manifest-inspector inspect: build.id config_hash content_hash
      train-registry dispatch: build.id content_hash
        sse-gateway broadcast: build.id content_hash sse.clients
        train-registry restart: content_hash run.id run.replaces
          run-host callback: code.function.name content_hash run.id
        train-registry signal: decision decision.why run.id signal
          run-host early_stop: checkpoint.step run.id
";

const FAILED_PICTURE: &str = "\
build-watcher rebuild: error.type build.id changed entry
  build-watcher bundle: error.type build.id changed entry
    train-registry dispatch: error.type build.id
      sse-gateway broadcast: error.type sse.clients
";

#[tokio::test]
async fn a_save_its_signal_and_the_first_callback_under_the_new_code_are_one_trace() {
    let stage = Stage::ticker(&Ticker::default());
    let collector = Collector::start().await;
    let (mut dev, mut events) = started(&stage, &collector).await;
    let run = dev.running(&mut events).await;
    let pid = dev.run(&run).await["pid"].as_u64().expect("it has a process");
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let frame = events.next_named("rebuild").await;
    swapped(&mut events, &run).await;
    log.wait_for_start("TICK v2 ").await;
    let trace = frame.text("traceId").to_owned();

    let spans = chain(
        &collector,
        &trace,
        &[
            ("rebuild", "build-watcher"),
            ("bundle", "build-watcher"),
            ("inspect", "manifest-inspector"),
            ("dispatch", "train-registry"),
            ("signal", "train-registry"),
            ("swap", "run-host"),
            ("callback", "run-host"),
        ],
    )
    .await;
    let [rebuild, bundle, inspect, dispatch, signal, swap, callback] = &spans[..] else { unreachable!() };
    for span in [rebuild, bundle, inspect, dispatch] {
        assert_eq!(span.text("midrun.build.id"), frame.text("buildId"), "{span:?}");
        assert_eq!(span.text("process.pid"), dev.pid_of(&span.service).to_string(), "{span:?}");
    }
    for span in &spans {
        assert!(!span.failed && !span.attributes.contains_key("error.type"), "{span:?}");
        assert_eq!(span.text("midrun.content_hash"), frame.text("contentHash"), "{span:?}");
    }
    for span in [signal, swap, callback] {
        assert_eq!(
            (span.text("midrun.run.id"), span.text("process.pid")),
            (run.as_str(), pid.to_string().as_str())
        );
    }
    assert_eq!(signal.text("midrun.signal"), SWAP.to_string());
    assert_eq!(signal.text("midrun.decision"), "hot-swap");
    assert_eq!(signal.text("midrun.decision.why"), "only callbacks changed: onTick");
    assert_eq!(callback.text("code.function.name"), "onTick");
    assert!(callback.began >= swap.began && bundle.ended <= rebuild.ended);

    let broadcast = collector.span(&trace, "broadcast").await;
    assert_eq!(
        (broadcast.parent.as_str(), broadcast.service.as_str()),
        (dispatch.id.as_str(), "sse-gateway")
    );
    assert_eq!(broadcast.text("midrun.sse.clients"), "1");
    assert_eq!(frame.text("traceparent"), dispatch.traceparent());
    is_drawn(&collector, &mut dev, &trace, SWAP_PICTURE).await;
    assert!(collector.heads().iter().all(|head| head.contains("content-type: application/x-protobuf")));
    dev.finish().await;
}

#[tokio::test]
async fn a_restart_goes_on_in_the_trace_of_its_save() {
    let stage = Stage::sdk(&testkit::SdkTrainer::default());
    let collector = Collector::start().await;
    let (mut dev, mut events) = started(&stage, &collector).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("LOG v1 ").await;
    stage.project.write("index.ts", &testkit::SdkTrainer::default().with("learningRate", 0.0003).entry());
    let frame = events.next_named("rebuild").await;
    let next = successor(&mut events, &run).await;
    let trace = frame.text("traceId").to_owned();
    let stopped = chain(
        &collector,
        &trace,
        &[
            ("rebuild", "build-watcher"),
            ("bundle", "build-watcher"),
            ("inspect", "manifest-inspector"),
            ("dispatch", "train-registry"),
            ("signal", "train-registry"),
            ("early_stop", "run-host"),
        ],
    )
    .await;
    let (dispatch, signal, stop) = (&stopped[3], &stopped[4], &stopped[5]);
    assert_eq!(signal.text("midrun.decision"), "restart");
    assert_eq!(signal.text("midrun.decision.why"), "config.learningRate 0.001 -> 0.0003");
    assert_eq!((stop.text("midrun.run.id"), stop.failed), (run.as_str(), false));
    assert!(!stop.text("midrun.checkpoint.step").is_empty(), "{stop:?}");
    let restart = collector.span(&trace, "restart").await;
    assert_eq!((restart.parent.as_str(), restart.service.as_str()), (dispatch.id.as_str(), "train-registry"));
    assert_eq!(
        (restart.text("midrun.run.id"), restart.text("midrun.run.replaces")),
        (next.as_str(), run.as_str())
    );
    assert!(restart.began >= stop.began);
    // The successor's process says nothing of traces itself, so its host speaks.
    let callback = collector.span(&trace, "callback").await;
    assert_eq!(
        (callback.parent.as_str(), callback.text("midrun.run.id")),
        (restart.id.as_str(), next.as_str())
    );
    is_drawn(&collector, &mut dev, &trace, RESTART_PICTURE).await;
    dev.finish().await;
}

#[tokio::test]
async fn a_failed_build_is_a_failed_trace_that_ends_at_the_edge() {
    let stage = Stage::ticker(&Ticker::default());
    let collector = Collector::start().await;
    let (mut dev, mut events) = started(&stage, &collector).await;
    stage.project.write("callbacks.ts", "export const callbacks = {;\n");
    let frame = events.next_named("error").await;
    let trace = frame.text("traceId").to_owned();
    let names = [
        ("rebuild", "build-watcher"),
        ("bundle", "build-watcher"),
        ("dispatch", "train-registry"),
        ("broadcast", "sse-gateway"),
    ];
    let spans = chain(&collector, &trace, &names).await;
    for span in &spans {
        assert!(span.failed, "{span:?}");
    }
    assert_eq!(spans[0].text("error.type"), "build-failed");
    is_drawn(&collector, &mut dev, &trace, FAILED_PICTURE).await;
    // What user code does when it is evaluated is another failure.
    let throwing = format!("throw new Error('no luck');\n{}", Ticker::callbacks("v2"));
    stage.project.write("callbacks.ts", &throwing);
    let frame = events.next_named("error").await;
    let inspect = collector.span(frame.text("traceId"), "inspect").await;
    assert_eq!((inspect.text("error.type"), inspect.failed), ("inspection-failed", true));
    dev.finish().await;
}

#[tokio::test]
async fn the_standard_variables_mean_what_they_mean() {
    let stage = Stage::ticker(&Ticker::default());
    let collector = Collector::start().await;
    let dev = Dev::options(&stage, &[])
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", collector.endpoint()))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=mine")
        .env("OTEL_SERVICE_NAME", "my-trainer")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_BSP_SCHEDULE_DELAY", AT_ONCE)
        .start()
        .await;
    let rebuild = collector.wait_for("first rebuild", |span| span.name == "rebuild").await;
    assert_eq!(
        (rebuild.service.as_str(), rebuild.text("deployment.environment.name")),
        ("my-trainer", "test")
    );
    assert!(collector.heads().iter().all(|head| head.contains("x-tenant: mine")), "{:?}", collector.heads());
    dev.finish().await;
}

#[tokio::test]
async fn what_a_client_asks_for_stands_in_its_trace() {
    let stage = Stage::ticker(&Ticker::default());
    let collector = Collector::start().await;
    let (dev, mut events) = started(&stage, &collector).await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let asked = |body| {
        let traceparent = format!("00-{trace}-{parent}-01");
        dev.client.ask("POST", "/api/runs").json(&body).header("traceparent", &traceparent)
    };
    let refused = asked(json!({ "file": "../elsewhere.ts" })).send().await;
    assert_eq!(refused.status, 400);
    let run = asked(json!({})).send().await.expect(201).json()["run"]["id"].clone();
    status(&mut events, run.as_str().expect("it has an id"), "running").await;
    let answered =
        |spans: &[Collected]| spans.iter().filter(|span| span.name == "POST /api/runs").count() == 2;
    let spans = collector.trace("two requests", trace, answered).await;
    for (span, code) in spans.iter().filter(|span| span.name == "POST /api/runs").zip(["400", "201"]) {
        let said =
            ["http.request.method", "http.route", "http.response.status_code"].map(|key| span.text(key));
        assert_eq!(said, ["POST", "/api/runs", code], "{span:?}");
        assert_eq!((span.parent.as_str(), span.service.as_str()), (parent, "sse-gateway"), "{span:?}");
        assert!(!span.failed, "what a client asks for wrongly is no failure of the server: {span:?}");
    }
    dev.finish().await;
}

#[tokio::test]
async fn off_is_off_whatever_else_is_said() {
    let collector = Collector::start().await;
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ] {
        let stage = Stage::ticker(&Ticker::default());
        let dev = traced(Dev::options(&stage, &[]), &collector.endpoint()).env(name, value).start().await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let run = dev.running(&mut events).await;
        stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
        swapped(&mut events, &run).await;
        dev.finish().await;
        // The server and the host have flushed what they had.
        assert!(collector.spans().is_empty(), "{name}={value}: {:?}", collector.spans());
    }
}

#[tokio::test]
async fn without_a_collector_configured_nothing_is_different() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let frame = events.next_named("rebuild").await;
    swapped(&mut events, &run).await;
    assert_eq!(frame.data["traceId"], json!(null));
    assert_eq!(frame.data.get("traceparent"), None);
    let tasks = dev
        .pids()
        .into_iter()
        .flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs"));
    let threads: Vec<String> =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect();
    assert!(!threads.iter().any(|name| name.contains("OpenTelemetry")), "{threads:?}");
    dev.finish().await;
}

#[tokio::test]
async fn a_dead_collector_hinders_nothing_and_nobody_waits_for_it_long() {
    let checkpoint = Checkpoints::Every(3);
    let stage = Stage::ticker(&Ticker { checkpoints: checkpoint, ..Ticker::default() });
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("the system gives a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
    // An exporter of its own would wait for ten minutes.
    let options = Dev::options(&stage, &[]).env("OTEL_EXPORTER_OTLP_TIMEOUT", "600000");
    let dev = traced(options, &endpoint).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    for edit in 2..=4 {
        stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("v{edit}")));
        events.next_named("rebuild").await;
        swapped(&mut events, &run).await;
    }
    dev.stop_run(&run, "checkpoint").await;
    status(&mut events, &run, "exited").await;
    let begun = tokio::time::Instant::now();
    dev.finish().await;
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}
