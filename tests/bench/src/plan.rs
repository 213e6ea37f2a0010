//! What is measured, and how often.

use std::time::Duration;

/// A line of the table, or a few that come from one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Saves in a small project.
    Saves,
    /// Saves in a project of 200 modules.
    Modules,
    /// From the start of the process to the first good build.
    Start,
    /// The server's memory, new and after many rebuilds.
    Memory,
    /// One frame to many clients.
    FanOut,
    /// The server's processor time while nothing happens.
    Idle,
}

const LINES: [Line; 6] = [Line::Saves, Line::Modules, Line::Start, Line::Memory, Line::FanOut, Line::Idle];

impl Line {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Saves => "saves",
            Self::Modules => "modules",
            Self::Start => "start",
            Self::Memory => "memory",
            Self::FanOut => "fan-out",
            Self::Idle => "idle",
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
    /// Frames that are sent to the clients.
    pub(crate) frames: usize,
    pub(crate) idle: Duration,
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
            frames: 20,
            idle: Duration::from_secs(30),
        };
        let quick = Self {
            saves: 30,
            warm_up: 5,
            starts: 5,
            rebuilds: 100,
            clients: 200,
            frames: 5,
            idle: Duration::from_secs(5),
            ..full.clone()
        };
        let mut plan = full;
        let mut lines = Vec::new();
        for arg in args {
            match (arg.as_str(), LINES.iter().find(|line| line.name() == arg)) {
                ("--quick", _) => plan = quick.clone(),
                (_, Some(line)) => lines.push(*line),
                _ => return Err(format!("usage: bench [--quick] [{}]…", LINES.map(Line::name).join("|"))),
            }
        }
        plan.lines = if lines.is_empty() { LINES.to_vec() } else { lines };
        Ok(plan)
    }
}
