//! `GET /api/dev/events`: the registry's events to every client.
//!
//! What must hold: nothing is queued for a client. Each reads the feed at its own pace, so one that is slow costs
//! nobody else anything, and one that comes back goes on behind the event it last saw. An event is turned into
//! JSON once, however many clients there are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use actix_web_lab::sse::{self, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use peer::{Delivery, Position, Reader, Start};
use wire::DevEvent;

use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::metrics::{Kind, Metrics};

/// Where a client that lost its stream says how far it came.
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

/// How long a browser waits before it opens a lost stream again.
pub(crate) const RETRY: Duration = Duration::from_millis(1000);

/// `GET /api/dev/events`.
pub(crate) async fn open(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let ticket = edge.open_stream(Kind::Dev)?;
    let after =
        request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse::<Position>().ok());
    let reader = edge.peers.events.read(after.map_or(Start::Snapshot, Start::After));
    let frames = follow(Client { reader, ticket }).take_until(edge.lifecycle.closing());
    let body = Sse::from_stream(frames).with_retry_duration(RETRY).with_keep_alive(edge.limits.heartbeat);
    Ok(event_stream().body(body))
}

/// The head of an event stream: nothing on the way may keep it back or change it.
pub(crate) fn event_stream() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream; charset=utf-8")
        .insert_header(("cache-control", "no-cache, no-transform"))
        .insert_header(("x-accel-buffering", "no"));
    response
}

/// One client's place in the feed.
struct Client {
    reader: Reader<DevEvent>,
    ticket: Ticket,
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.ticket.edge.lifecycle.is_closing() && self.reader.try_next().is_some() {
            self.ticket.dropped();
        }
    }
}

fn follow(client: Client) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold(client, |mut client| async move {
        let delivery = client.reader.next().await?;
        let frame = client.ticket.edge.frames.of(&delivery, &client.ticket.edge.metrics);
        client.ticket.sent();
        Some((Ok(frame), client))
    })
}

/// More events than this are not under way at once, unless clients come back from afar.
const FRAMES: usize = 64;

/// The newest frames, encoded. A clone of one shares its text.
#[derive(Default)]
pub(crate) struct Frames {
    kept: RwLock<VecDeque<(Position, sse::Event)>>,
}

impl Frames {
    /// The frame for `delivery`; encodes it if nobody asked for it lately.
    pub(crate) fn of(&self, delivery: &Delivery<DevEvent>, metrics: &Metrics) -> sse::Event {
        let find = |kept: &VecDeque<(Position, sse::Event)>| {
            let same = |(at, _): &&(Position, sse::Event)| at.seq == delivery.at.seq && *at == delivery.at;
            kept.iter().rev().find(same).map(|(_, frame)| frame.clone())
        };
        if let Some(frame) = find(&self.kept.read().unwrap_or_else(PoisonError::into_inner)) {
            return frame;
        }
        // Whoever comes second finds what the first one encoded.
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = find(&kept) {
            return frame;
        }
        let text = serde_json::to_string(&*delivery.event).expect("a wire type is always JSON");
        let frame =
            sse::Event::Data(sse::Data::new(text).id(delivery.at.to_string()).event(delivery.event.name()));
        if kept.len() == FRAMES {
            kept.pop_front();
        }
        kept.push_back((delivery.at.clone(), frame.clone()));
        metrics.frames_encoded.inc();
        frame
    }
}
