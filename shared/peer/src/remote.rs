//! A service in another process, as those see it that ask it and follow its feeds.
//!
//! What must hold: a message whose fate is "not delivered" is sent again until its budget is spent; one whose fate is
//! unknown only if it is repeatable, or if the same life of the service still knows whether it had it. Every wait is
//! bounded by the budget. What is wrong with the way there is known to whoever looks ([`Remote::trouble`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng as _;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::watch;
use wire::{Secret, TraceContext, Trouble, Wire};

use crate::ask::AskError;
use crate::header;
use crate::ways::{Failed, REQUESTS, Way, Ways};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Added to the budget that the other side is told, so that its own answer about a spent budget arrives.
const GRACE: Duration = Duration::from_millis(250);

/// A service in another process; clones are cheap.
#[derive(Debug, Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What it is called, for people: `train-registry`.
    name: &'static str,
    base: Url,
    secret: Option<Secret>,
    client: Client,
    /// Which life of it answered last.
    life: watch::Sender<Option<String>>,
    ways: Ways,
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address of a service: write it as http://HOST:PORT")]
pub struct BadAddress {
    address: String,
}

/// One sending of a message did not bring an answer.
enum Miss {
    NotDelivered(Cow<'static, str>),
    /// With the life that it was sent to, where that said which it is.
    Unknown(Cow<'static, str>, Option<String>),
    /// It will not be otherwise the next time.
    Never(Cow<'static, str>),
}

impl Remote {
    /// The service `name` at `address`, which is `http://HOST:PORT`. Nothing is sent yet.
    ///
    /// # Errors
    /// It is no such address.
    pub fn new(name: &'static str, address: &str, secret: Option<Secret>) -> Result<Self, BadAddress> {
        let bad = || BadAddress { address: address.to_owned() };
        let base = Url::parse(address).map_err(|_| bad())?;
        if base.scheme() != "http" || base.host_str().is_none() || base.path() != "/" {
            return Err(bad());
        }
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tcp_keepalive(header::HEARTBEAT)
            .no_proxy()
            .build()
            .expect("a client with these settings can be made");
        let shared = Shared { name, base, secret, client, life: watch::Sender::new(None), ways: Ways::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// What is wrong with the way to it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.ways().trouble()
    }

    /// Sends `message` until there is an answer, its fate is sealed, or `budget` is spent.
    pub(crate) async fn ask<M: Wire>(
        &self,
        message: &M,
        trace: &TraceContext,
        budget: Duration,
    ) -> Result<M::Reply, AskError<M::Refusal>> {
        let deadline = Instant::now() + budget;
        let body = Bytes::from(serde_json::to_vec(message).expect("a wire type is always JSON"));
        let key = uuid::Uuid::new_v4().to_string();
        let mut pauses = Pauses::default();
        // Once nobody knows whether it was handled, only the life that may have done so can be asked again.
        let mut only_life = None;
        let mut fate_unknown = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // After the sending another life may have answered somebody else.
            let life = self.life();
            let sending = Sending { body: body.clone(), key: &key, trace, only_life: only_life.as_deref() };
            let miss = match self.send::<M>(sending, left).await {
                Ok(answer) => return answer.map_err(AskError::Refused),
                Err(miss) => miss,
            };
            let (why, is_final) = match miss {
                Miss::NotDelivered(why) => (why, false),
                Miss::Never(why) => (why, true),
                Miss::Unknown(why, said) => {
                    fate_unknown = true;
                    only_life = only_life.or(said).or(life);
                    (why, !M::REPEATABLE && only_life.is_none())
                }
            };
            if M::REPEATABLE {
                only_life = None;
            }
            let pause = pauses.next();
            if is_final || Instant::now() + pause >= deadline {
                let why = format!("{why} ({} at {})", self.shared.name, self.shared.base).into();
                return Err(match fate_unknown {
                    true => AskError::Unknown { peer: M::NAME, why },
                    false => AskError::NotDelivered { peer: M::NAME, why },
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn send<M: Wire>(
        &self,
        sending: Sending<'_>,
        budget: Duration,
    ) -> Result<Result<M::Reply, M::Refusal>, Miss> {
        let begun = Instant::now();
        let millis = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
        let mut request = self
            .request(reqwest::Method::POST, &["peer", "v1", M::NAME])
            .timeout(budget + GRACE)
            .header("content-type", "application/json")
            .header(header::IDEMPOTENCY_KEY, sending.key)
            .header(header::BUDGET, millis)
            .body(sending.body);
        let context = [
            (header::TRACEPARENT, sending.trace.traceparent.as_deref()),
            (header::TRACESTATE, sending.trace.tracestate.as_deref()),
            (header::LIFE, sending.only_life),
        ];
        for (name, value) in context {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let response = request.send().await.map_err(|error| self.miss(&error, begun, None))?;
        self.read_answer::<M>(response, begun).await
    }

    async fn read_answer<M: Wire>(
        &self,
        response: Response,
        begun: Instant,
    ) -> Result<Result<M::Reply, M::Refusal>, Miss> {
        let status = response.status();
        self.note_life(&response);
        let life = life_of(&response).map(str::to_owned);
        let is_refusal = response.headers().contains_key(header::REFUSAL);
        let body = response.bytes().await.map_err(|error| self.miss(&error, begun, life.clone()))?;
        let senseless =
            |error: serde_json::Error| Miss::Never(format!("its answer makes no sense: {error}").into());
        if is_refusal {
            self.ways().is_heard(REQUESTS);
            return serde_json::from_slice(&body).map(Err).map_err(senseless);
        }
        if status.is_success() {
            self.ways().is_heard(REQUESTS);
            return serde_json::from_slice(&body).map(Ok).map_err(senseless);
        }
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Miss::NotDelivered(said.into())
            }
            StatusCode::GATEWAY_TIMEOUT => Miss::Unknown(said.into(), life),
            StatusCode::PRECONDITION_FAILED => {
                Miss::Never("it was started anew, and nobody knows whether it had the message".into())
            }
            status => {
                let what = format!("it answered {status}: {said}");
                self.is_away(REQUESTS, &what.clone().into());
                Miss::Never(what.into())
            }
        })
    }

    /// A request to it, with what each of them carries.
    pub(crate) fn request(&self, method: reqwest::Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.shared.base.clone();
        url.path_segments_mut().expect("an http address has a path").clear().extend(path);
        let request = self.shared.client.request(method, url).header(header::PROTOCOL, header::VERSION);
        match &self.shared.secret {
            Some(secret) => request.bearer_auth(secret.expose()),
            None => request,
        }
    }

    fn miss(&self, error: &reqwest::Error, begun: Instant, life: Option<String>) -> Miss {
        let failed = Failed::request(error, begun);
        if error.is_connect() {
            self.is_away(REQUESTS, &failed);
            return Miss::NotDelivered(failed.why.into());
        }
        let what = match error.is_timeout() {
            // Its own answer about a spent budget would have been here before.
            true => "it does not answer".to_owned(),
            false => format!("the connection was lost: {}", failed.why),
        };
        self.is_away(REQUESTS, &what.clone().into());
        Miss::Unknown(what.into(), life)
    }

    /// Which life of it answered last: another one after each of its starts.
    pub fn lives(&self) -> watch::Receiver<Option<String>> {
        self.shared.life.subscribe()
    }

    fn life(&self) -> Option<String> {
        self.shared.life.borrow().clone()
    }

    pub(crate) fn note_life(&self, response: &Response) {
        if let Some(life) = life_of(response) {
            self.shared.life.send_if_modified(|known| {
                let is_news = known.as_deref() != Some(life);
                if is_news {
                    *known = Some(life.to_owned());
                }
                is_news
            });
        }
    }

    /// What is known of each way to it.
    pub(crate) fn ways(&self) -> &Ways {
        &self.shared.ways
    }

    /// Notes that nothing is had from it in this way, and why.
    pub(crate) fn is_away(&self, way: Way, failed: &Failed) {
        let is_news = self.ways().fails(way, self.shared.name, self.shared.base.as_str(), failed);
        if is_news && way == REQUESTS {
            tokio::spawn(self.clone().look_after_requests());
        }
    }

    /// Asks it for nothing until it answers: a feed is followed all the time, but it may be long until the next request.
    async fn look_after_requests(self) {
        let mut pauses = Pauses::default();
        while self.ways().is_wrong(REQUESTS) {
            tokio::time::sleep(pauses.next()).await;
            let asked = self.request(reqwest::Method::GET, &["peer", "v1"]).timeout(CONNECT).send().await;
            // There is nothing at that path: whoever says so let us in.
            let welcomes = |status: StatusCode| status.is_success() || status == StatusCode::NOT_FOUND;
            if asked.is_ok_and(|answer| welcomes(answer.status())) {
                self.ways().is_heard(REQUESTS);
            }
        }
    }
}

/// Which life of the service this answer comes from.
fn life_of(response: &Response) -> Option<&str> {
    response.headers().get(header::LIFE)?.to_str().ok()
}

/// One sending of a message.
struct Sending<'a> {
    body: Bytes,
    key: &'a str,
    trace: &'a TraceContext,
    only_life: Option<&'a str>,
}

/// Growing pauses, each of another length, so that those who wait for the same service do not come at once.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    times: u32,
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let pause = (FIRST_PAUSE * 2_u32.saturating_pow(self.times)).min(LONGEST_PAUSE);
        self.times = (self.times + 1).min(16);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.times = 0;
    }
}
