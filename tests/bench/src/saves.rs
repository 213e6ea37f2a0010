//! From a save to the frame, and to the runner's word that it took the new callbacks.

use std::time::{Duration, Instant};

use testkit::{Dev, Event, Sse, Stage, Ticker};

use crate::figures::Figures;
use crate::modules::{MODULES, large_project, leaf_path, small_project, write_leaf};
use crate::plan::Plan;
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
    let stage = small_project();
    let saves = measure(plan, &stage, |edit, _| {
        stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("v{edit}")));
        "src/midrun/callbacks.ts".to_owned()
    })
    .await;
    let (frame, ack) = figures(&saves);
    vec![
        Row::times("save to `rebuild` frame, small project", "4.8 / 5.9 ms", (3.5, 5.0), &frame),
        parts(
            "of that (bundler, inspector, dispatch; the rest is watching, HTTP and the client)",
            &saves,
            &frame,
        ),
        Row::times("save to the runner's swap ack, small project", "5.7 / 6.8 ms", (5.0, 7.0), &ack),
    ]
}

/// Saves of one of 200 modules.
pub(crate) async fn many_modules(plan: &Plan) -> Vec<Row> {
    let stage = large_project();
    let saves = measure(plan, &stage, |edit, random| {
        let index = usize::try_from(random % MODULES as u64).expect("it is below 200");
        write_leaf(&stage, index, 1_000 + edit as u64);
        leaf_path(index)
    })
    .await;
    let bundle = stage.project.dir().join(".midrun/build/index.mjs").metadata().map_or(0, |meta| meta.len());
    let (frame, ack) = figures(&saves);
    let what = format!("save to frame, {MODULES} modules, {} kB bundle, leaf edit", bundle / 1000);
    vec![
        Row::times(&what, "37.5 / 55 ms", (22.0, 32.0), &frame),
        parts("of that (bundler, inspector, dispatch)", &saves, &frame),
        Row::told(
            "save to the runner's swap ack, 200 modules",
            format!("{:.1} / {:.1} ms", ack.median(), ack.p95()),
        ),
    ]
}

fn figures(saves: &[Save]) -> (Figures, Figures) {
    let of = |part: fn(&Save) -> Duration| Figures::of_times(&saves.iter().map(part).collect::<Vec<_>>());
    (of(|save| save.frame), of(|save| save.ack))
}

fn parts(what: &str, saves: &[Save], frame: &Figures) -> Row {
    let median = |part: usize| Figures::of(saves.iter().map(|save| save.parts[part])).median();
    let medians = [0, 1, 2].map(median);
    let rest = frame.median() - medians.iter().sum::<f64>();
    let [bundle, inspect, dispatch] = medians;
    Row::told(what, format!("{bundle:.1} + {inspect:.1} + {dispatch:.1} + {rest:.1} ms"))
}

/// Makes saves while a run is in flight, by `save`, which answers with the path that a frame names.
async fn measure(plan: &Plan, stage: &Stage, mut save: impl FnMut(usize, u64) -> String) -> Vec<Save> {
    let (dev, mut events) = Dev::ready(stage).await;
    let run = dev.running(&mut events).await;
    let mut random = Random::new();
    let mut saves = Vec::with_capacity(plan.saves);
    for edit in 0..plan.warm_up + plan.saves {
        let gap = GAP_MS.start + random.next() % (GAP_MS.end - GAP_MS.start);
        tokio::time::sleep(Duration::from_millis(gap)).await;
        let choice = random.next();
        let begun = Instant::now();
        let path = save(edit, choice);
        let seen = follow(&mut events, &run, &path, begun).await;
        if edit >= plan.warm_up {
            saves.push(seen);
        }
        events.forget();
    }
    dev.finish().await;
    saves
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
