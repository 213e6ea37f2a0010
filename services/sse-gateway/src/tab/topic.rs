//! What can be watched. Pure.

use std::fmt;

use wire::{RunId, TerminalId};

use super::cursor::decode;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    Dev,
    Run(RunId),
    Job(String),
    Jobs,
    Troubles,
    Usage(RunId),
    Terminal(TerminalId),
}

const LONGEST_JOB: usize = 200;

impl Topic {
    /// Reads one; ids are percent-encoded.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let run = |id: &str| RunId::is_well_formed(id).then(|| RunId::from(id));
        match text.split_once(':') {
            None if text == "dev" => Some(Self::Dev),
            None if text == "jobs" => Some(Self::Jobs),
            None if text == "troubles" => Some(Self::Troubles),
            Some(("run", id)) => run(id).map(Self::Run),
            Some(("usage", id)) => run(id).map(Self::Usage),
            Some(("terminal", id)) => {
                TerminalId::is_well_formed(id).then(|| Self::Terminal(TerminalId::from(id)))
            }
            Some(("job", id)) => {
                decode(id).filter(|id| !id.is_empty() && id.len() <= LONGEST_JOB).map(Self::Job)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dev => f.write_str("dev"),
            Self::Jobs => f.write_str("jobs"),
            Self::Troubles => f.write_str("troubles"),
            Self::Run(run) => write!(f, "run:{run}"),
            Self::Usage(run) => write!(f, "usage:{run}"),
            Self::Terminal(terminal) => write!(f, "terminal:{terminal}"),
            Self::Job(id) => write!(f, "job:{id}"),
        }
    }
}
