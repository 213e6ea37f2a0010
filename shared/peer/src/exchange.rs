//! The entrance for other processes: what they can ask here and which feeds they can follow, over HTTP.
//!
//! What must hold: nothing is answered without the secret, if there is one; a message that is answered with 429 or 503
//! was not handled and never will be; a connection that is cut takes back nothing that was delivered; the same
//! message sent twice (by its idempotency key) is handled once, unless it may be repeated anyway.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Bytes, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_lab::sse::{self, Sse};
use futures_util::{StreamExt as _, stream};
use subtle::ConstantTimeEq as _;
use tokio::sync::{OnceCell, watch};
use wire::message::FeedEvent;
use wire::{Reject as _, Secret, TraceContext, Wire};

use crate::ask::AskError;
use crate::feed::{Feed, Position, Start};
use crate::header;
use crate::inbox::Inbox;

/// Answers that are remembered, for each kind of message that must not be repeated.
const REMEMBERED: usize = 256;
/// No asker waits longer.
const LONGEST_BUDGET: Duration = Duration::from_secs(3_600);

type Route = Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// What other processes can have from this one.
#[derive(Clone)]
pub struct Exchange {
    door: Arc<Door>,
    routes: Vec<Route>,
}

/// Who may come in.
struct Door {
    secret: Option<Secret>,
    /// This life of what is behind it: another one after each start of the process, and of one of its parts.
    life: watch::Sender<String>,
    closing: watch::Sender<bool>,
}

fn fresh_life() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

impl Exchange {
    /// For those who know `secret`; for everyone when there is none.
    pub fn new(secret: Option<Secret>) -> Self {
        let (life, closing) = (watch::Sender::new(fresh_life()), watch::Sender::new(false));
        Self { door: Arc::new(Door { secret, life, closing }), routes: Vec::new() }
    }

    /// A part behind this was started anew and knows nothing of what it was asked before. Every feed that is followed is
    /// cut, so that who follows notices at once.
    pub fn begin_new_life(&self) {
        self.door.life.send_replace(fresh_life());
    }

    /// Messages for `inbox` are taken.
    #[must_use]
    pub fn answer<M: Wire>(mut self, inbox: &Inbox<M>) -> Self {
        let desk =
            Data::new(Desk { inbox: inbox.clone(), door: self.door.clone(), remembered: Mutex::default() });
        self.routes.push(Arc::new(move |app| {
            let resource = web::resource(M::NAME)
                .app_data(desk.clone())
                .app_data(web::PayloadConfig::new(header::LARGEST_MESSAGE))
                .route(web::post().to(take::<M>));
            app.service(resource);
        }));
        self
    }

    /// `feed` can be followed.
    #[must_use]
    pub fn offer<E: FeedEvent>(mut self, feed: &Feed<E>) -> Self {
        let shelf = Data::new(Shelf { feed: feed.clone(), door: self.door.clone() });
        self.routes.push(Arc::new(move |app| {
            let resource = web::resource(format!("feeds/{}", E::NAME));
            app.service(resource.app_data(shelf.clone()).route(web::get().to(show::<E>)));
        }));
        self
    }

    /// The files `<sha256>/index.mjs` below `folder` can be had, by their address.
    #[must_use]
    pub fn lend_artifacts(mut self, folder: std::path::PathBuf) -> Self {
        let lender = Data::new(Lender { folder, door: self.door.clone() });
        self.routes.push(Arc::new(move |app| {
            app.service(
                web::resource("artifacts/{hash}").app_data(lender.clone()).route(web::get().to(lend)),
            );
        }));
        self
    }

    /// Adds the routes below `/peer/v1`.
    pub fn configure(&self, app: &mut ServiceConfig) {
        let mut scope = web::scope("/peer/v1");
        for route in &self.routes {
            scope = scope.configure(|app| route(app));
        }
        let door = Arc::clone(&self.door);
        // Before anything of a body is read.
        app.service(scope.wrap(from_fn(move |request, next| admit(Arc::clone(&door), request, next))));
    }

