//! Terminal sessions: what their registry tells of them and what it can be asked to do.

use serde::{Deserialize, Serialize};

use crate::id::{CommandId, TerminalId};
use crate::message::{Never, Reject, Wire};
use crate::run::LogPage;

/// Where a terminal session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TerminalStatus {
    /// Its host is being started.
    Starting,
    /// Its shell runs.
    Running,
    /// Being ended.
    Closing,
    /// Its shell ended.
    Exited,
    /// Its host is gone and nobody saw the end.
    Lost,
}

impl TerminalStatus {
    /// Whether there may be a shell.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Closing)
    }
}

/// One terminal session, as everyone but its registry sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// Its id.
    pub id: TerminalId,
    /// What its user calls it.
    pub name: Option<String>,
    /// The shell's process id.
    pub pid: Option<u32>,
    /// Where it stands.
    pub status: TerminalStatus,
    /// The shell's program.
    pub shell: String,
    /// The folder that the shell was started in.
    pub cwd: String,
    /// Height, lines.
    pub rows: u16,
    /// Width, characters.
    pub columns: u16,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// The shell's exit status; 128+n when signal n ended it.
    pub exit_code: Option<i32>,
    /// Why it is in this state, for a person.
    pub reason: Option<String>,
    /// The newest record of its log.
    pub newest_seq: u64,
}

/// Open a terminal session. Answers when its shell's process exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTerminal {
    /// What its user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// The shell: a name or a path; the user's own when absent.
    #[serde(default)]
    pub shell: Option<String>,
    /// The folder to start in, relative to the project or absolute; the project's own when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Height, lines; 24 when absent.
    #[serde(default)]
    pub rows: Option<u16>,
    /// Width, characters; 80 when absent.
    #[serde(default)]
    pub columns: Option<u16>,
}

impl Wire for OpenTerminal {
    const NAME: &'static str = "open-terminal";
    const REPEATABLE: bool = false;
    type Reply = Terminal;
    type Refusal = TerminalRefusal;
}

/// Every terminal session that is known, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListTerminals {}

impl Wire for ListTerminals {
    const NAME: &'static str = "list-terminals";
    const REPEATABLE: bool = true;
    type Reply = Vec<Terminal>;
    type Refusal = Never;
}

/// One terminal session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetTerminal {
    /// Which.
    pub terminal: TerminalId,
}

impl Wire for GetTerminal {
    const NAME: &'static str = "get-terminal";
    const REPEATABLE: bool = true;
    type Reply = Terminal;
    type Refusal = TerminalRefusal;
}

/// End a terminal session and everything in it. Answers when the request is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseTerminal {
    /// Which.
    pub terminal: TerminalId,
    /// Why, for the log and for people.
    pub reason: String,
}

impl Wire for CloseTerminal {
    const NAME: &'static str = "close-terminal";
    const REPEATABLE: bool = true;
    type Reply = Terminal;
    type Refusal = TerminalRefusal;
}

/// Type into a terminal. Answers when its host has taken the bytes, all of them or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeInto {
    /// Which.
    pub terminal: TerminalId,
    /// The bytes in base 64.
    pub base64: String,
}

impl Wire for TypeInto {
    const NAME: &'static str = "type-into-terminal";
    const REPEATABLE: bool = false;
    type Reply = ();
    type Refusal = TerminalRefusal;
}

/// Give a terminal another size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeTerminal {
    /// Which.
    pub terminal: TerminalId,
    /// Height, lines.
    pub rows: u16,
    /// Width, characters.
    pub columns: u16,
}

impl Wire for ResizeTerminal {
    const NAME: &'static str = "resize-terminal";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = TerminalRefusal;
}

/// Have a terminal's shell run a command, and wait for its end if that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunCommand {
    /// Which.
    pub terminal: TerminalId,
    /// The command's id; refused when a command with this id is under way.
    pub command: CommandId,
    /// The command, in the shell's language. It may have several lines.
    pub text: String,
    /// How long to wait for its end, milliseconds; nothing: not at all, the answer comes when it is queued.
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

impl Wire for RunCommand {
    const NAME: &'static str = "run-command";
    const REPEATABLE: bool = false;
    type Reply = Commanded;
    type Refusal = TerminalRefusal;
}

