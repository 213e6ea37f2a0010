//! How a job that an executor left without a terminal event ends. Pure.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use crate::event::Event;

/// What an executor was last asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Train to the end.
    Train,
    /// Save and exit, because the job is cancelled.
    Cancel,
    /// Save and exit, because the control plane goes down; the job is not over.
    Suspend,
}

/// The event that ends a job whose executor has exited, if the job is over.
///
/// `terminal` says that the executor reported an end itself, which then stands.
pub(crate) fn ending(terminal: bool, intent: Intent, exit: &str, stderr_tail: &str) -> Option<Event> {
    match intent {
        _ if terminal => None,
        Intent::Suspend => None,
        Intent::Cancel => Some(Event::cancelled()),
        Intent::Train => {
            let mut error = format!("the executor {exit} without saying how the training ended");
            if !stderr_tail.trim().is_empty() {
                error.push_str("; its last words were:\n");
                error.push_str(stderr_tail);
            }
            Some(Event::failed(&error))
        }
    }
}

/// An exit in words that follow "the executor".
pub(crate) fn describe(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[test]
    fn every_ending() {
        let kind = |terminal, intent| ending(terminal, intent, "exited with code 1", "").map(|e| e.kind);
        for intent in [Intent::Train, Intent::Cancel, Intent::Suspend] {
            assert_eq!(kind(true, intent), None, "what the executor said stands");
        }
        assert_eq!(kind(false, Intent::Train), Some(EventKind::Failed));
        assert_eq!(kind(false, Intent::Cancel), Some(EventKind::Cancelled));
        assert_eq!(kind(false, Intent::Suspend), None, "the next life goes on with it");
    }

    #[test]
    fn a_failure_says_how_and_gives_the_last_words() {
        let exit = describe(ExitStatus::from_raw(3 << 8));
        let event = ending(false, Intent::Train, &exit, "Traceback\nValueError: no").expect("a failure");
        let error = event.error().expect("a reason");
        assert!(
            error.contains("exited with code 3") && error.ends_with("Traceback\nValueError: no"),
            "{error}"
        );
        assert_eq!(describe(ExitStatus::from_raw(9)), "was ended by signal 9");
    }
}
