//! Trains one job for real: a small decoder-only transformer over characters, on the CPU.
//!
//! This is the control plane's `builtin` executor, the process `midrun executor`. Everything that it needs to know
//! comes in, and everything that it did goes out, by the lines below; it knows no control plane and no network. Any
//! other program that speaks the same lines can stand in its place: the setting
//! `controlPlane.executor = ["python", "train.py"]`.
//!
//! # Training: `midrun executor`
//!
//! **Stdin** is one JSON object, then the end:
//!
//! ```json
//! {"jobId": "…", "config": {"model": "tiny-gpt", …}, "resumeFrom": {"dir": "…/checkpoints/step-500", "step": 500}}
//! ```
//!
//! `resumeFrom` may be `null` or absent. `projectDir` may say what a relative path of the dataset is relative to. An
//! object without `config` is taken as the config itself, for a person at a terminal.
//!
//! **Environment**: `MIDRUN_JOB_DIR`, where the folder `checkpoints` goes; `MIDRUN_PROJECT_DIR`, for `projectDir`.
//!
//! **Stdout** is one [`Event`](event::Event) a line: `training.started`, then `training.log` and `checkpoint.saved`, then
//! `training.completed` or `training.failed`. Logs go to stderr.
//!
//! `training.started` carries what a later run needs to know before it goes on from a checkpoint of this one:
//! `resumableKeys`, the keys of the config that may differ then, and `config`, the one in effect, defaults included. When
//! this run itself goes on from a checkpoint, `resumedFrom` is its step. A config that differs in any other key is
//! refused by `training.failed`, which names the key: nothing that was edited is ignored.
//!
//! **SIGTERM** (and SIGINT): the step under way is finished, a checkpoint is saved and announced, the last line is
//! `{"type":"executor.stopped","step":N,"checkpoint":N}`, the exit code 0. Whether that means cancelled or
//! suspended, the sender knows.
//!
//! **Exit codes**: 0 completed or stopped, 1 failed (after `training.failed`), 2 wrong arguments.
//!
//! # Sampling: `midrun executor --sample`
//!
//! Stdin is a [`sample::Request`], `{"checkpointDir", "prompt", "temperature", "topP", "maxTokens"}`. Stdout is
//! `{"token":"4"}` for each character, then `{"done":true,"finishReason":"stop"}` (or `"length"`), or
//! `{"error":"…"}` with exit code 1.
//!
//! # The config
//!
//! [`config::JobConfig`] says what each key means and what it is by default. Unknown keys are an error, not a
//! guess. `model` is `tiny-gpt` or `tiny-gpt:WIDTHxLAYERS`. `datasetSource` is one of
//!
//! ```json
//! {"type": "inline", "data": "27+15=42\n3+4=7", "answerAfter": "="}
//! {"type": "blob", "url": "file:///data/addition.jsonl", "sha256": "…"}
//! ```
//!
//! with `format` `lines` (default; each line an example, learned from after `answerAfter`, or whole) or `jsonl`
//! (default for `.jsonl`; each line `{"prompt","completion"}` or `{"text"}`). Why inline is the first choice:
//! [`dataset`]. A tenth of the different examples, at most 1,000, is held out and never trained on.
//!
//! # What holds
//!
//! * A run's weights are a function of its config, its dataset and the number of steps, bit for bit: not of the time,
//!   of the number of threads, of logging, or of how often it was stopped and resumed.
//! * A folder `checkpoints/step-N` is complete, and `checkpoint.saved` comes after it is.
//! * Only the keys in [`RESUMABLE_KEYS`] may differ between a checkpoint and the run that goes on from it.

pub mod checkpoint;
pub mod config;
pub mod dataset;
pub mod event;
pub mod job;
mod model;
mod ops;
mod optimizer;
mod process;
mod random;
pub mod sample;
pub mod schedule;
pub mod session;
pub mod stop;
pub mod tokenizer;
mod trainer;

pub use config::{KEYS, RESUMABLE_KEYS};
pub use process::main;
