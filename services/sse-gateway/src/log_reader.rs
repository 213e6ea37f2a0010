//! A run's log, read page by page.
//!
//! A reader asks for the next page when it has passed on the one before, so nothing is queued for a slow client.
//! A registry that is away for a while is asked again.

use std::time::Duration;

use peer::{AskError, Peer};
use tokio::time::Instant;
use wire::run::{LogPage, ReadLog};
use wire::{RunId, TraceContext};

use crate::edge::BUDGET;
use crate::failure::Failure;

/// How long one request waits for the log to grow.
const WAIT: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One reader's place in a run's log.
pub(crate) struct LogReader {
    peer: Peer<ReadLog>,
    run: RunId,
    after: u64,
    hint: Option<u64>,
    page_bytes: u32,
    patience: Duration,
    ended: bool,
}

impl LogReader {
    /// Reads `run`'s log behind record `after`, about `page_bytes` at a time; bears with a registry that is away
    /// for as long as `patience`.
    pub(crate) fn new(
        peer: Peer<ReadLog>,
        run: RunId,
        after: u64,
        page_bytes: u32,
        patience: Duration,
    ) -> Self {
        Self { peer, run, after, hint: None, page_bytes, patience, ended: false }
    }

    /// What is there already, at most a page of it; asks once.
    pub(crate) async fn first(&mut self) -> Result<LogPage, Failure> {
        let page = self.ask(Duration::ZERO).await?;
        self.note(&page);
        Ok(page)
    }

    /// The next page with a record in it, or the last one. Nothing: the last one was read. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<LogPage>, Failure> {
        let mut give_up = None;
        let mut pause = FIRST_PAUSE;
        while !self.ended {
            match self.ask(WAIT).await {
                Ok(page) => {
                    self.note(&page);
                    if page.ended || !page.records.is_empty() {
                        return Ok(Some(page));
                    }
                    give_up = None;
                    pause = FIRST_PAUSE;
                }
                Err(error) if matches!(error, AskError::Refused(_)) => return Err(error.into()),
                Err(error) => {
                    let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.patience);
                    if Instant::now() + pause >= give_up {
                        return Err(error.into());
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(None)
    }

    async fn ask(&self, wait: Duration) -> Result<LogPage, AskError<wire::run::RunRefusal>> {
        let message = ReadLog {
            run: self.run.clone(),
            after: self.after,
            hint: self.hint,
            max_bytes: self.page_bytes,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        self.peer.ask_within(message, TraceContext::default(), wait + BUDGET).await
    }

    fn note(&mut self, page: &LogPage) {
        if let Some(last) = page.records.last() {
            self.after = last.seq;
        }
        self.hint = Some(page.hint);
        self.ended = page.ended;
    }
}
