//! What is measured, and how often.

use std::time::Duration;

use testkit::Topology;

/// A line of the table, or a few that come from one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Saves in a small project.
    Saves,
    /// Saves in a project of 200 modules.
    Modules,
    /// The same saves with a process for each service.
    Six,
    /// The same saves with tracing.
    Traced,
    /// From the start of the process to the first good build.
    Start,
    /// The server's memory, new and after many rebuilds.
    Memory,
    /// One frame to many clients.
    FanOut,
    /// The server's processor time while nothing happens.
    Idle,
    /// Stops at once while the control plane hangs.
    Stop,
    /// Kills at every failpoint. Only where it is asked for: it takes long, and a build with failpoints.
    Kill,
}

/// What is measured when nothing is named.
const LINES: [Line; 9] = [
    Line::Saves,
    Line::Modules,
    Line::Six,
    Line::Traced,
    Line::Start,
    Line::Memory,
    Line::FanOut,
    Line::Idle,
    Line::Stop,
];

impl Line {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Saves => "saves",
            Self::Modules => "modules",
            Self::Six => "six",
            Self::Traced => "traced",
            Self::Start => "start",
            Self::Memory => "memory",
            Self::FanOut => "fan-out",
            Self::Idle => "idle",
            Self::Stop => "stop",
            Self::Kill => "kill",
        }
    }
}

/// Everything to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) lines: Vec<Line>,
    /// Saves whose time is taken.
    pub(crate) saves: usize,
    /// Saves before those.
    pub(crate) warm_up: usize,
    pub(crate) starts: usize,
    /// Rebuilds between the two looks at the memory.
    pub(crate) rebuilds: usize,
    pub(crate) clients: usize,
    /// More clients than one person's tabs or a team's.
    pub(crate) crowd: usize,
    /// Frames that are sent to the clients.
    pub(crate) frames: usize,
    pub(crate) idle: Duration,
    /// Runs that are stopped at once.
    pub(crate) stops: usize,
    /// How many kills.
    pub(crate) injections: usize,
    /// Decides their order and what the control plane does meanwhile.
    pub(crate) seed: u64,
    /// Of the servers that are killed.
    pub(crate) topology: Topology,
}

impl Plan {
    /// The plan that a command line asks for; how to ask, when it does not.
    pub(crate) fn of(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let full = Self {
            lines: Vec::new(),
            saves: 200,
            warm_up: 20,
            starts: 30,
            rebuilds: 1_000,
            clients: 2_000,
            crowd: 5_000,
            frames: 20,
            idle: Duration::from_secs(30),
            stops: 30,
            injections: 1_000,
            seed: 1,
            topology: Topology::One,
        };
        let quick = Self {
            saves: 30,
            warm_up: 5,
            starts: 5,
            rebuilds: 100,
            clients: 200,
            crowd: 500,
            frames: 5,
            idle: Duration::from_secs(5),
            stops: 5,
            injections: 300,
            ..full.clone()
        };
        let mut plan = full;
        let mut lines = Vec::new();
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut number = || args.next()?.parse::<u64>().ok();
            match arg.as_str() {
                "--quick" => plan = quick.clone(),
                "--six" => plan.topology = Topology::Six,
                "--seed" => plan.seed = number().ok_or_else(usage)?,
                "--count" => {
                    let count = number().and_then(|count| usize::try_from(count).ok());
                    plan.injections = count.ok_or_else(usage)?;
                }
                "kill" if !failpoint::are_compiled_in() => return Err(NO_FAILPOINTS.to_owned()),
                "kill" => lines.push(Line::Kill),
                _ => lines.push(*LINES.iter().find(|line| line.name() == arg).ok_or_else(usage)?),
            }
        }
        plan.lines = if lines.is_empty() { LINES.to_vec() } else { lines };
        Ok(plan)
    }
}

const NO_FAILPOINTS: &str = "a release build has no failpoints to kill at; use one without `--release`:\n\
    cargo build -p midrun && cargo run -p bench -- kill";

fn usage() -> String {
    let lines = LINES.map(Line::name).join("|");
    format!("usage: bench [--quick] [{lines}]…\n       bench kill [--six] [--seed N] [--count N]")
}