    /// Ends every feed, so that the server can end.
    pub fn close_feeds(&self) {
        self.door.closing.send_replace(true);
    }
}

async fn admit<B: MessageBody + 'static>(
    door: Arc<Door>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse, actix_web::Error> {
    match door.turn_away(request.request()) {
        Some(answer) => Ok(request.into_response(answer)),
        None => next.call(request).await.map(ServiceResponse::map_into_boxed_body),
    }
}

impl Door {
    /// The answer for whoever may not come in.
    fn turn_away(&self, request: &HttpRequest) -> Option<HttpResponse> {
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(secret) = &self.secret {
            let shown = text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
            let knows = shown.is_some_and(|shown| shown.as_bytes().ct_eq(secret.expose().as_bytes()).into());
            if !knows {
                let what = "the peer secret is missing or another one: give each service the same file in MIDRUN_PEER_TOKEN_FILE";
                return Some(self.say(StatusCode::UNAUTHORIZED, what));
            }
        }
        let spoken = text(header::PROTOCOL).unwrap_or("none");
        if spoken != header::VERSION {
            let what = format!(
                "this service speaks peer protocol {}, and the other one {spoken}: run the same midrun everywhere",
                header::VERSION
            );
            return Some(self.say(StatusCode::UPGRADE_REQUIRED, &what));
        }
        let other_life = text(header::LIFE).is_some_and(|life| life != *self.life.borrow());
        other_life.then(|| self.say(StatusCode::PRECONDITION_FAILED, "that was another life of this service"))
    }

    fn say(&self, status: StatusCode, what: &str) -> HttpResponse {
        HttpResponse::build(status).insert_header((header::LIFE, self.life())).body(what.to_owned())
    }

    fn life(&self) -> String {
        self.life.borrow().clone()
    }
}

/// Where messages of one kind are taken.
struct Desk<M: Wire> {
    inbox: Inbox<M>,
    door: Arc<Door>,
    remembered: Mutex<VecDeque<(String, Arc<OnceCell<Answer>>)>>,
}

/// An answer as it is sent.
#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    refusal: Option<&'static str>,
    body: Bytes,
    /// The message was not handled: the next sending of it is.
    is_undelivered: bool,
}

impl<M: Wire> Desk<M> {
    /// The place for the answer to the message with this key.
    fn place(&self, key: &str) -> Arc<OnceCell<Answer>> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = remembered.iter().find(|(known, _)| known == key) {
            return Arc::clone(place);
        }
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        let place = Arc::new(OnceCell::new());
        remembered.push_back((key.to_owned(), Arc::clone(&place)));
        place
    }

    fn forget(&self, key: &str) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != key);
    }
}

async fn take<M: Wire>(desk: Data<Desk<M>>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let message: M = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => return desk.door.say(StatusCode::BAD_REQUEST, &format!("no {}: {error}", M::NAME)),
    };
    let budget = text(header::BUDGET).and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    let Some(budget) = budget.map(|budget| budget.min(LONGEST_BUDGET)) else {
        return desk.door.say(StatusCode::BAD_REQUEST, "x-budget-ms is missing or no number");
    };
    let trace = TraceContext {
        traceparent: text(header::TRACEPARENT).map(str::to_owned),
        tracestate: text(header::TRACESTATE).map(str::to_owned),
    };
    let key = text(header::IDEMPOTENCY_KEY).filter(|_| !M::REPEATABLE).map(str::to_owned);
    let handling = Arc::clone(&desk.clone().into_inner());
    // A task of its own: when the connection is cut, what was delivered must not be taken back.
    let answer = tokio::spawn(async move {
        let Some(key) = key else { return deliver(&handling.inbox, message, trace, budget).await };
        let place = handling.place(&key);
        let answer = place.get_or_init(|| deliver(&handling.inbox, message, trace, budget)).await.clone();
        if answer.is_undelivered {
            handling.forget(&key);
        }
        answer
    });
    match answer.await {
        Ok(answer) => {
            let mut response = HttpResponse::build(answer.status);
            response.insert_header((header::LIFE, desk.door.life()));
            if let Some(code) = answer.refusal {
                response.insert_header((header::REFUSAL, code));
            }
            response.content_type("application/json").body(answer.body)
        }
        Err(_) => desk.door.say(StatusCode::GATEWAY_TIMEOUT, "it failed while it was handled"),
    }
}

