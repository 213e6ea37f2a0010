//! An executor process that answers one question, and that nobody needs when its asker is gone.
//!
//! It leads a process group of its own and dies with this process by a parent-death signal. SIGTERM goes to
//! it alone, since it knows how to save; whichever way it ends, everything it started ends with it, found by what is
//! in its environment also where it left the tree.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use process::{Child, Group, Launch, Marker, Spawner, Tree, signal};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::settings::ExecutorSetting;

/// A running executor. Dropping it kills it, though not at once what it started.
#[derive(Debug)]
pub(crate) struct Executor {
    child: Child,
    marker: Marker,
    exited: bool,
}

/// Our ends of an executor's three streams.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Executor {
    /// Starts the executor with `marker` in its environment, which no other process tree has.
    pub(crate) async fn start(
        setting: &ExecutorSetting,
        args: &[OsString],
        marker: Marker,
    ) -> io::Result<(Self, Pipes)> {
        let launch = Launch::new(&setting.program)
            .args(args)
            .envs(setting.env.iter().map(|(name, value)| (name, value)))
            .env(&marker.name, &marker.value)
            .group(Group::Own)
            .dies_with_parent(signal::SIGKILL)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = Spawner::get().spawn(launch).await?;
        let mut executor = Self { child, marker, exited: false };
        let pipes = executor.pipes()?;
        Ok((executor, pipes))
    }

    fn pipes(&mut self) -> io::Result<Pipes> {
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (self.child.stdin(), self.child.stdout(), self.child.stderr())
        else {
            unreachable!("all three are piped and taken once")
        };
        Ok(Pipes {
            stdin: ChildStdin::from_std(stdin)?,
            stdout: ChildStdout::from_std(stdout)?,
            stderr: ChildStderr::from_std(stderr)?,
        })
    }

    /// Ends it and everything it started; returns when they are gone, or after a few seconds.
    pub(crate) async fn kill(&self) {
        let tree = Tree::of(self.child.identity().clone()).and_marked(self.marker.clone());
        end_now(tree).await;
    }

    /// Waits for its end and then ends what it left behind. Safe to cancel.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let exit = self.child.wait().await?;
        sweep(self.marker.clone()).await;
        self.exited = true;
        Ok(exit)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if !self.exited {
            let _ = self.child.pidfd().send(signal::SIGKILL);
        }
    }
}

/// Ends every process that carries `marker`, hosts included. None of them may be a child of this process whose status
/// is still wanted.
pub(crate) async fn sweep(marker: Marker) {
    end_now(Tree::marked_only(marker)).await;
}

/// Writes the order and closes stdin. An executor that does not read it is its own affair.
pub(crate) async fn feed(mut stdin: impl AsyncWrite + Unpin, order: Vec<u8>) {
    if let Err(error) = stdin.write_all(&order).await {
        tracing::debug!(%error, "an executor did not read its order");
    }
}

async fn end_now(tree: Tree) {
    // It reads the process table and waits.
    let ended = tokio::task::spawn_blocking(move || process::kill_tree(tree, Duration::ZERO)).await;
    match ended {
        Ok(report) if report.survivors.is_empty() => {}
        Ok(report) => tracing::error!(?report.survivors, "processes of an executor could not be killed"),
        Err(error) => tracing::error!(%error, "processes of an executor could not be looked for"),
    }
}
