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
//! - **The leash.** A run that was started by `POST /api/train` ends with its request, however that ends.
//!
//! [`Gateway::new`] takes [`Settings`] and [`Peers`]; [`Gateway::serve`] takes a listener and gives a [`Handle`].

mod admission;
mod body;
mod broadcast;
mod dev_events;
mod edge;
mod failure;
mod guard;
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
mod traced;
mod train;
mod upstream;

pub use edge::{Peers, TerminalPeers};
pub use metrics::descriptions;
pub use page::Assets;
pub use serve::{Gateway, Handle};
pub use settings::{Limits, Settings, SettingsError};
