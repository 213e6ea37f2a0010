//! From a save to the frame, and to the runner's word that it took the new callbacks.

use std::time::{Duration, Instant};

use testkit::{Collector, Dev, DevOptions, Event, Sse, Stage, Ticker, Topology};

use crate::figures::Figures;
use crate::modules::{MODULES, large_project, leaf_path, small_project, write_leaf};
use crate::plan::Plan;
use crate::reference;
use crate::table::Row;

/// Saves come at random gaps of that many milliseconds, so that they meet every phase of every timer.
const GAP_MS: std::ops::Range<u64> = 50..300;

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// What a save led to, counted from just before its write.
struct Save {
    frame: Duration,
    ack: Duration,
    /// What the server says of its own parts: bundler, inspector, dispatch.
    parts: [f64; 3],
}

/// Saves of a small project.
pub(crate) async fn small(plan: &Plan) -> Vec<Row> {
    let (here, node) = measure(plan, small_project, reference::options, edit_callbacks).await;
    vec![
        Row::beside(
            "save to `rebuild` frame, small project",
            (4.8, 5.9),
            (3.5, 5.0),
            &frames(&here),
            &frames(&node),
        ),
        parts("of that (bundler, inspector, dispatch; the rest is watching, HTTP and the client)", &here),
        parts("the same of the Node loop", &node),
        Row::beside(
            "save to the runner's swap ack, small project",
            (5.7, 6.8),
            (5.0, 7.0),
            &acks(&here),
            &acks(&node),
        ),
    ]
}

/// Saves of one of 200 modules.
pub(crate) async fn many_modules(plan: &Plan) -> Vec<Row> {
    let mut bundle = 0;
    let (here, node) = measure(plan, large_project, reference::options, |stage, edit, random| {
        let index = usize::try_from(random % MODULES as u64).expect("it is below 200");
        write_leaf(stage, index, 1_000 + edit as u64);
        let file = stage.project.dir().join(".midrun/build/index.mjs");
        bundle = file.metadata().map_or(bundle, |file| file.len());
        leaf_path(index)
    })
    .await;
    let what = format!("save to frame, {MODULES} modules, {} kB bundle, leaf edit", bundle / 1000);
    vec![
        Row::beside(&what, (37.5, 55.0), (22.0, 32.0), &frames(&here), &frames(&node)),
        parts("of that (bundler, inspector, dispatch)", &here),
        parts("the same of the Node loop", &node),
        Row::told("save to the runner's swap ack, 200 modules", format!("{} ms", acks(&here)))
            .remark(format!("Node loop {}", acks(&node))),
    ]
}

/// What it costs that each service has its own process.
pub(crate) async fn six(plan: &Plan) -> Vec<Row> {
    let in_six = |stage: &Stage| Dev::options(stage, &[]).topology(Topology::Six);
    let (one, six) = measure(plan, small_project, in_six, edit_callbacks).await;
    let (one, six) = (acks(&one), acks(&six));
    let what = "save to the runner's swap ack, small project, six processes more than one (medians)";
    vec![
        Row::value(what, "", 3.0, six.median() - one.median(), "ms")
            .remark(format!("one {one} ms, six {six} ms, n={}", six.count())),
    ]
}

/// What it costs that each save is a trace.
pub(crate) async fn traced(plan: &Plan) -> Vec<Row> {
    let collector = Collector::start().await;
    let traced =
        |stage: &Stage| Dev::options(stage, &[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let (off, on) = measure(plan, small_project, traced, edit_callbacks).await;
    let (off, on) = (acks(&off), acks(&on));
    let what = "save to the runner's swap ack, small project, with tracing more than without (medians)";
    let more = (on.median() / off.median() - 1.0) * 100.0;
    vec![
        Row::value(what, "", 5.0, more, "%")
            .remark(format!("without {off} ms, with {on} ms, n={}", on.count())),
    ]
}

fn edit_callbacks(stage: &Stage, edit: usize, _: u64) -> String {
    stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("v{edit}")));
    "src/midrun/callbacks.ts".to_owned()
}

fn frames(saves: &[Save]) -> Figures {
    Figures::of_times(&saves.iter().map(|save| save.frame).collect::<Vec<_>>())
}

fn acks(saves: &[Save]) -> Figures {
    Figures::of_times(&saves.iter().map(|save| save.ack).collect::<Vec<_>>())
}

fn parts(what: &str, saves: &[Save]) -> Row {
    let median = |part: usize| Figures::of(saves.iter().map(|save| save.parts[part])).median();
    let medians = [0, 1, 2].map(median);
    let rest = frames(saves).median() - medians.iter().sum::<f64>();
    let [bundle, inspect, dispatch] = medians;
    Row::told(what, format!("{bundle:.1} + {inspect:.1} + {dispatch:.1} + {rest:.1} ms"))
}

/// A loop with a run in flight.
struct Loop {
    stage: Stage,
    dev: Dev,
    events: Sse,
    run: String,
    saves: Vec<Save>,
}

impl Loop {
    async fn start(stage: Stage, options: DevOptions) -> Self {
        let dev = options.start().await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let run = dev.running(&mut events).await;
        Self { stage, dev, events, run, saves: Vec::new() }
    }
}

/// Makes saves by `save`, which answers with the path that a frame names, in midrun and in another loop by turns.
async fn measure(
    plan: &Plan,
    project: impl Fn() -> Stage,
    another: impl Fn(&Stage) -> DevOptions,
    mut save: impl FnMut(&Stage, usize, u64) -> String,
) -> (Vec<Save>, Vec<Save>) {
    let (stage, other) = (project(), project());
    let options = (Dev::options(&stage, &[]), another(&other));
    let mut loops = [Loop::start(stage, options.0).await, Loop::start(other, options.1).await];
    let mut random = Random::new();
    for edit in 0..plan.warm_up + plan.saves {
        for Loop { stage, events, run, saves, .. } in &mut loops {
            let gap = GAP_MS.start + random.next() % (GAP_MS.end - GAP_MS.start);
            tokio::time::sleep(Duration::from_millis(gap)).await;
            let choice = random.next();
            let begun = Instant::now();
            let path = save(stage, edit, choice);
            let seen = follow(events, run, &path, begun).await;
            if edit >= plan.warm_up {
                saves.push(seen);
            }
            events.forget();
        }
    }
    let [here, there] = loops;
    here.dev.finish().await;
    there.dev.finish().await;
    (here.saves, there.saves)
}

async fn follow(events: &mut Sse, run: &str, path: &str, begun: Instant) -> Save {
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["changed"], serde_json::json!([path]), "{frame}");
    let hash = frame.data["contentHash"].clone();
    let taken =
        |event: &Event| event.name == "swap" && event.data["run"] == run && event.data["contentHash"] == hash;
    let ack = events.wait_for("swap", taken).await;
    assert_eq!(ack.data["ok"], true, "{ack}");
    let part = |key: &str| frame.data["timings"][key].as_f64().unwrap_or_default();
    Save {
        frame: frame.at - begun,
        ack: ack.at - begun,
        parts: [part("bundleMs"), part("inspectMs"), part("dispatchMs")],
    }
}
