//! The log behind a topic, followed for as long as the tab is there.

use std::time::Duration;

use peer::AskError;
use wire::log::Record;
use wire::run::LogPage;

use super::Said;
use super::source::{Lost, Source};
use crate::failure::Failure;
use crate::log_reader::{LogReader, Pages, WAIT};

pub(super) const PAGE_BYTES: u32 = 64 * 1024;

/// One tab's place in a log.
pub(super) struct Log<M: Pages> {
    reader: LogReader<M>,
    source: Source,
    /// When this reading began. What was written before is past, until all that was there has been read.
    since: Option<String>,
    held: Option<LogPage>,
}

/// What comes next of a log.
pub(super) enum Part {
    /// Something about the topic itself.
    About(Said),
    /// The same, and nothing will follow.
    Over(Said),
    Page(Page),
}

/// The next records.
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) ended: bool,
    since: Option<String>,
}

impl Page {
    /// Whether `record` was written before anybody watched.
    pub(super) fn is_past(&self, record: &Record) -> bool {
        self.since.as_ref().is_some_and(|since| record.ts < *since)
    }
}

impl<M: Pages> Log<M>
where
    AskError<M::Refusal>: Into<Failure>,
{
    pub(super) fn new(reader: LogReader<M>, topic: String) -> Self {
        Self { reader, source: Source::new(topic), since: Some(wire::now()), held: None }
    }

    pub(super) fn topic(&self) -> &str {
        &self.source.topic
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Part {
        loop {
            let page = match self.held.take() {
                Some(page) => page,
                None => match self.look().await {
                    Ok(page) => page,
                    Err(Some(part)) => return part,
                    Err(None) => continue,
                },
            };
            if page.records.is_empty() {
                self.since = None;
            }
            if page.ended || !page.records.is_empty() {
                let since = self.since.clone();
                return Part::Page(Page { records: page.records, ended: page.ended, since });
            }
        }
    }

    /// Asks once. No page: perhaps something is to be said of that.
    async fn look(&mut self) -> Result<LogPage, Option<Part>> {
        self.source.turn().await;
        // What is there already is asked for without waiting, so that its end is seen.
        let wait = if self.since.is_some() { Duration::ZERO } else { WAIT };
        match self.reader.look(wait).await {
            Ok(page) => match self.source.answered() {
                Some(said) => {
                    self.held = Some(page);
                    Err(Some(Part::About(said)))
                }
                None => Ok(page),
            },
            Err(failure) => {
                let lost = self.source.failed(&failure);
                // Who comes back was away too.
                self.since = Some(wire::now());
                Err(match lost {
                    Lost::ForGood(said) => Some(Part::Over(said)),
                    Lost::ForNow(said) => said.map(Part::About),
                })
            }
        }
    }
}
