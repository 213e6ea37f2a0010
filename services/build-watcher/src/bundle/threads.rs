//! Where the bundler's tasks run.
//!
//! The bundler hands pieces of its work to a thread pool, and waiting for another thread to wake costs more than
//! most of these pieces. So builds run on a thread that is itself the only one of a pool: its pieces are done in
//! place. Only large graphs are worth several threads.
//!
//! What must hold: before a build begins, the thread has done what the one before left for later. The bundler waits
//! for that, and on a pool of one nobody else could do it.

use std::any::Any;
use std::cell::OnceCell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::runtime::{Builder, Runtime};

/// Files from which on a build is worth several threads.
const MANY_FILES: usize = 32;

/// More threads than this bring nothing for projects of the usual size.
const MOST_THREADS: usize = 4;

/// The longest that a build may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Files that are read and parsed.
    pub(crate) read: usize,
    /// Files that the bundle is made of.
    pub(crate) bundled: usize,
}

/// What became of a task.
pub(crate) enum Outcome<T> {
    /// It ended.
    Done(T),
    /// It did not end within this time.
    TimedOut(Duration),
    /// It panicked with these words.
    Panicked(String),
}

/// What builds need on the thread that they run on.
pub(crate) struct Threads {
    here: Runtime,
    several: OnceCell<Option<ThreadPool>>,
}

/// Starts a thread that is fit for builds and runs `task` on it.
///
/// # Errors
/// The system has no thread to give.
pub(crate) fn spawn(task: impl FnOnce(&Threads) + Send + 'static) -> io::Result<()> {
    let here = Builder::new_current_thread().enable_time().build()?;
    // The thread ends with its task; the handle of its pool is not needed for that.
    pool(1)?.spawn(move || task(&Threads { here, several: OnceCell::new() }));
    Ok(())
}

impl Threads {
    /// For a test's own thread, which uses the pool of the whole process.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let here = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { here, several: OnceCell::new() }
    }

    /// Runs `task` to its end. Blocks.
    ///
    /// # Panics
    /// If the calling thread is running asynchronous code.
    pub(crate) fn run<T: Send>(&self, work: Work, task: impl Future<Output = T> + Send) -> Outcome<T> {
        self.tidy();
        let limited = async { tokio::time::timeout(LIMIT, task).await };
        let run = || match self.pool_for(work.bundled) {
            Some(pool) => {
                let several = runtime_for(work.read);
                let here = &self.here;
                let result = pool.install(|| several.as_ref().unwrap_or(here).block_on(limited));
                several.into_iter().for_each(Runtime::shutdown_background);
                result
            }
            None => self.here.block_on(limited),
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(value)) => Outcome::Done(value),
            Ok(Err(_)) => Outcome::TimedOut(LIMIT),
            Err(panic) => Outcome::Panicked(words(panic.as_ref())),
        }
    }

    /// Does what builds left for later, such as giving memory back.
    pub(crate) fn tidy(&self) {
        while rayon::yield_local() == Some(rayon::Yield::Executed) {}
    }

    /// The pool for a bundle of so many files, if it is worth another than this thread.
    fn pool_for(&self, files: usize) -> Option<&ThreadPool> {
        let several = || pool(thread_count()).ok();
        if files < MANY_FILES || thread_count() < 2 {
            None
        } else {
            self.several.get_or_init(several).as_ref()
        }
    }
}

/// A runtime for reading so many files, if it is worth another than the usual one. Its threads exist only meanwhile.
fn runtime_for(files: usize) -> Option<Runtime> {
    if files < MANY_FILES {
        return None;
    }
    Builder::new_multi_thread()
        .worker_threads(thread_count())
        .thread_name("bundle")
        .enable_time()
        .build()
        .ok()
}

fn pool(threads: usize) -> io::Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|_| "build".to_owned());
    // Without a handler a panic on a pool's thread would end the process.
    let builder =
        builder.panic_handler(|panic| tracing::error!("a build thread failed: {}", words(panic.as_ref())));
    builder.build().map_err(io::Error::other)
}

fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}
