//! What a host costs.

use wire::log::Step;
use wire::run::StopMode;

use crate::stage::{Setting, memory};

#[test]
fn a_host_stays_small_under_load() {
    let stage = Setting::node(
        "const fs = require('node:fs');
         const bytes = Buffer.from('\\u001b[31m loss 0.123 \\u001b[0m\\n'.repeat(4000));
         for (let left = 50_000_000; left > 0;) left -= fs.writeSync(1, bytes);
         fs.writeSync(3, process.env.READY + '\\n');
         setInterval(() => {}, 1000);",
    )
    .start();
    let mut listener = stage.connect();
    listener.subscribe(0);
    stage.wait_for("the load", |step| matches!(step, Step::Ready { .. }));
    let (most, now) = (memory(&stage, "VmHWM"), memory(&stage, "VmRSS"));
    println!("most {most} kB, now {now} kB");
    assert!(most < 12 * 1024, "{most} kB");
    stage.connect().stop(StopMode::Now).unwrap();
    drop(listener);
    stage.finish();
}
