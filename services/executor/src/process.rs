//! The process around a run: arguments, stdin, environment, exit code.
//!
//! However it ends, the other side gets a last line that says so, also after a panic.

use std::io::{self, Read as _, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::event::{self, Event};
use crate::job::Job;
use crate::sample::{self, Finish};
use crate::session::{self, Ending, SessionError};
use crate::stop::Stop;

/// Matrix products of fewer multiplications than this stay in one thread. The default is far lower, and waking a
/// thread for each of the small products of a small model is slower than doing them, much slower when the other
/// core is busy. The result is the same.
const WORTH_A_THREAD: usize = 1 << 26;

/// Among how many threads candle divides the additions of long tensors. It reads the variable once, and its threads
/// spin while they wait for one another: where a server and a runner want the other core, a step takes ten times as
/// long with two of them as with one.
const SPINNING_THREADS: &str = "CANDLE_NUM_THREADS";

/// How long stdin may take to bring the job.
const JOB_LIMIT: Duration = Duration::from_secs(60);

/// How often the wait for the job looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// The most that stdin may hold, in bytes.
const LARGEST_JOB: u64 = 80 << 20;

/// The executor: does what `arguments` (without the program's name) and stdin say, and returns the exit code.
///
/// To be the whole of a process, called from its main thread before anything else: without `CANDLE_NUM_THREADS` in
/// its environment, the process begins anew with that variable set to 1, as the same process with the same arguments.
pub fn main(arguments: impl IntoIterator<Item = String>) -> i32 {
    if std::env::var_os(SPINNING_THREADS).is_none() {
        let error = begin_anew();
        eprintln!("executor: may be slow, because {SPINNING_THREADS}=1 cannot be set: {error}");
    }
    let arguments: Vec<String> = arguments.into_iter().collect();
    gemm::set_threading_threshold(WORTH_A_THREAD);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => train(),
        ["--sample"] => sample(),
        _ => {
            eprintln!("usage: executor [--sample]   (the job, or what to sample, comes on stdin as JSON)");
            2
        }
    }
}

/// Replaces this process's program by itself, with one spinning thread; returns only when that fails.
fn begin_anew() -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(SPINNING_THREADS, "1").exec()
}

fn train() -> i32 {
    let mut output = io::stdout();
    let ended = catch_unwind(AssertUnwindSafe(|| train_job(&mut output)));
    let error = match ended {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error,
        Err(_) => "the executor panicked, which is a fault of it; its stderr says where".to_owned(),
    };
    eprintln!("executor: {error}");
    if let Err(unheard) = event::write(&mut output, &Event::Failed { error }) {
        eprintln!("executor: nobody reads the events any more: {unheard}");
    }
    1
}

fn train_job(output: &mut dyn Write) -> Result<(), String> {
    let stop = Stop::on_signals().map_err(|error| format!("cannot listen for SIGTERM: {error}"))?;
    let Some(text) = job_text(&stop)? else {
        let stopped = Event::Stopped { step: 0, checkpoint: None };
        return event::write(output, &stopped).map_err(|error| SessionError::Unheard(error).to_string());
    };
    let job = Job::parse(&text).map_err(|error| error.to_string())?;
    let folder = std::env::var_os("MIDRUN_JOB_DIR").map(PathBuf::from);
    let folder = folder.ok_or("MIDRUN_JOB_DIR is not set: it names the folder for the checkpoints")?;
    let project =
        job.project_dir.clone().or_else(|| std::env::var_os("MIDRUN_PROJECT_DIR").map(PathBuf::from));
    let name = job.job_id.as_deref().unwrap_or("without an id");
    eprintln!("executor: job {name}, checkpoints under {}", folder.display());
    let begun = Instant::now();
    let ending =
        session::run(&job, &folder, project.as_deref(), &stop, output).map_err(|error| error.to_string())?;
    let word = match ending {
        Ending::Completed => "completed",
        Ending::Stopped => "stopped",
    };
    eprintln!("executor: {word} after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// All of stdin; none when the executor is to stop before it is all there.
fn job_text(stop: &Stop) -> Result<Option<String>, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // Nothing can interrupt a read; the thread ends with the process.
    std::thread::spawn(move || sender.send(read_stdin()));
    let deadline = Instant::now() + JOB_LIMIT;
    while Instant::now() < deadline {
        match receiver.recv_timeout(LOOK) {
            Ok(text) => return text.map(Some).map_err(|error| format!("stdin: {error}")),
            Err(_) if stop.asked() => return Ok(None),
            Err(_) => {}
        }
    }
    Err(format!("no job came on stdin in {} s", JOB_LIMIT.as_secs()))
}

fn read_stdin() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(LARGEST_JOB + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_JOB {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is over {} MiB", LARGEST_JOB >> 20),
        ));
    }
    Ok(text)
}

fn sample() -> i32 {
    let mut output = io::stdout();
    let error = match sample_request(&mut output) {
        Ok(()) => return 0,
        Err(error) => error,
    };
    eprintln!("executor: {error}");
    // When nobody reads, nobody waits for this either.
    let _ = event::write(&mut output, &json!({"error": error}));
    1
}

fn sample_request(output: &mut dyn Write) -> Result<(), String> {
    let text = read_stdin().map_err(|error| format!("stdin: {error}"))?;
    let request: sample::Request =
        serde_json::from_str(&text).map_err(|error| format!("stdin does not hold a request: {error}"))?;
    let mut unheard = None;
    let finish = sample::sample(&request, |character| {
        match event::write(output, &json!({"token": character.to_string()})) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                unheard = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    let reason = match (finish.map_err(|error| error.to_string())?, unheard) {
        (Finish::End, _) => "stop",
        (Finish::Length, _) => "length",
        (Finish::Unwanted, Some(error)) => return Err(format!("nobody reads the text any more: {error}")),
        (Finish::Unwanted, None) => unreachable!("only a failed write breaks off"),
    };
    event::write(output, &json!({"done": true, "finishReason": reason})).map_err(|error| error.to_string())
}
