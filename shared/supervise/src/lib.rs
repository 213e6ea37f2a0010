//! Restart of a failed part by factory, and the ordered and bounded end of all parts.
//!
//! A part is what does one service's work: an actor and its tasks, a thread, a loop. It fails when any of these panics,
//! because nobody knows then what became of the state that they share. So a part lives in a [`Life`]: everything that
//! belongs to it is started there, ends with it, and a [`Part`] makes the next life by the factory that made the first,
//! after a pause that grows. A part that is one future and nothing else needs only [`keep`].
//!
//! ```text
//!  factory --> Life: actor, tasks, inboxes pointed --panic--> inboxes refuse, tasks aborted, farewells
//!     ^                                                              |
//!     +------------------ pause: 100 ms, doubling to 10 s -----------+--5 panics within a minute--> stays down
//! ```
//!
//! What must hold: from the moment of a panic nothing of that life does anything more; while there is none, messages are
//! refused at once as not delivered, with the reason; the same inboxes and the same feeds lead to the next life; what is
//! wrong is known to whoever looks ([`Condition`]); and the process goes on, whatever becomes of the part.
//!
//! Handlers that need time answer with [`Life::answering`]: the futures that actix takes run beside the actor and outlive it.
//!
//! A part that cannot start because of its surroundings (a disk that is full) is tried again for as long as it takes.
//! Only panics count towards staying down.

mod condition;
mod ending;
mod keep;
mod life;
mod part;
mod patience;

pub use condition::Condition;
pub use ending::Ending;
pub use keep::keep;
pub use life::{Alarm, Answering, Beginning, Life};
pub use part::Part;
pub use patience::Policy;

use std::any::Any;
use std::time::Duration;

/// Between two looks at whether a test still holds what failed.
const LOOK: Duration = Duration::from_millis(10);

/// The pause before the next life.
pub(crate) async fn pass(pause: Duration) {
    tokio::time::sleep(pause).await;
    while failpoint::is_held() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Why a life ended before it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Something in it panicked, with these words.
    Panic(String),
    /// It cannot do its work, for this reason.
    Error(String),
}

impl Failure {
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panic(text.unwrap_or_else(|| "it panicked".to_owned()))
    }

    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Panic(words) | Self::Error(words) => words,
        }
    }
}
