//! The HTTP edge: auth, REST, SSE fan-out, Studio.
//!
//! It owns no state that another part owns and sends no signals: what it knows of runs and builds it asks the
//! registry for, and what it knows of jobs it asks the control plane for. What is its own:
//!
//! - **Who may ask.** Every request needs an allowed host, everything below `/api` the token.
//! - **Streams.** Development events, runs' logs, trainers' output, jobs' events; and all that one tab watches in one
//!   stream (`GET /api/events`, documented in the module `tab`). Nothing is queued for a client: each stream reads
//!   its source at the client's pace, a client that stops reading is dropped by the system, and one that comes back
//!   goes on behind `Last-Event-ID`.
//! - **What is wrong.** While a service is away or being restarted, `/readyz` is 503 and names it, why, and since when;
//!   the topic `troubles` of `GET /api/events` tells the same to every tab as it changes.
//! - **The leash.** A run that was started by `POST /api/train` ends with its request, however that ends. Once the run has
//!   ended it is claimed, so that its client alone starts the next.
//!
//! # Routes
//!
//! Everything below `/api` needs the token: in `X-Midrun-Token`, or for a `GET` of a path that ends in `/events` in
//! `?token=`. A "no" is `{"error": "…"}` with its status, and more keys where a program may want them.
//!
//! | route | |
//! |---|---|
//! | `GET /`, `/FILE` | Studio |
//! | `GET /healthz`, `/readyz`, `/metrics` | that it lives, that it can do its work (503 names what is wrong), counters |
//! | `GET /api/manifest` | what a run of the project's own entry would be: `{entry, trainer: {name} \| null, config, configHash, callbacks, canSwap, buildId, contentHash}`; `entry` is its path below the project's folder. 400 with `diagnostics` while the build fails, 503 before the first one |
//! | `GET /api/events?topics=…` | all that one tab watches, in one stream: the topics `dev`, `run:ID`, `job:ID`, `jobs`, `terminal:ID`, `troubles`, `usage:RUN`, at most 64. A frame is `{topic, event, id?, past?, data}`. Positions go in `Last-Event-ID: TOPIC~POSITION,…`. The module `tab` says what each topic tells and how to go on in each |
//! | `GET /api/dev/events` | builds, decisions, swaps and runs, as they happen |
//! | `GET`, `POST /api/runs` | list; start `{file?, wait?, timeoutMs?}` |
//! | `GET /api/runs/ID`, `…/events` | one run; its log as a stream |
//! | `POST /api/runs/ID/stop` | `{mode: "checkpoint" \| "now", reason?}`; a restart that waits is called off by either |
//! | `POST /api/train` | a run that ends with this request; its output is the answer |
//! | `GET`, `POST /api/terminals` | list; open `{name?, shell?, cwd?, rows?, columns?}` |
//! | `GET`, `DELETE /api/terminals/ID` | one session; end it |
//! | `GET /api/terminals/ID/events?after=SEQ` | its log as a stream |
//! | `POST /api/terminals/ID/input` | the body is typed, at most 64 KiB; 429 is "not processed" |
//! | `POST /api/terminals/ID/resize` | `{rows, columns}` |
//! | `POST /api/terminals/ID/run` | `{command, id?, wait?, timeoutMs?}`: has its shell run a command, and waits for its end |
//! | `GET /api/jobs`, `/api/jobs/brief` | the control plane's jobs, `?limit=&cursor=`; without their configs |
//! | `GET /api/jobs/ID?events=N` | one job with its newest `N` events, 200 when nothing is said |
//! | `GET /api/jobs/ID/events` | its events as a stream |
//! | `GET /api/jobs/ID/series?axis=step\|time&from=&to=&buckets=&statistics=true` | its losses, thinned out for a chart |
//! | `GET /api/jobs/ID/points` | every point of them, as CSV |
//! | `POST /api/jobs/ID/cancel` | cancels it |
//! | `GET /api/cancels` | cancels that are not settled |
//! | `POST /api/inference/chat` | asks a model of the control plane |
//! | `GET /api/credentials`, `/api/me` | where the control plane is, and as whom the server acts there; never its secret |
//!
//! What a job's routes answer is the control plane's own answer, passed on.
//!
//! [`Gateway::new`] takes [`Settings`] and [`Peers`]; [`Gateway::serve`] takes a listener and gives a [`Handle`].

mod admission;
mod body;
mod broadcast;
mod dev_events;
mod edge;
mod failure;
mod health;
mod lifecycle;
mod log_reader;
mod metrics;
mod page;
mod run_events;
mod runs;
mod serve;
mod settings;
mod stopper;
mod tab;
mod terminal_events;
mod terminals;
mod token;
mod traced;
mod train;
mod upstream;

pub use edge::{Peers, TerminalPeers};
pub use metrics::descriptions;
pub use page::Assets;
pub use serve::{Gateway, Handle};
pub use settings::{Limits, Settings, SettingsError};
