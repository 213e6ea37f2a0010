//! The processor time of a server that nobody asks for anything, with one page open.

use testkit::{Dev, leftovers};

use crate::memory::is_server;
use crate::modules::small_project;
use crate::plan::Plan;
use crate::reference;
use crate::table::Row;

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let (stage, other) = (small_project(), small_project());
    let loops = [Dev::options(&stage, &[]).start().await, reference::options(&other).start().await];
    let mut pages = Vec::new();
    for dev in &loops {
        let mut page = dev.events().await;
        page.next_named("ready").await;
        pages.push(page);
    }
    let markers = [&stage, &other].map(|stage| stage.home.marker());
    // What a start leaves to be done is no idling.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let before = markers.each_ref().map(|marker| used(marker));
    tokio::time::sleep(plan.idle).await;
    let after = markers.each_ref().map(|marker| used(marker));
    for dev in loops {
        dev.finish().await;
    }
    let spent = |at: usize| {
        let (ticks, nanos) = (after[at].0 - before[at].0, after[at].1 - before[at].1);
        (ticks * 1e3 / ticks_per_second(), nanos / 1e6)
    };
    let ((ticks, exact), (node_ticks, node_exact)) = (spent(0), spent(1));
    let seconds = plan.idle.as_secs();
    let node = format!("20 ms; now {node_exact:.1}");
    let bar = 20.0 * (node_exact / 20.0).max(1.0);
    vec![Row::value(&format!("idle CPU over {seconds} s"), &node, bar, exact, "ms").remark(format!(
        "server and workers, by the scheduler's clock; by the system's steps of 10 ms {ticks:.0} ms, Node loop {node_ticks:.0} ms"
    ))]
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.unwrap_or(100) as f64
}

/// Clock ticks of user and system time, and nanoseconds by the scheduler, of the server's processes.
fn used(marker: &str) -> (f64, f64) {
    let servers = leftovers(marker).into_iter().filter(|(pid, command)| is_server(*pid, command));
    servers.fold((0.0, 0.0), |(ticks, nanos), (pid, _)| (ticks + stat_ticks(pid), nanos + scheduled(pid)))
}

fn stat_ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // Fields 14 and 15; the rest begins with field 3.
    rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

fn scheduled(pid: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum()
}
