//! The binary as a command: started, fed with signals, and read to its end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::LIMIT;
use crate::binary::midrun;
use crate::growing::{Growing, growing};
use crate::processes::{self, exit_of};
use crate::stage::Stage;

/// `midrun …`, in a project and with a home.
#[derive(Debug, Clone)]
pub struct Midrun {
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    dir: PathBuf,
    marker: String,
    foreground: bool,
    by: Vec<OsString>,
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; 128+n when signal n ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command that goes on. Dropping it kills it; when its test has failed, with everything that has its home.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    child: Child,
    marker: String,
    stdout: Growing<Vec<u8>>,
    stderr: Growing<Vec<u8>>,
}

impl Midrun {
    /// `midrun ARGS` in the stage's project.
    pub fn new<A: Into<OsString>>(stage: &Stage, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            environment: stage.home.environment(),
            dir: stage.project.dir().to_owned(),
            marker: stage.home.marker(),
            foreground: false,
            by: Vec::new(),
        }
    }

    /// Started by a program that becomes it, with these arguments before its own command.
    #[must_use]
    pub fn by<A: Into<OsString>>(mut self, program: impl IntoIterator<Item = A>) -> Self {
        self.by = program.into_iter().map(Into::into).collect();
        self
    }

    /// Another variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The same place and environment, with other arguments.
    #[must_use]
    pub(crate) fn asked_for<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), ..self.clone() }
    }

    /// Another working folder.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// As a shell starts it in a terminal: in a process group of its own, which the terminal signals as a whole.
    #[must_use]
    pub fn in_foreground(mut self) -> Self {
        self.foreground = true;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(self) -> Running {
        let binary = midrun();
        let mut words = self.by.into_iter().chain([binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("the binary is among them"));
        command.args(words).args(&self.args).env_clear().envs(self.environment).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if self.foreground {
            command.process_group(0);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let pid = child.id().expect("it was just started");
        let stdout = collected(child.stdout.take().expect("it is piped"));
        let stderr = collected(child.stderr.take().expect("it is piped"));
        Running { pid, child, stdout, stderr, marker: self.marker }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(self) -> Ended {
        let what = format!("{:?}", self.args);
        let mut running = self.start();
        running.wait(&what, LIMIT).await
    }
}

fn collected(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Growing<Vec<u8>> {
    let (grower, content) = growing::<Vec<u8>>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            grower.add(|content| content.extend_from_slice(&buffer[..count]));
        }
    });
    content
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid, signal);
    }

    /// Sends its process group a signal, as a terminal does.
    ///
    /// # Panics
    /// When it was not started in the foreground.
    pub fn signal_group(&self, signal: Signal) {
        processes::signal_group(self.pid, signal);
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        processes::alive(self.pid)
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.look()).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.look()).into_owned()
    }

    /// Waits until its standard output has a complete line that `find` finds something in.
    ///
    /// # Panics
    /// With `what` and all that it wrote when there is none in time.
    pub async fn wait_for_line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut place = 0;
        let look = |bytes: &mut Vec<u8>| {
            while let Some(length) = bytes[place..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&bytes[place..place + length]).into_owned();
                place += length + 1;
                if let Some(found) = find(&line) {
                    return Some(found);
                }
            }
            None
        };
        let found = self.stdout.find(LIMIT, look).await;
        found.unwrap_or_else(|why| panic!("no {what}: {why}; {}", self.told()))
    }

    fn told(&self) -> String {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        format!("it wrote:\n{}\nand on standard error:\n{}", tail(&stdout), tail(&stderr))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// With all that it wrote when it does not end within `limit`.
    pub async fn wait(&mut self, what: &str, limit: Duration) -> Ended {
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            panic!("{what} did not end; {}", self.told());
        };
        let code = exit_of(status.expect("a child can be waited for"));
        // Whoever inherited its output may hold it open; what it wrote itself is there by then.
        let _ = self.stdout.end(DRAIN).await;
        let _ = self.stderr.end(DRAIN).await;
        Ended { code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

/// Characters of an output that a failure shows.
const SHOWN: usize = 3_000;

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(SHOWN - 1).map_or(0, |(at, _)| at);
    &text[start..]
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            processes::sweep(&self.marker);
        }
    }
}

/// How long the output of a command that ended may still come.
const DRAIN: Duration = Duration::from_secs(2);

impl Ended {
    /// Itself, if the exit status is `code`.
    ///
    /// # Panics
    /// With all that it wrote when it is not.
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "it wrote:\n{}\nand on standard error:\n{}", self.stdout, self.stderr);
        self
    }

    /// Nothing panicked but where the test wanted it.
    ///
    /// # Panics
    /// With all that `what` wrote when something did.
    pub fn expect_no_panic(&self, what: &str) {
        let panics = self.stderr.matches("panicked at").count();
        let wanted = self.stderr.matches(&format!("\n{} ", failpoint::PANICKED)).count();
        assert_eq!(panics, wanted, "{what} panicked:\n{}", self.stderr);
    }

    /// Standard output as JSON, one value a line.
    ///
    /// # Panics
    /// When a line is none.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line:?}"))
        };
        self.stdout.lines().map(parse).collect()
    }
}