async fn deliver<M: Wire>(inbox: &Inbox<M>, message: M, trace: TraceContext, budget: Duration) -> Answer {
    let json =
        |value: Result<Vec<u8>, serde_json::Error>| Bytes::from(value.expect("a wire type is always JSON"));
    match inbox.peer().ask_within(message, trace, budget).await {
        Ok(reply) => Answer {
            status: StatusCode::OK,
            refusal: None,
            body: json(serde_json::to_vec(&reply)),
            is_undelivered: false,
        },
        Err(AskError::Refused(refusal)) => Answer {
            status: StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::BAD_REQUEST),
            refusal: Some(refusal.code()),
            body: json(serde_json::to_vec(&refusal)),
            is_undelivered: false,
        },
        Err(AskError::NotDelivered { why, .. }) => {
            let status = match inbox.is_full() {
                true => StatusCode::TOO_MANY_REQUESTS,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            Answer { status, refusal: None, body: why.into_owned().into(), is_undelivered: true }
        }
        Err(AskError::Unknown { why, .. }) => Answer {
            status: StatusCode::GATEWAY_TIMEOUT,
            refusal: None,
            body: why.into_owned().into(),
            is_undelivered: false,
        },
    }
}

/// Where a feed can be followed.
struct Shelf<E> {
    feed: Feed<E>,
    door: Arc<Door>,
}

async fn show<E: FeedEvent>(shelf: Data<Shelf<E>>, request: HttpRequest) -> HttpResponse<BoxBody> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let start = match text(header::LAST_EVENT_ID).and_then(|id| id.parse::<Position>().ok()) {
        Some(at) if shelf.feed.is_in(&at) => Start::After(at),
        // To one that followed, all of this life is news.
        Some(_) => Start::Oldest,
        None if text(header::BACKLOG) == Some(header::NEWEST) => Start::Snapshot,
        None => Start::Oldest,
    };
    // Of a snapshot everything is acted on, however late it comes.
    let now = (!matches!(start, Start::Snapshot)).then(|| shelf.feed.now());
    let events = stream::unfold(shelf.feed.read(start), |mut reader| async move {
        let delivery = reader.next().await?;
        let text = serde_json::to_string(&*delivery.event).expect("a wire type is always JSON");
        let name = if delivery.snapshot { header::SNAPSHOT } else { header::EVENT };
        let data = sse::Data::new(text).id(delivery.at.to_string()).event(name);
        Some((Ok::<_, Infallible>(sse::Event::Data(data)), reader))
    });
    let (mut closing, mut life) = (shelf.door.closing.subscribe(), shelf.door.life.subscribe());
    let this_life = life.borrow_and_update().clone();
    let closed = async move {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            _ = life.changed() => {}
        }
    };
    let body = Sse::from_stream(events.take_until(Box::pin(closed))).with_keep_alive(header::HEARTBEAT);
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream; charset=utf-8")
        .insert_header(("cache-control", "no-cache, no-transform"))
        .insert_header((header::LIFE, this_life));
    if let Some(now) = now {
        response.insert_header((header::NOW, now.to_string()));
    }
    response.body(body)
}

/// Where artifacts can be had.
struct Lender {
    folder: std::path::PathBuf,
    door: Arc<Door>,
}

async fn lend(lender: Data<Lender>, hash: web::Path<String>) -> HttpResponse {
    let is_address = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_address {
        return lender
            .door
            .say(StatusCode::BAD_REQUEST, "an artifact is asked for by 64 lower-case hex digits");
    }
    match tokio::fs::read(lender.folder.join(hash.as_str()).join("index.mjs")).await {
        Ok(bytes) => HttpResponse::Ok().content_type("text/javascript").body(bytes),
        Err(error) => {
            lender.door.say(StatusCode::NOT_FOUND, &format!("there is no artifact {hash}: {error}"))
        }
    }
}
