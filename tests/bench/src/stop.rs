//! From asking for a stop at once, while the control plane hangs, until all is over that a person waits for.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::kill::Lender;
use testkit::{Dev, Fault, FaultyControlPlane, LIMIT, Layout, SdkTrainer, Stage, gone};

use crate::figures::Figures;
use crate::plan::Plan;
use crate::table::Row;

/// What is asked for, milliseconds.
const BAR: (f64, f64) = (1_000.0, 1_000.0);

/// The times of one stop.
struct Stop {
    /// Until it was answered.
    answered: Duration,
    /// Until the run was told as ended and its process was gone.
    over: Duration,
}

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let lender = Lender::start().await;
    let proxy = lender.proxy().await;
    let stage = Stage::bare(Layout::Midrun);
    stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v1"));
    stage.project.write("index.ts", &SdkTrainer::default().entry());
    let dev = Dev::options(&stage, &["--control-plane", &proxy.url()]).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let mut stops = Vec::with_capacity(plan.stops);
    for _ in 0..plan.stops {
        stops.push(once(&dev, &mut events, &proxy).await);
    }
    dev.finish().await;
    lender.finish().await;
    let figures =
        |time: fn(&Stop) -> Duration| Figures::of_times(&stops.iter().map(time).collect::<Vec<_>>());
    let answered = figures(|stop| stop.answered);
    vec![
        Row::times(
            "stop at once, control plane hanging: until the run is reported ended and its process is gone",
            BAR,
            &figures(|stop| stop.over),
        ),
        Row::told(
            "of that, until the request is answered",
            format!("{:.1} / {:.1} ms", answered.median(), answered.p95()),
        ),
    ]
}

async fn once(dev: &Dev, events: &mut testkit::Sse, proxy: &FaultyControlPlane) -> Stop {
    let run = dev.running(events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let pid =
        dev.run(&run).await["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a process");
    proxy.only("/v1/", Fault::Hang);
    let begun = Instant::now();
    dev.stop_run(&run, "now").await;
    let answered = begun.elapsed();
    let is_over = |data: &Value| data["run"] == run.as_str() && data["status"] == "exited";
    events.wait_for("end of the run", |event| event.name == "run" && is_over(&event.data)).await;
    gone(pid, LIMIT).await;
    let over = begun.elapsed();
    let outstanding = dev.client.get("/metrics").await.text();
    assert!(outstanding.contains("midrun_cancels_outstanding 1"), "its cancel is on disk: {outstanding}");
    proxy.heal();
    settled(dev).await;
    Stop { answered, over }
}

/// Waits until nothing of the last stop is left to be done.
async fn settled(dev: &Dev) {
    let until = Instant::now() + LIMIT;
    while !dev.client.get("/metrics").await.text().contains("midrun_cancels_outstanding 0") {
        assert!(Instant::now() < until, "a cancel is not delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
