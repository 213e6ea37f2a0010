//! Killing things at named places, and looking at what is left.
//!
//! An [`Injection`] says at which failpoint of midrun something is killed, what is killed there, and what the control
//! plane does meanwhile. A [`Lane`] is a project whose server is killed over and over: it makes the place be reached,
//! kills, brings the server back, and checks what must hold whatever died (see [`Lane::inject`]).

mod census;
mod check;
mod disk;
mod injection;
mod lane;
mod lender;
mod log_check;
mod served;
mod trainer;

pub use injection::{Extent, Injection, Outage, Victims, plan};
pub use lane::{Lane, Outcome};
pub use lender::Lender;
