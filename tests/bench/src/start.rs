//! From the start of the process to the first good build, as the process itself says it.

use std::time::Instant;

use testkit::{Midrun, Stage};

use crate::figures::Figures;
use crate::modules::small_project;
use crate::plan::Plan;
use crate::table::Row;

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let stage = small_project();
    // The first one makes the project's state folder.
    once(&stage).await;
    let mut times = Vec::with_capacity(plan.starts);
    for _ in 0..plan.starts {
        times.push(once(&stage).await);
    }
    let listening = Figures::of(times.iter().map(|(listening, _)| *listening));
    let ready = Figures::of(times.iter().map(|(_, ready)| *ready));
    vec![
        Row::times("start of the process to the first `ready`", "189 / 227 ms", (110.0, 150.0), &ready),
        Row::told(
            "of that, until it listens",
            format!("{:.1} / {:.1} ms", listening.median(), listening.p95()),
        ),
    ]
}

/// One start: milliseconds until it listens and until `ready`.
async fn once(stage: &Stage) -> (f64, f64) {
    let begun = Instant::now();
    let mut dev = Midrun::new(stage, ["dev", ".", "--port", "0", "--json"]).start();
    let named = |name: &'static str| {
        move |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["event"] == name).then(|| begun.elapsed().as_secs_f64() * 1e3)
        }
    };
    let listening = dev.wait_for_line("listening", named("listening")).await;
    let ready = dev.wait_for_line("ready", named("ready")).await;
    dev.signal(nix::sys::signal::Signal::SIGINT);
    let ended = dev.wait("midrun dev", testkit::LIMIT).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    (listening, ready)
}
