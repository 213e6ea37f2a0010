//! From the start of the process to the first good build, as the process itself says it.

use std::time::Instant;

use testkit::Midrun;

use crate::figures::Figures;
use crate::modules::small_project;
use crate::plan::Plan;
use crate::reference;
use crate::table::Row;

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let (stage, other) = (small_project(), small_project());
    let here = || once(Midrun::new(&stage, ["dev", ".", "--port", "0", "--json"]));
    let node = || once(reference::command(&other));
    // The first one makes the project's state folder.
    here().await;
    node().await;
    let (mut times, mut reference) = (Vec::new(), Vec::new());
    for _ in 0..plan.starts {
        times.push(here().await);
        reference.push(node().await);
    }
    let ready = |times: &[(f64, f64)]| Figures::of(times.iter().map(|(_, ready)| *ready));
    let listening = Figures::of(times.iter().map(|(listening, _)| *listening));
    let what = "start of the process to the first `ready`";
    vec![
        Row::beside(what, (189.0, 227.0), (110.0, 150.0), &ready(&times), &ready(&reference)),
        Row::told("of that, until it listens", format!("{listening} ms")),
    ]
}

/// One start: milliseconds until it listens and until `ready`.
async fn once(command: Midrun) -> (f64, f64) {
    let begun = Instant::now();
    let mut dev = command.start();
    let named = |name: &'static str| {
        move |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["event"] == name).then(|| begun.elapsed().as_secs_f64() * 1e3)
        }
    };
    let listening = dev.wait_for_line("listening", named("listening")).await;
    let ready = dev.wait_for_line("ready", named("ready")).await;
    dev.signal(nix::sys::signal::Signal::SIGINT);
    let ended = dev.wait("the loop", testkit::LIMIT).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    (listening, ready)
}
