//! An event stream that goes on where it broke off.
//!
//! A connection that breaks, falls silent or ends is opened again with the id of the last event that was handed out,
//! for as long as the server is not away for too long. A server that was started anew in the meantime is found again.
//! Only the caller knows which event is the last one; the stream ends by itself only when the server says that
//! nothing follows (204).

use std::time::Duration;

use reqwest::{Method, Response};
use tokio::time::{Instant, timeout};

use super::{Client, ClientError, Refusal};
use peer::sse::{self, Event, Parser};

/// The server says something each 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// How long an answer's head may take.
const HEAD: Duration = Duration::from_secs(15);
/// How long the server may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connection that held this long was a good one, events or not.
const STEADY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One stream.
#[derive(Debug)]
pub(crate) struct Events {
    client: Client,
    path: Vec<String>,
    last: Option<String>,
    open: Option<Connection>,
    patience: Duration,
    absence: Option<Absence>,
}

#[derive(Debug)]
struct Connection {
    response: Response,
    parser: Parser,
    since: Instant,
}

/// How long there has been no event to be had, and what was tried.
#[derive(Debug)]
struct Absence {
    since: Instant,
    pause: Duration,
}

impl Events {
    pub(super) fn new(client: Client, path: Vec<String>) -> Self {
        Self { client, path, last: None, open: None, patience: PATIENCE, absence: None }
    }

    /// The same stream, from behind the event with this id.
    pub(crate) fn behind(mut self, last: impl ToString) -> Self {
        self.last = Some(last.to_string());
        self
    }

    /// The same stream, which bears with a server that is away for no longer than `patience`.
    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether a connection stands, so that silence means that nothing happens.
    pub(crate) const fn is_connected(&self) -> bool {
        self.open.is_some()
    }

    /// The next event; nothing when the server says that nothing follows. Cancel-safe.
    ///
    /// # Errors
    /// When the server refuses, or is away for a minute.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let Some(connection) = &mut self.open else {
                match self.connect().await {
                    Ok(true) => continue,
                    Ok(false) => return Ok(None),
                    Err(error) => {
                        self.pause_after(error).await?;
                        continue;
                    }
                }
            };
            if let Some(event) = connection.parser.next() {
                self.absence = None;
                if let Some(id) = &event.id {
                    self.last = Some(id.clone());
                }
                return Ok(Some(event));
            }
            if let Err(why) = connection.read().await? {
                if connection.since.elapsed() > STEADY {
                    self.absence = None;
                }
                self.open = None;
                let url = self.client.url().to_owned();
                self.pause_after(ClientError::Away { url, why }).await?;
            }
        }
    }

    /// Opens the stream behind the last event; `false` when nothing follows.
    async fn connect(&mut self) -> Result<bool, ClientError> {
        if self.absence.is_some() {
            self.client.find_again();
        }
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        let mut request = self.client.request(Method::GET, &path)?.header("accept", "text/event-stream");
        if let Some(last) = self.last.as_deref().filter(|last| !last.is_empty()) {
            request = request.header("last-event-id", last);
        }
        let response = match timeout(HEAD, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.client.away(&error)),
            Err(_) => {
                let why = format!("nothing within {} s", HEAD.as_secs());
                return Err(ClientError::Away { url: self.client.url().to_owned(), why });
            }
        };
        match response.status().as_u16() {
            204 => Ok(false),
            200 => {
                self.open = Some(Connection { response, parser: Parser::default(), since: Instant::now() });
                Ok(true)
            }
            _ => Err(self.client.refused(response).await),
        }
    }

    /// Waits a moment before the next try, or gives up.
    async fn pause_after(&mut self, error: ClientError) -> Result<(), ClientError> {
        let may_pass = match &error {
            ClientError::Away { .. } => true,
            // Busy, stopping, or between two servers.
            ClientError::Refused(Refusal { status, .. }) => *status == 429 || *status >= 500,
            ClientError::Strange { .. } => false,
        };
        let absence =
            self.absence.get_or_insert_with(|| Absence { since: Instant::now(), pause: FIRST_PAUSE });
        if !may_pass || absence.since.elapsed() + absence.pause > self.patience {
            return Err(error);
        }
        tokio::time::sleep(absence.pause).await;
        absence.pause = (absence.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

impl Connection {
    /// Reads on; the inner error says how the connection came to its end.
    async fn read(&mut self) -> Result<Result<(), String>, ClientError> {
        let chunk = match timeout(SILENCE, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(Err("the stream ended before its last event".to_owned())),
            Ok(Err(error)) => return Ok(Err(super::innermost(&error))),
            Err(_) => return Ok(Err(format!("silent for {} s", SILENCE.as_secs()))),
        };
        let url = || self.response.url().origin().ascii_serialization();
        self.parser.push(&chunk).map(Ok).map_err(|sse::TooLong| ClientError::Strange {
            url: url(),
            why: format!("an event is longer than {} bytes", sse::LONGEST),
        })
    }
}
