//! How far an event stream is read: to its end, or as far as there is something now.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout};

use crate::client::{ClientError, Event, Events};

/// A stream that says nothing for so long has told what there was.
const QUIET: Duration = Duration::from_secs(1);
/// How long the first event may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long what there is may take to come; ends a reading whose source has a clock of its own and never rests.
const ALL: Duration = Duration::from_secs(60);

/// An event stream that is read so far and no further.
#[derive(Debug)]
pub(crate) struct Reading {
    events: Events,
    until: Until,
}

#[derive(Debug)]
enum Until {
    End,
    Now { asked: jiff::Timestamp, until: Instant, begun: bool },
}

/// When an event happened, by whichever name its stream has for that.
#[derive(Debug, Deserialize)]
struct Moment {
    #[serde(alias = "ts")]
    timestamp: Option<jiff::Timestamp>,
}

impl Reading {
    /// Reads to the end, whenever that comes.
    pub(crate) const fn to_the_end(events: Events) -> Self {
        Self { events, until: Until::End }
    }

    /// Reads what has happened up to now. No stream marks that place: it is where an event is newer than the
    /// question, or where nothing comes for a second.
    pub(crate) fn up_to_now(events: Events) -> Self {
        Self {
            events,
            until: Until::Now { asked: jiff::Timestamp::now(), until: Instant::now() + ALL, begun: false },
        }
    }

    /// The next event; nothing where the reading ends.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let Until::Now { asked, until, begun } = &mut self.until else { return self.events.next().await };
        let quiet = if *begun { QUIET } else { FIRST };
        if Instant::now() > *until {
            return Ok(None);
        }
        let event = loop {
            match timeout(quiet, self.events.next()).await {
                Ok(event) => break event?,
                Err(_) if self.events.is_connected() => return Ok(None),
                Err(_) => {}
            }
        };
        *begun = true;
        let newer = |event: &Event| {
            let moment = serde_json::from_str(&event.data).ok().and_then(|Moment { timestamp }| timestamp);
            moment.is_some_and(|moment| moment > *asked)
        };
        Ok(event.filter(|event| !newer(event)))
    }
}
