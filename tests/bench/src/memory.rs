//! The server's memory: its process and the workers it started, without the processes of runs and jobs.

use std::time::Duration;

use testkit::{Dev, Event, Stage, Ticker, leftovers};

use crate::modules::{MODULES, large_project, small_project, write_leaf};
use crate::plan::Plan;
use crate::table::Row;

/// Time for processes to give back what they do not need.
const REST: Duration = Duration::from_secs(3);

/// Of the server's processes, megabytes (10^6 bytes).
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// Resident, of each process: a page that several share counts for each.
    rss: Vec<(String, f64)>,
    /// Proportional: a page that several share, whoever they are, counts once.
    pss: f64,
}

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let small = small_project();
    let (new, after) = before_and_after(plan, &small, |edit| {
        small.project.write("callbacks.ts", &Ticker::callbacks(&format!("v{edit}")));
    })
    .await;
    let large = large_project();
    let (large_new, large_after) = before_and_after(plan, &large, |edit| {
        write_leaf(&large, edit % MODULES, 1_000 + edit as u64);
    })
    .await;
    let rebuilds = plan.rebuilds;
    vec![
        new.row("server memory at start", "118 MB", 60.0),
        after.row(&format!("after {rebuilds} distinct rebuilds, small"), "151 MB", new.sum() * 1.05),
        large_new.told("at start, 200 modules"),
        large_after.row(
            &format!("after {rebuilds} distinct rebuilds, 200 modules"),
            "1,376 MB",
            large_new.sum() * 1.05,
        ),
    ]
}

impl Memory {
    fn sum(&self) -> f64 {
        self.rss.iter().map(|(_, rss)| rss).sum()
    }

    fn row(&self, what: &str, node: &'static str, bar: f64) -> Row {
        Row::value(what, node, bar, self.sum(), "MB").remark(self.parts())
    }

    fn told(&self, what: &str) -> Row {
        Row::told(what, format!("{:.1} MB", self.sum())).remark(self.parts())
    }

    fn parts(&self) -> String {
        let parts: Vec<String> = self.rss.iter().map(|(name, rss)| format!("{name} {rss:.1}")).collect();
        format!("RSS: {}; PSS {:.1} MB", parts.join(" + "), self.pss)
    }

    /// Of every process with `marker` that is none of a run or a job.
    fn of(marker: &str) -> Self {
        let servers = leftovers(marker).into_iter().filter(|(pid, command)| is_server(*pid, command));
        let servers: Vec<(u32, String)> = servers.collect();
        let name = |command: &str| {
            let program = command.split(' ').next().unwrap_or_default();
            program.rsplit('/').next().unwrap_or_default().to_owned()
        };
        Self {
            rss: servers.iter().map(|(pid, command)| (name(command), field(*pid, "Rss:"))).collect(),
            pss: servers.iter().map(|(pid, _)| field(*pid, "Pss:")).sum(),
        }
    }
}

/// Whether a process of this test belongs to the server itself.
pub(crate) fn is_server(pid: u32, command: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let of_a_run =
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"MIDRUN_RUN_ID="));
    !of_a_run && !command.contains(" run-host") && !command.contains(" executor")
}

/// A line of `smaps_rollup`, megabytes.
pub(crate) fn field(pid: u32, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0 / 1e6
}

/// After the start, and after the rebuilds with a run in flight and its end.
async fn before_and_after(plan: &Plan, stage: &Stage, mut save: impl FnMut(usize)) -> (Memory, Memory) {
    let (dev, mut events) = Dev::ready(stage).await;
    let marker = stage.home.marker();
    tokio::time::sleep(REST).await;
    let new = Memory::of(&marker);
    let run = dev.running(&mut events).await;
    for edit in 0..plan.rebuilds {
        save(edit);
        events.next_named("rebuild").await;
        events.forget();
    }
    dev.stop_run(&run, "now").await;
    let ended = |event: &Event| {
        event.name == "run" && event.data["run"] == run.as_str() && event.data["status"] == "exited"
    };
    events.wait_for("end of the run", ended).await;
    tokio::time::sleep(REST).await;
    let after = Memory::of(&marker);
    dev.finish().await;
    (new, after)
}
