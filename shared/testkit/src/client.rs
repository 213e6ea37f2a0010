//! HTTP as a test needs it: every byte of the request line and the headers is the test's, nothing is normalised,
//! nothing is retried, and a connection closes when its answer is let go, as when a browser's tab is closed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::LIMIT;

/// The header that carries the token.
const TOKEN: &str = "x-midrun-token";

/// A server and the token for it.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    token: String,
}

/// A request that is being put together.
#[derive(Debug)]
pub struct Ask<'a> {
    client: &'a Client,
    method: Method,
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    with_token: bool,
    limit: Duration,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer whose body is still coming. Dropping it closes the connection.
#[derive(Debug)]
pub struct Streamed {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    _connection: Connection,
}

#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A client of the server at `address`.
    pub fn new(address: SocketAddr, token: impl Into<String>) -> Self {
        Self { address, token: token.into() }
    }

    /// Where the server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request with the token and the right host. `target` goes out as it is.
    pub fn ask(&self, method: &str, target: impl Into<String>) -> Ask<'_> {
        Ask {
            client: self,
            method: method.parse().expect("a test names a method"),
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            with_token: true,
            limit: LIMIT,
        }
    }

    /// `GET target`.
    pub async fn get(&self, target: impl Into<String>) -> Answer {
        self.ask("GET", target).send().await
    }

    /// `POST target` with JSON.
    pub async fn post(&self, target: impl Into<String>, body: &Value) -> Answer {
        self.ask("POST", target).json(body).send().await
    }
}

impl Ask<'_> {
    /// Adds a header. A `host` takes the place of the right one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a test names a header");
        self.headers.push((name, HeaderValue::from_str(value).expect("a test gives a header's value")));
        self
    }

    /// Leaves the token out.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.with_token = false;
        self
    }

    /// Sends JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        let ask = self.header("content-type", "application/json");
        Self { body: body.to_string().into(), ..ask }
    }

    /// Sends these bytes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Waits so long for the answer, instead of [`LIMIT`].
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Panics
    /// When the server cannot be reached or does not answer in time.
    pub async fn send(self) -> Answer {
        let (limit, what) = (self.limit, format!("{} {}", self.method, self.target));
        let whole = async {
            let streamed = self.open().await;
            let body = streamed.body.collect().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            Answer { status: streamed.status, headers: streamed.headers, body: body.to_bytes() }
        };
        tokio::time::timeout(limit, whole)
            .await
            .unwrap_or_else(|_| panic!("{what}: no answer within {limit:?}"))
    }

    /// Sends it and waits for the head of the answer.
    ///
    /// # Panics
    /// When the server cannot be reached or does not answer in time.
    pub async fn open(self) -> Streamed {
        let (limit, what) = (self.limit, format!("{} {}", self.method, self.target));
        let opened = tokio::time::timeout(limit, self.try_open()).await;
        let opened = opened.unwrap_or_else(|_| panic!("{what}: no answer within {limit:?}"));
        opened.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The same, where the server may be away or may close the connection.
    ///
    /// # Errors
    /// When it is, or does.
    pub async fn try_open(self) -> Result<Streamed, Box<dyn std::error::Error + Send + Sync>> {
        let address = self.client.address;
        let request = self.request()?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(async move {
            // How it ends shows in the answer.
            let _ = connection.await;
        }));
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Streamed { status: head.status.as_u16(), headers: head.headers, body, _connection: connection })
    }

    fn request(self) -> Result<Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let uri: Uri = self.target.parse()?;
        let mut request = Request::builder().method(self.method).uri(uri);
        if self.with_token {
            request = request.header(TOKEN, &self.client.token);
        }
        if !self.headers.iter().any(|(name, _)| name == hyper::header::HOST) {
            request = request.header(hyper::header::HOST, self.client.address.to_string());
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(self.body))?)
    }
}

impl Streamed {
    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    /// The next piece of the body; nothing at its end.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Answer {
    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("status {}, no JSON ({error}): {}", self.status, self.text()))
    }

    /// Itself, if the status is `status`.
    ///
    /// # Panics
    /// With the whole answer when it is not.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