/// What became of a command so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commanded {
    /// Which.
    pub command: CommandId,
    /// It came to its end; `exit_code` is its status.
    pub completed: bool,
    /// The time allowed was over before its end.
    pub timed_out: bool,
    /// It was never begun, and will not be.
    pub withdrawn: bool,
    /// The shell ended first; `exit_code` is the shell's status.
    pub exited: bool,
    /// Of the command, or of the shell.
    pub exit_code: Option<i32>,
    /// From the request to this answer, milliseconds.
    pub duration_ms: u64,
    /// The record that says that the shell took it.
    pub input_seq: Option<u64>,
    /// The record that says that it ended.
    pub complete_seq: Option<u64>,
    /// The newest record when this was answered.
    pub newest_seq: u64,
}

/// A page of a terminal's log. A reader pulls: nothing is queued for one that is slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadTerminal {
    /// Which.
    pub terminal: TerminalId,
    /// Everything after this record; 0 for all.
    pub after: u64,
    /// Where the record after `after` starts in the log, as the previous page said; saves a search.
    #[serde(default)]
    pub hint: Option<u64>,
    /// About how much to answer at most, bytes of log. At least one record is answered if there is one.
    pub max_bytes: u32,
    /// How long to wait for a record when there is none yet, milliseconds.
    pub wait_ms: u32,
}

impl Wire for ReadTerminal {
    const NAME: &'static str = "read-terminal";
    const REPEATABLE: bool = true;
    type Reply = LogPage;
    type Refusal = TerminalRefusal;
}

/// Why a request about a terminal session is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum TerminalRefusal {
    /// No such session.
    #[error("there is no terminal {terminal}; `midrun term ls` lists those there are")]
    NotFound {
        /// What was asked for.
        terminal: TerminalId,
    },
    /// There are enough.
    #[error("{limit} terminals are open, which is the limit (setting terminal.maxSessions); close one first")]
    TooMany {
        /// How many there may be.
        limit: usize,
    },
    /// The shell is not there, or is none that is understood.
    #[error("{shell} cannot be the shell: {why}")]
    NoSuchShell {
        /// What was asked for.
        shell: String,
        /// What is wrong with it.
        why: String,
    },
    /// The folder is not inside the project, or is none.
    #[error("{folder} is no folder inside the project {project}")]
    OutsideProject {
        /// What was asked for.
        folder: String,
        /// The project's folder.
        project: String,
    },
    /// What was asked for makes no sense.
    #[error("{why}")]
    Nonsense {
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Too much waits already; nothing of the request was done.
    #[error("not processed: {why}; try again later")]
    Busy {
        /// What waits.
        why: String,
    },
    /// The session could not be started.
    #[error("the terminal could not be opened: {why}")]
    NotStarted {
        /// What went wrong and what to do.
        why: String,
    },
    /// Its host does not answer.
    #[error("terminal {terminal} does not answer: {why}")]
    Silent {
        /// Which.
        terminal: TerminalId,
        /// What is known.
        why: String,
    },
    /// The session has ended.
    #[error("terminal {terminal} has ended")]
    Ended {
        /// Which.
        terminal: TerminalId,
    },
    /// The server is stopping.
    #[error("the server is stopping and opens no new terminal")]
    Stopping,
}

impl Reject for TerminalRefusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not-found",
            Self::TooMany { .. } => "too-many",
            Self::NoSuchShell { .. } => "no-such-shell",
            Self::OutsideProject { .. } => "outside-project",
            Self::Nonsense { .. } => "nonsense",
            Self::Busy { .. } => "busy",
            Self::NotStarted { .. } => "not-started",
            Self::Silent { .. } => "silent",
            Self::Ended { .. } => "ended",
            Self::Stopping => "stopping",
        }
    }

    fn http_status(&self) -> u16 {
        match self {
            Self::NotFound { .. } => 404,
            Self::Ended { .. } => 409,
            Self::TooMany { .. } | Self::Busy { .. } => 429,
            Self::NotStarted { .. } | Self::Stopping => 503,
            Self::Silent { .. } => 504,
            Self::NoSuchShell { .. } | Self::OutsideProject { .. } | Self::Nonsense { .. } => 400,
        }
    }
}
