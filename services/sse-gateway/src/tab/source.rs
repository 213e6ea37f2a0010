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
    /// While it is away: how long it is left alone before it is asked again.
    pause: Option<Duration>,
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
        Self { topic, pause: None }
    }

    /// Waits until it may be asked. Cancel-safe.
    pub(super) async fn turn(&self) {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
        }
    }

    /// It answered. Gives what is to be said of that.
    pub(super) fn answered(&mut self) -> Option<Said> {
        self.pause.take().map(|_| Said::about(&self.topic, "topic.open", None))
    }

    /// It did not do what it was asked for.
    pub(super) fn failed(&mut self, failure: &Failure) -> Lost {
        if failure.is_final() {
            return Lost::ForGood(Said::about(&self.topic, "topic.missing", Some(failure.message())));
        }
        let said = match self.pause {
            Some(pause) => {
                self.pause = Some((pause * 2).min(LONGEST_PAUSE));
                None
            }
            None => {
                self.pause = Some(FIRST_PAUSE);
                Some(Said::about(&self.topic, "topic.away", Some(failure.message())))
            }
        };
        Lost::ForNow(said)
    }
}
