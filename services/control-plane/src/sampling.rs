//! One inference: an executor process that samples a checkpoint, token by token.
//!
//! It runs beside the request that asked for it, bounded in number and in time. When the asker goes, so does it.

use std::sync::Arc;
use std::time::Duration;

use process::Marker;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::core::Core;
use crate::execution::{self, Executor, Lines, Pipes};
use crate::refusal::Refusal;

/// Tokens that wait for the asker; past it, the process waits.
const WAITING: usize = 64;
const LINE_BYTES: usize = 64 * 1024;
/// How long a process that ended may keep what it wrote last.
const TAIL_LIMIT: Duration = Duration::from_secs(1);
/// How long the asker may take until there is room for the last word.
const WORD_LIMIT: Duration = Duration::from_secs(60);

/// What the process reads on its stdin.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SampleRequest {
    pub(crate) checkpoint_dir: String,
    pub(crate) prompt: String,
    pub(crate) temperature: f64,
    pub(crate) top_p: f64,
    pub(crate) max_tokens: u32,
}

/// A line of its stdout.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SampleLine {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// What the asker hears.
#[derive(Debug)]
pub(crate) enum Sampled {
    Token(String),
    /// All tokens came; why there are no more, if that was said.
    Done(Option<String>),
}

/// Starts to sample. The last item is [`Sampled::Done`] or a refusal.
pub(crate) fn start(core: &Arc<Core>, request: SampleRequest) -> mpsc::Receiver<Result<Sampled, Refusal>> {
    let (tx, rx) = mpsc::channel(WAITING);
    let sampling = sample(core.clone(), request, tx);
    core.tasks.spawn_on(sampling, &core.runtime);
    rx
}

async fn sample(core: Arc<Core>, request: SampleRequest, tx: mpsc::Sender<Result<Sampled, Refusal>>) {
    let deadline = Instant::now() + core.settings.sample_limit;
    let turn = tokio::select! {
        turn = timeout_at(deadline, core.samples.clone().acquire_owned()) => turn,
        () = tx.closed() => return,
    };
    let Ok(Ok(turn)) = turn else {
        return say(&tx, Err(Refusal::Busy("too many inferences are under way; try again"))).await;
    };
    let setting = &core.settings.executor;
    let marker = Marker { name: "MIDRUN_SAMPLE".to_owned(), value: uuid::Uuid::new_v4().to_string() };
    let (mut executor, Pipes { stdin, stdout, stderr }) =
        match Executor::start(setting, &setting.sample_args, marker).await {
            Ok(started) => started,
            Err(error) => {
                let text = format!("the executor {} cannot be started: {error}", setting.program.display());
                return say(&tx, Err(Refusal::Executor(text))).await;
            }
        };
    let mut order = serde_json::to_vec(&request).expect("strings and numbers always serialise");
    order.push(b'\n');
    let feeding = tokio::spawn(execution::feed(stdin, order));
    let tail = tokio::spawn(execution::tail(stderr));
    let heard = tokio::select! {
        heard = timeout_at(deadline, relay(Lines::new(stdout, LINE_BYTES), &tx)) => {
            heard.unwrap_or(Heard::Nothing("took too long"))
        }
        () = tx.closed() => Heard::Nothing("is not wanted any more"),
        () = core.closing.cancelled() => Heard::Nothing("was stopped: the control plane goes down"),
    };
    // Whatever it still does is of no use.
    executor.kill().await;
    let exit = executor.wait().await;
    feeding.abort();
    // An asker that takes its time keeps nobody else waiting.
    drop(turn);
    let last = match heard {
        Heard::Done(reason) => Ok(Sampled::Done(reason)),
        Heard::Refused(text) => Err(Refusal::Unsamplable(text)),
        Heard::Nothing(why) => Err(Refusal::Executor(format!("sampling {why}"))),
        Heard::Silence => {
            let exit = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
            // What it left behind may hold its stderr.
            let tail = timeout(TAIL_LIMIT, tail).await.ok().and_then(Result::ok).unwrap_or_default();
            Err(Refusal::Executor(format!("the executor ended before it was done ({exit}): {tail}")))
        }
    };
    say(&tx, last).await;
}

/// The last word. Who does not take it has stopped to listen.
async fn say(tx: &mpsc::Sender<Result<Sampled, Refusal>>, word: Result<Sampled, Refusal>) {
    let _ = tx.send_timeout(word, WORD_LIMIT).await;
}

/// How a sampling process ended its say.
enum Heard {
    Done(Option<String>),
    /// It gave this error.
    Refused(String),
    /// Its stdout ended too early.
    Silence,
    /// It was cut short.
    Nothing(&'static str),
}

async fn relay(
    mut lines: Lines<tokio::process::ChildStdout>,
    tx: &mpsc::Sender<Result<Sampled, Refusal>>,
) -> Heard {
    while let Ok(Some(line)) = lines.next().await {
        // A line that is none of ours says nothing about the sample.
        let Ok(line) = serde_json::from_slice::<SampleLine>(&line.bytes) else { continue };
        if let Some(error) = line.error {
            return Heard::Refused(error);
        }
        if let Some(token) = line.token
            && tx.send(Ok(Sampled::Token(token))).await.is_err()
        {
            return Heard::Nothing("is not wanted any more");
        }
        if line.done {
            return Heard::Done(line.finish_reason);
        }
    }
    Heard::Silence
}
