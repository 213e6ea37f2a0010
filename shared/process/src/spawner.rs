//! The thread that children with a parent-death signal are spawned from, and the children nobody waits for.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::{Child, Launch};

/// How many spawns may wait for the thread. Further ones wait for a place.
const QUEUE: usize = 64;

type Order = (Launch, oneshot::Sender<io::Result<Child>>);

/// A thread that lives as long as this process, on which children are spawned: a parent-death signal fires when
/// the spawning thread ends, and the threads of a runtime come and go.
#[derive(Debug, Clone)]
pub struct Spawner(mpsc::Sender<Order>);

impl Spawner {
    /// The process's one spawner; started by the first use.
    ///
    /// # Panics
    /// When the system has no thread left for it.
    pub fn get() -> &'static Self {
        static SPAWNER: LazyLock<Spawner> = LazyLock::new(Spawner::start);
        &SPAWNER
    }

    fn start() -> Self {
        let (orders, mut queue) = mpsc::channel::<Order>(QUEUE);
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                while let Some((launch, answer)) = queue.blocking_recv() {
                    // The thread's end would kill every child: nothing may unwind out of it.
                    let child = catch_unwind(AssertUnwindSafe(|| launch.spawn()))
                        .unwrap_or_else(|_| Err(io::Error::other("the spawn panicked")));
                    if let Err(Ok(mut unwanted)) = answer.send(child) {
                        // Whoever asked has gone: nobody would ever end it.
                        let _ = unwanted.kill_blocking();
                    }
                }
            })
            .expect("a process can start a thread");
        Self(orders)
    }

    /// Spawns `launch` on the thread. If the future is dropped, the child is killed or never spawned.
    ///
    /// # Errors
    /// As [`Launch::spawn`].
    pub async fn spawn(&self, launch: Launch) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        self.0.send((launch, answer)).await.map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }

    /// As [`Spawner::spawn`], from a thread that belongs to no runtime.
    ///
    /// # Errors
    /// As [`Launch::spawn`].
    ///
    /// # Panics
    /// When called from a runtime's thread.
    pub fn spawn_blocking(&self, launch: Launch) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        self.0.blocking_send((launch, answer)).map_err(|_| gone())?;
        child.blocking_recv().map_err(|_| gone())?
    }
}

/// The thread never ends, so this is never seen.
fn gone() -> io::Error {
    io::Error::other("the spawner's thread has ended")
}

/// Children whose handle was dropped before they ended. As many as there are such processes.
static DROPPED: Mutex<Vec<std::process::Child>> = Mutex::new(Vec::new());

/// Keeps `child` until it can be reaped.
pub(crate) fn adopt(child: std::process::Child) {
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    reap_dropped();
}

/// Reaps those that have ended.
pub(crate) fn reap_dropped() {
    DROPPED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal;

    #[test]
    fn children_survive_the_runtime_that_asked_for_them() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut child = runtime.block_on(async {
            let launch = Launch::new("sleep").arg("60").dies_with_parent(signal::SIGKILL);
            tokio::spawn(Spawner::get().spawn(launch)).await.unwrap().unwrap()
        });
        drop(runtime);
        assert!(child.try_wait().unwrap().is_none());
        child.kill_blocking().unwrap();
    }

    #[test]
    fn a_failed_spawn_is_told_and_the_thread_goes_on() {
        let missing = Spawner::get().spawn_blocking(Launch::new("/no/such/program"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        Spawner::get().spawn_blocking(Launch::new("true")).unwrap().wait_blocking().unwrap();
    }
}
