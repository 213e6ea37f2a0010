//! `GET /api/events?topics=TOPIC,TOPIC…`: everything that one tab watches, in one stream. A browser has six connections
//! for all tabs of one server; a tab takes one of them.
//!
//! | topic | events | position |
//! |---|---|---|
//! | `dev` | those of `/api/dev/events` | `EPOCH-SEQ` |
//! | `run:ID` | those of `/api/runs/ID/events` | `SEQ` |
//! | `job:ID` | those of `/api/jobs/ID/events` | the control plane's id |
//! | `jobs` | `job.changed` `{job}` for each job that is created or changes its status, `jobs.missed` | none |
//! | `terminal:ID` | those of `/api/terminals/ID/events`; what was written before the stream was opened is marked `past` | `SEQ` |
//! | `troubles` | `troubles` `{list: [{service, since, why}]}` at once and with each change: the services that cannot do their work, empty while all can | none |
//! | `usage:RUN` | `usage` `{processes, gpus, noGpus}` every two seconds: the run's processes, what they use, the GPUs; `gpus` is null where nothing can be said of them, and `noGpus` says why | none |
//!
//! A frame's data is `{topic, event, id?, past?, data}`; `id` is its position in the topic. About a topic itself speak
//! `topic.open` (what it tells of can be asked: for a `job` and for `jobs`, what was asked for before may be out of
//! date), `topic.away` `{error}` (it cannot, and is tried again, with pauses, until the tab goes), `topic.missing`
//! `{error}` (there is no such thing) and `topic.end` (it is complete): nothing more will come behind these two. `dev`
//! and `troubles` say nothing of themselves.
//!
//! The frame's own `id:` is a cursor: the positions in all topics, `TOPIC~POSITION,TOPIC~POSITION`, percent-encoded.
//! Who comes back with it in `Last-Event-ID` goes on in each topic behind it, without gap or repeat; a client may put
//! one together itself to begin in the middle. A topic that is not in it begins at its beginning, `dev` with the
//! newest of everything. In `dev`, the position `oldest` begins with all that is still known; what happened before the
//! stream was opened is marked `past: true`.
//!
//! What must hold: nothing is queued for a client; each topic is read when the client has taken what came before.

mod cursor;
mod dev;
mod job;
mod log;
mod run;
mod source;
mod terminal;
mod topic;
mod troubles;
mod usage;

use std::convert::Infallible;
use std::pin::Pin;

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_lab::sse::{self, Sse};
use futures_util::stream::{self, SelectAll, Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::json;

use crate::dev_events::{LAST_EVENT_ID, RETRY, event_stream};
use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::metrics::Kind;
use cursor::Cursor;
use topic::Topic;

/// More than any page shows at once: the overview follows at most 24 jobs.
const MOST_TOPICS: usize = 64;

/// One event of one topic.
struct Said {
    topic: String,
    event: &'static str,
    /// For events whose names are not known here.
    name: Option<String>,
    id: Option<String>,
    /// It happened before the client came.
    past: bool,
    /// JSON.
    data: String,
}

impl Said {
    fn about(topic: &str, event: &'static str, error: Option<&str>) -> Self {
        let data = error.map_or_else(|| "null".to_owned(), |error| json!({ "error": error }).to_string());
        Self { topic: topic.to_owned(), event, name: None, id: None, past: false, data }
    }

    /// The frame's text. One line: JSON has no line breaks outside strings, and none within.
    fn frame(&self) -> String {
        let event = self.name.as_deref().unwrap_or(self.event);
        let id = self.id.as_ref().map_or_else(String::new, |id| format!(r#","id":{}"#, json!(id)));
        let past = if self.past { r#","past":true"# } else { "" };
        format!(
            r#"{{"topic":{},"event":{}{id}{past},"data":{}}}"#,
            json!(self.topic),
            json!(event),
            self.data
        )
    }
}

type Saying = Pin<Box<dyn Stream<Item = Said>>>;

#[derive(Deserialize)]
struct Wanted {
    topics: String,
}

/// `GET /api/events`.
pub(crate) async fn open(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let Query(Wanted { topics }) = Query::from_query(request.query_string()).map_err(|_| {
        Failure::bad_request("name topics: ?topics=dev,run:ID,job:ID,jobs,terminal:ID,troubles,usage:RUN")
    })?;
    let mut wanted = Vec::new();
    for text in topics.split(',').filter(|text| !text.is_empty()) {
        let topic = Topic::parse(text).ok_or_else(|| {
            Failure::bad_request(format!(
                "{text:?} is no topic: there are dev, run:ID, job:ID, jobs, terminal:ID, troubles and usage:RUN"
            ))
        })?;
        if !wanted.contains(&topic) {
            wanted.push(topic);
        }
    }
    if wanted.is_empty() || wanted.len() > MOST_TOPICS {
        return Err(Failure::bad_request(format!("name 1 to {MOST_TOPICS} topics")));
    }
    let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let mut cursor = Cursor::parse(last);
    cursor.keep(&wanted.iter().map(ToString::to_string).collect::<Vec<_>>());
    let ticket = edge.open_stream(Kind::Tab)?;
    let mut topics = SelectAll::new();
    for topic in wanted {
        let after = cursor.of(&topic.to_string()).map(str::to_owned);
        topics.push(saying(&edge, topic, after));
    }
    let frames = follow(topics, cursor, ticket).take_until(edge.lifecycle.closing());
    let body = Sse::from_stream(frames).with_retry_duration(RETRY).with_keep_alive(edge.limits.heartbeat);
    Ok(event_stream().body(body))
}

fn saying(edge: &std::sync::Arc<Edge>, topic: Topic, after: Option<String>) -> Saying {
    let edge = std::sync::Arc::clone(edge);
    match topic {
        Topic::Dev => Box::pin(dev::say(&edge, after.as_deref())),
        Topic::Run(run) => Box::pin(run::say(edge, run, after.as_deref())),
        Topic::Job(id) => Box::pin(job::say(edge, Some(id), after)),
        Topic::Jobs => Box::pin(job::say(edge, None, None)),
        Topic::Terminal(terminal) => Box::pin(terminal::say(edge, terminal, after.as_deref())),
        Topic::Troubles => Box::pin(troubles::say(&edge)),
        Topic::Usage(run) => Box::pin(usage::say(edge, run)),
    }
}

/// Every topic's events, each with the cursor behind it. Stays open when all topics have ended: a client that is told
/// the end by a closed connection would come again.
fn follow(
    topics: SelectAll<Saying>,
    cursor: Cursor,
    ticket: Ticket,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((topics, cursor, ticket), |(mut topics, mut cursor, ticket)| async move {
        let Some(said) = topics.next().await else { return std::future::pending().await };
        if let Some(id) = &said.id {
            cursor.note(&said.topic, id);
        }
        ticket.sent();
        let frame = sse::Event::Data(sse::Data::new(said.frame()).id(cursor.to_string()));
        Some((Ok(frame), (topics, cursor, ticket)))
    })
}
