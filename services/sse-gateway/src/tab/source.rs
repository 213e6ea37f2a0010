//! What a topic's events come from: whether it can be asked at the moment, and when it is asked again.
//!
//! What must hold: a topic ends only when its source refuses what was asked for. A source that is away, is being
//! restarted, has no room or takes too long is asked again for as long as the tab is there.

use std::time::Duration;

use super::Said;
use crate::failure::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The source of one topic.
pub(super) struct Source {
    pub(super) topic: String,
    state: State,
}

enum State {
    /// It was not heard of since the stream was opened.
    Unasked,
    Answers,
    /// It did not answer, and is left alone for as long before it is asked again.
    Away(Duration),
}

/// What a failure means for the topic.
pub(super) enum Lost {
    /// It is over, and this is to be said.
    ForGood(Said),
    /// It is asked again. This is to be said when it is news.
    ForNow(Option<Said>),
}

impl Source {
    pub(super) fn new(topic: String) -> Self {
        Self { topic, state: State::Unasked }
    }

    /// Waits until it may be asked. Cancel-safe.
    pub(super) async fn turn(&self) {
        if let State::Away(pause) = self.state {
            tokio::time::sleep(pause).await;
        }
    }

    /// It answered. Gives what is to be said of that.
    pub(super) fn answered(&mut self) -> Option<Said> {
        let before = std::mem::replace(&mut self.state, State::Answers);
        (!matches!(before, State::Answers)).then(|| Said::about(&self.topic, "topic.open", None))
    }

    /// It did not do what it was asked for.
    pub(super) fn failed(&mut self, failure: &Failure) -> Lost {
        if failure.is_final() {
            return Lost::ForGood(Said::about(&self.topic, "topic.missing", Some(failure.message())));
        }
        if let State::Away(pause) = &mut self.state {
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            return Lost::ForNow(None);
        }
        self.state = State::Away(FIRST_PAUSE);
        Lost::ForNow(Some(Said::about(&self.topic, "topic.away", Some(failure.message()))))
    }
}
