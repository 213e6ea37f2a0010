//! The log of a run or of a terminal session, read page by page.
//!
//! A reader asks for the next page when it has passed on the one before, so nothing is queued for a slow client.
//! A registry that is away for a while is asked again.

use std::time::Duration;

use peer::{AskError, Peer};
use tokio::time::Instant;
use wire::run::{LogPage, ReadLog};
use wire::terminal::ReadTerminal;
use wire::{RunId, TerminalId, TraceContext, Wire};

use crate::edge::BUDGET;
use crate::failure::Failure;

/// How long one request waits for the log to grow.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a page begins, how long it may be and how long it may be waited for.
pub(crate) struct Place {
    after: u64,
    hint: Option<u64>,
    max_bytes: u32,
    wait_ms: u32,
}

/// A request for a page of a log.
pub(crate) trait Pages: Wire<Reply = LogPage> {
    /// Names what has the log.
    type Id: Clone;

    fn page(of: Self::Id, place: Place) -> Self;
}

impl Pages for ReadLog {
    type Id = RunId;

    fn page(run: RunId, Place { after, hint, max_bytes, wait_ms }: Place) -> Self {
        Self { run, after, hint, max_bytes, wait_ms }
    }
}

impl Pages for ReadTerminal {
    type Id = TerminalId;

    fn page(terminal: TerminalId, Place { after, hint, max_bytes, wait_ms }: Place) -> Self {
        Self { terminal, after, hint, max_bytes, wait_ms }
    }
}

/// One reader's place in a log.
pub(crate) struct LogReader<M: Pages> {
    peer: Peer<M>,
    of: M::Id,
    after: u64,
    hint: Option<u64>,
    page_bytes: u32,
    patience: Duration,
    ended: bool,
}

impl<M: Pages> LogReader<M>
where
    AskError<M::Refusal>: Into<Failure>,
{
    /// Reads the log of `of` behind record `after`, about `page_bytes` at a time; bears with a registry that is away
    /// for as long as `patience`.
    pub(crate) fn new(peer: Peer<M>, of: M::Id, after: u64, page_bytes: u32, patience: Duration) -> Self {
        Self { peer, of, after, hint: None, page_bytes, patience, ended: false }
    }

    /// What is there already, at most a page of it; asks once.
    pub(crate) async fn first(&mut self) -> Result<LogPage, Failure> {
        self.look(Duration::ZERO).await
    }

    /// Asks once for the next page, which is empty when nothing comes within `wait`. Cancel-safe.
    pub(crate) async fn look(&mut self, wait: Duration) -> Result<LogPage, Failure> {
        let page = self.ask(wait).await.map_err(Into::into)?;
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

    async fn ask(&self, wait: Duration) -> Result<LogPage, AskError<M::Refusal>> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let place = Place { after: self.after, hint: self.hint, max_bytes: self.page_bytes, wait_ms };
        let message = M::page(self.of.clone(), place);
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
