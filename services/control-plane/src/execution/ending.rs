//! What becomes of a job when a life of its executor is over. Pure.

use crate::event::Event;

/// How an executor's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It exited; with the signal that ended it, if one did.
    Exit {
        /// The exit status.
        code: i32,
        /// The signal.
        signal: Option<i32>,
    },
    /// It could not be started; why.
    NotStarted(String),
    /// Its host was killed, and the executor with it.
    HostGone {
        /// This control plane started it, and it has added nothing to the job's history since.
        in_vain: bool,
    },
}

/// What is known besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// The executor reported an end of the job itself.
    pub(super) terminal: bool,
    /// The job is to be cancelled.
    pub(super) cancelled: bool,
    /// The executor was asked to stop, though the job is not over.
    pub(super) asked: bool,
}

/// What becomes of the job.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It is over already: what the executor said stands.
    Stands,
    /// It is over by this event.
    Over(Event),
    /// It goes on in another life.
    Again,
}

/// What becomes of a job whose executor ended like this.
pub(super) fn fate(end: &End, known: Circumstances, stderr_tail: &str) -> Fate {
    let failed = |error: &str| Fate::Over(Event::failed(error));
    match end {
        _ if known.terminal => Fate::Stands,
        _ if known.cancelled => Fate::Over(Event::cancelled()),
        End::NotStarted(why) => failed(&format!("the executor {why}; check the executor setting")),
        End::HostGone { in_vain: true } => failed(
            "the process that hosts the executor was killed before the training came any further; \
             run the trainer again",
        ),
        End::HostGone { in_vain: false } => Fate::Again,
        End::Exit { .. } if known.asked => Fate::Again,
        End::Exit { code, signal } => {
            let exit = match signal {
                Some(signal) => format!("was ended by signal {signal}"),
                None => format!("exited with code {code}"),
            };
            let mut error = format!("the executor {exit} without saying how the training ended");
            if !stderr_tail.trim().is_empty() {
                error.push_str("; its last words were:\n");
                error.push_str(stderr_tail);
            }
            failed(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    fn known(terminal: bool, cancelled: bool, asked: bool) -> Circumstances {
        Circumstances { terminal, cancelled, asked }
    }

    #[test]
    fn every_fate() {
        let ends = [
            End::Exit { code: 1, signal: None },
            End::NotStarted("no".into()),
            End::HostGone { in_vain: true },
            End::HostGone { in_vain: false },
        ];
        let kind = |end: &End, known| match fate(end, known, "") {
            Fate::Over(event) => Some(event.kind),
            Fate::Stands => panic!("nothing was said"),
            Fate::Again => None,
        };
        for end in &ends {
            for (cancelled, asked) in [(false, false), (false, true), (true, false), (true, true)] {
                assert_eq!(fate(end, known(true, cancelled, asked), ""), Fate::Stands);
            }
            assert_eq!(kind(end, known(false, true, true)), Some(EventKind::Cancelled));
        }
        let failed = Some(EventKind::Failed);
        assert_eq!(
            ends.each_ref().map(|end| kind(end, known(false, false, false))),
            [failed, failed, failed, None]
        );
        assert_eq!(kind(&ends[0], known(false, false, true)), None, "another life goes on with it");
    }

    #[test]
    fn a_failure_says_how_and_gives_the_last_words() {
        let error = |end: End| match fate(&end, known(false, false, false), "Traceback\nValueError: no") {
            Fate::Over(event) => event.error().expect("a reason").to_owned(),
            other => panic!("{other:?}"),
        };
        let exited = error(End::Exit { code: 3, signal: None });
        assert!(
            exited.contains("exited with code 3") && exited.ends_with("Traceback\nValueError: no"),
            "{exited}"
        );
        assert!(error(End::Exit { code: 137, signal: Some(9) }).contains("was ended by signal 9"));
        assert!(error(End::NotStarted("x is not there".into())).contains("executor setting"));
    }
}
