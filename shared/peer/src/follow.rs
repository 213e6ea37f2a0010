//! A feed of another process, followed into a [`Mirror`] for as long as somebody holds it.
//!
//! What must hold: events come in order and each once, under the positions that their writer gave them; a connection
//! that breaks or falls silent is opened again behind the last of them.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::message::FeedEvent;

use crate::feed::{Feed, Mirror, Position};
use crate::header;
use crate::remote::{Pauses, Remote};
use crate::sse::{Event, Parser};
use crate::ways::{Failed, root_cause};

/// How long an answer's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// A connection that is there for so long is a good one, though there is nothing to say.
const PROOF: Duration = Duration::from_secs(1);
/// A connection that says nothing for so long is broken.
const SILENCE: Duration = header::HEARTBEAT.saturating_mul(3);

/// What one wants of a feed who knows nothing of it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Everything that is still kept: those who read here may know the feed already.
    All,
    /// The snapshot: what was overtaken is not to be acted on again.
    Newest,
}

/// A feed of another process. It is followed until this is dropped.
pub struct Followed<E> {
    feed: Feed<E>,
    task: JoinHandle<()>,
}

impl<E> Drop for Followed<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: FeedEvent> Followed<E> {
    /// Follows the feed of `E` that `remote` offers, from `backlog` on; keeps the newest `capacity` events. Each event is
    /// handed to `prepare` before anybody reads it. Must be called inside a tokio runtime.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new<F>(
        remote: Remote,
        backlog: Backlog,
        capacity: usize,
        mut prepare: impl FnMut(E) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = E> + Send,
    {
        let mirror = Mirror::new(capacity);
        let feed = mirror.feed();
        let task = tokio::spawn(async move {
            let mut pauses = Pauses::default();
            loop {
                match follow(&remote, backlog, &mirror, &mut prepare, &mut pauses).await {
                    Ok(()) => tracing::debug!(feed = E::NAME, "a feed came to its end"),
                    Err(failed) => {
                        tracing::debug!(feed = E::NAME, why = failed.why, "a feed broke");
                        remote.is_away(E::NAME, &failed);
                    }
                }
                tokio::time::sleep(pauses.next()).await;
            }
        });
        Self { feed, task }
    }

    /// A reading end.
    pub fn feed(&self) -> Feed<E> {
        self.feed.clone()
    }
}

async fn follow<E: FeedEvent, F: Future<Output = E>>(
    remote: &Remote,
    backlog: Backlog,
    mirror: &Mirror<E>,
    prepare: &mut impl FnMut(E) -> F,
    pauses: &mut Pauses,
) -> Result<(), Failed> {
    let mut request = remote.request(Method::GET, &["peer", "v1", "feeds", E::NAME]);
    match (mirror.position(), backlog) {
        (Some(at), _) => request = request.header(header::LAST_EVENT_ID, at.to_string()),
        (None, Backlog::Newest) => request = request.header(header::BACKLOG, header::NEWEST),
        (None, Backlog::All) => {}
    }
    let late = || "no answer within 5 s".to_owned();
    let begun = Instant::now();
    let answer = timeout(HEAD, request.send()).await.map_err(|_| late())?;
    let mut response = answer.map_err(|error| Failed::request(&error, begun))?;
    if !response.status().is_success() {
        let status = response.status();
        let said = timeout(HEAD, response.text()).await.ok().and_then(Result::ok).unwrap_or_default();
        return Err(format!("it answered {status}: {}", said.trim()).into());
    }
    remote.note_life(&response);
    let now = response.headers().get(header::NOW).and_then(|now| now.to_str().ok()?.parse().ok());
    if let Some(now) = now {
        mirror.join(&now);
    }
    remote.ways().is_there();
    let mut parser = Parser::default();
    // One that breaks behind its head, again and again, is not well in between.
    let (mut proof, mut is_proven) = (pin!(tokio::time::sleep(PROOF)), false);
    loop {
        let mut is_well = false;
        tokio::select! {
            // What has broken by now was no good one, however late that is seen.
            biased;
            more = read_more(&mut response, &mut parser) => {
                if !more? {
                    return Ok(());
                }
            }
            () = &mut proof, if !is_proven => is_well = true,
        }
        while let Some(event) = parser.next() {
            let Some((at, content, snapshot)) = understand(&event)? else { continue };
            mirror.adopt(&at, prepare(content).await, snapshot);
            is_well = true;
        }
        if is_well && !is_proven {
            is_proven = true;
            remote.ways().is_heard(E::NAME);
            pauses.reset();
        }
    }
}

/// False at the end.
async fn read_more(response: &mut Response, parser: &mut Parser) -> Result<bool, String> {
    let silent = || format!("silent for {} s", SILENCE.as_secs());
    let chunk = timeout(SILENCE, response.chunk()).await.map_err(|_| silent())?;
    let Some(chunk) = chunk.map_err(|error| root_cause(&error))? else { return Ok(false) };
    parser.push(&chunk).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Nothing: an event of a kind that is not known here.
fn understand<E: FeedEvent>(event: &Event) -> Result<Option<(Position, E, bool)>, String> {
    let snapshot = match event.name.as_str() {
        header::EVENT => false,
        header::SNAPSHOT => true,
        _ => return Ok(None),
    };
    let at = event.id.as_deref().and_then(|id| id.parse().ok());
    let at = at.ok_or_else(|| format!("an event of {} has no position", E::NAME))?;
    let content = serde_json::from_str(&event.data)
        .map_err(|error| format!("an event of {} makes no sense: {error}", E::NAME))?;
    Ok(Some((at, content, snapshot)))
}
