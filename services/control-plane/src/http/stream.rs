//! A job's events as they come, over SSE.
//!
//! A stream holds a position and one page; all else stays in the database until the client has taken what it was
//! given. It follows the head before its first read, so nothing falls between reading and waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, Responder, web};
use actix_web_lab::sse::{Data, Event, Sse};
use futures_util::stream::{self, Stream};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::caller::Scope;
use super::jobs;
use crate::core::Core;
use crate::event;
use crate::heads::Follower;
use crate::job::Job;
use crate::refusal::Refusal;
use crate::store::StoredEvent;

/// Events read at once.
const PAGE: i64 = 100;
const RETRY: Duration = Duration::from_millis(1000);

/// `GET /v1/jobs/ID/events/stream`.
pub(super) async fn events(
    core: Shared,
    Scope(project): Scope,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<impl Responder, Refusal> {
    let after = last_event_id(&request)?;
    let job = jobs::find(&core, &project.id, &id).await?;
    let stream = JobStream::new(core.get_ref().clone(), &job, after).into_stream();
    Ok(Sse::from_stream(stream)
        .with_retry_duration(RETRY)
        .customize()
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("x-accel-buffering", "no")))
}

/// The sequence number after which the client goes on; 0 is the start.
fn last_event_id(request: &HttpRequest) -> Result<i64, Refusal> {
    let Some(value) = request.headers().get("last-event-id") else { return Ok(0) };
    match value.to_str().map(str::trim) {
        Ok("") => Ok(0),
        Ok(text) if text.parse().is_ok_and(|seq: i64| seq >= 0) => Ok(text.parse().expect("it just did")),
        _ => Err(Refusal::bad("Last-Event-ID must be an id that this job's stream gave")),
    }
}

struct JobStream {
    core: Arc<Core>,
    job: i64,
    job_id: String,
    /// The last sequence number handed out.
    position: i64,
    page: VecDeque<StoredEvent>,
    head: Follower,
    /// When the client next hears something, come what may.
    heartbeat: Instant,
    ended: bool,
}

impl JobStream {
    fn new(core: Arc<Core>, job: &Job, after: i64) -> Self {
        Self {
            head: core.heads.follow(job.ord),
            heartbeat: Instant::now() + core.settings.heartbeat,
            core,
            job: job.ord,
            job_id: job.id.clone(),
            position: after,
            page: VecDeque::new(),
            ended: false,
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut this| async move {
            let event = this.next().await?;
            Some((Ok(event), this))
        })
    }

    /// What the client gets next; `None` closes the stream.
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.next_stored().await {
            Next::Event(stored) => {
                self.position = stored.seq;
                Data::new(stored.data).id(stored.seq.to_string()).event(stored.kind)
            }
            Next::Heartbeat => self.about_the_stream("ping"),
            Next::End => {
                self.ended = true;
                self.about_the_stream("end")
            }
            Next::Close => return None,
        };
        self.heartbeat = Instant::now() + self.core.settings.heartbeat;
        Some(event.into())
    }

    async fn next_stored(&mut self) -> Next {
        let closing = self.core.closing.clone();
        loop {
            if closing.is_cancelled() {
                return Next::Close;
            }
            if let Some(event) = self.page.pop_front() {
                return Next::Event(event);
            }
            self.head.mark();
            match self.read().await {
                Ok(true) => return Next::End,
                Ok(false) if self.page.is_empty() => {}
                Ok(false) => continue,
                Err(error) => {
                    // The client comes again with its position.
                    tracing::error!(job = self.job_id, %error, "a job's events cannot be read");
                    return Next::Close;
                }
            }
            tokio::select! {
                () = closing.cancelled() => return Next::Close,
                woken = timeout_at(self.heartbeat, self.head.moved()) => {
                    if woken.is_err() {
                        return Next::Heartbeat;
                    }
                }
            }
        }
    }

    /// Reads the next page; `true` when there is none and none will come.
    async fn read(&mut self) -> Result<bool, sqlx::Error> {
        // The status before the events: once it is terminal, no event is added.
        let terminal = self.core.store.is_terminal(self.job).await?;
        self.page = self.core.store.events_after(self.job, self.position, PAGE).await?.into();
        Ok(terminal && self.page.is_empty())
    }

    /// An event that is not part of the job's history, and has no id.
    fn about_the_stream(&self, kind: &'static str) -> Data {
        let data = Value::Object(event::preamble(kind, &self.job_id, &wire::now()));
        Data::new(data.to_string()).event(kind)
    }
}

enum Next {
    Event(StoredEvent),
    /// Nothing happened for long.
    Heartbeat,
    /// The client has everything there will be.
    End,
    /// The stream breaks off; the client is to come again.
    Close,
}
