//! The set of runs, the dispatch decision, restarts.
//!
//! # Theory of operation
//!
//! ```text
//!  rebuilds (feed) ---+
//!  requests (inboxes) +--> registry (actor) --> fleet (pure) --> effects --> registry carries them out
//!  host records ------+                                                       |  signals: over the host's socket
//!                                                                             |  starts: a run-host process
//!                                                                             +--> dev-events (feed)
//! ```
//!
//! [`fleet`] is a pure state machine: it is told what happened and answers with what is to be done. [`dispatch`] is
//! the decision for one run, a pure function; so is [`resume`], which says where a successor starts. The actor in
//! [`service`] takes requests; [`registry`] feeds the fleet and carries its effects out; neither knows a rule. [`launch`]
//! starts a run-host, and `hosting` follows it; [`orders`] has files watched that runs were started from by name.
//!
//! A successor goes on from the checkpoint that its predecessor's early stop waited for, if the config changed only in
//! keys that the executor declared resumable. The executor declares them when training starts; that comes through the
//! trainer and its runner into the run's log, so the registry need not ask a control plane, and a later server knows.
//!
//! A run's log is the truth about it: a host writes a record before it tells of it, so a link that broke is made
//! whole by reading the log on from the last record seen. What the log does not say (what the run was started with,
//! what was decided about it) is in the durable table [`store`], before anything is done about it. A registry that
//! starts takes up the runs of the one before from these two: it follows the hosts that live, learns how the others
//! ended, and does what was decided and not done. A run whose host cannot be found is claimed (see `runlog::claim`),
//! so that a host which was spawned and has not come so far starts nothing that nobody knows of.
//!
//! ```text
//!            +--------- user's stop waits -----------+
//!            |                                       v
//!  start -> Starting --ready--> Running --rebuild--> EarlyStopping --exit 0--> Restarting --good build--> Ended
//!                                 |  ^ hot swaps         |                        |                     (replaced)
//!                                 |  +-- stay here       +--exit != 0--> Ended    +--user's stop--> Ended
//!                                 +--stop now--> Stopping --exit--> Ended
//!                                 +--host: alone for too long--> EarlyStopping --exit--> Ended (reaped)
//! ```
//!
//! A run that belongs to a request is restarted by that request's client, if it is there: between `exit 0` and
//! `Restarting` stands `Unclaimed`, where the request claims the run (`ClaimRun`), which ends it, or does not in time, and
//! the registry restarts it.
//!
//! What a server that is gone left behind is ended by [`reap`], and by the same code in a registry that runs.

mod account;
mod dispatch;
mod entry;
mod fleet;
mod launch;
mod log;
mod orders;
mod origin;
mod reaper;
mod registry;
mod resume;
mod run_state;
mod service;
mod settings;
mod store;

pub use dispatch::Policy;
pub use reaper::{JobCancel, Reaped, Report, Scope, Skipped, reap, reap_hosted};
pub use resume::RestartFrom;
pub use service::{Handle, Peers, start};
pub use settings::Settings;
