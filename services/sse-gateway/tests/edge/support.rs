//! An edge on a free port, and clients that see every byte.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use sse_gateway::{Gateway, Handle, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use wire::{ControlPlane, Secret};

pub(crate) use crate::registry::{Registry, error_frame};

pub(crate) const TOKEN: &str = "0123456789abcdef-the-token";
pub(crate) const SECRET: &str = "sk-the-servers-own-credential";

/// Longer than anything here takes, unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// `what` within a time in which it must have come.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("it came in time")
}

/// An edge in front of a registry.
pub(crate) struct Edge {
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) control_plane: watch::Sender<Option<ControlPlane>>,
    pub(crate) trouble: watch::Sender<wire::Troubles>,
    pub(crate) http: reqwest::Client,
}

pub(crate) fn edge() -> Edge {
    edge_with(|_| {})
}

pub(crate) fn edge_with(adjust: impl FnOnce(&mut Settings)) -> Edge {
    let registry = Registry::start_up();
    let control_plane = watch::Sender::new(None);
    let trouble = watch::Sender::new(wire::Troubles::default());
    let mut settings = Settings::new(Secret::new(TOKEN));
    settings.workers = 2;
    adjust(&mut settings);
    let peers = registry.peers(control_plane.subscribe(), trouble.subscribe());
    let gateway = Gateway::new(settings, peers).expect("settings make sense");
    let handle = gateway.serve(TcpListener::bind("127.0.0.1:0").expect("a free port")).expect("it serves");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    Edge { address: handle.address(), handle, registry, control_plane, trouble, http }
}

impl Edge {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(self.url(path)).header("x-midrun-token", TOKEN)
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> reqwest::RequestBuilder {
        self.http.post(self.url(path)).header("x-midrun-token", TOKEN).body(body.to_owned())
    }

    /// Status and JSON of a request.
    pub(crate) async fn json(&self, request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
        let answer = soon(request.send()).await.expect("it answers");
        let status = answer.status().as_u16();
        let text = soon(answer.text()).await.expect("a whole answer");
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: no JSON: {text}")))
    }

    /// The value of a line of `GET /metrics`.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let text = soon(self.http.get(self.url("/metrics")).send()).await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' '));
        value.unwrap_or("0").parse().expect("a number")
    }

    /// Waits until a line of `GET /metrics` has `value`.
    pub(crate) async fn until_metric(&self, line: &str, value: u64) {
        soon(async {
            while self.metric(line).await != value {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw { socket: TcpStream::connect(self.address).await.expect("it listens"), seen: Vec::new() }
    }
}

/// A connection on which the test writes and reads every byte itself.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    pub(crate) seen: Vec<u8>,
}

impl Raw {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.socket.write_all(bytes.as_ref())).await.expect("it listens");
    }

    /// Everything seen so far, once `text` is in it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        while !self.text().contains(text) {
            let mut bytes = [0; 16 * 1024];
            let count = soon(self.socket.read(&mut bytes)).await.expect("it is open");
            assert_ne!(count, 0, "the end came before {text:?}: {}", self.text());
            self.seen.extend_from_slice(&bytes[..count]);
        }
        self.text()
    }

    /// Everything, once the other side has closed.
    pub(crate) async fn until_end(&mut self) -> String {
        // A reset is an end too.
        drop(soon(self.socket.read_to_end(&mut self.seen)).await);
        self.text()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    pub(crate) async fn status(&mut self) -> u16 {
        let text = self.until("\r\n").await;
        text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }
}

/// The events of a stream, parsed as a browser does.
pub(crate) struct Events {
    answer: reqwest::Response,
    rest: Vec<u8>,
    /// No block ends before here.
    scanned: usize,
    pub(crate) comments: usize,
    pub(crate) retry: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: serde_json::Value,
}

impl Events {
    pub(crate) async fn open(request: reqwest::RequestBuilder) -> Self {
        let events = Self::open_any(request).await;
        assert_eq!(events.headers()["content-type"], "text/event-stream; charset=utf-8");
        events
    }

    pub(crate) async fn open_any(request: reqwest::RequestBuilder) -> Self {
        let answer = soon(request.send()).await.expect("it answers");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Self { answer, rest: Vec::new(), scanned: 0, comments: 0, retry: None }
    }

    pub(crate) fn headers(&self) -> &reqwest::header::HeaderMap {
        self.answer.headers()
    }

    /// The next event; nothing when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if let Some(event) = self.parse(&block) {
                return Some(event);
            }
        }
    }

    /// Reads on until a comment came.
    pub(crate) async fn comment(&mut self) {
        let before = self.comments;
        while self.comments == before {
            let block = self.block().await.expect("more to come");
            assert_eq!(self.parse(&block), None, "only a comment was to come");
        }
    }

    /// What stands before the next empty line.
    async fn block(&mut self) -> Option<String> {
        loop {
            let found = self.rest[self.scanned..].windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = found.map(|end| self.scanned + end) {
                let block = self.rest.drain(..end + 2).take(end).collect();
                self.scanned = 0;
                return Some(String::from_utf8(block).expect("text"));
            }
            self.scanned = self.rest.len().saturating_sub(1);
            self.rest.extend_from_slice(&soon(self.answer.chunk()).await.expect("a whole answer")?);
        }
    }

    fn parse(&mut self, block: &str) -> Option<Event> {
        let mut event = Event { id: String::new(), name: String::new(), data: serde_json::Value::Null };
        let mut data = false;
        for line in block.lines() {
            let (key, value) = line.split_once(": ").expect("a field");
            match key {
                "" => self.comments += 1,
                "retry" => self.retry = Some(value.to_owned()),
                "id" => event.id = value.to_owned(),
                "event" => event.name = value.to_owned(),
                "data" => {
                    assert!(!data, "data is one line");
                    data = true;
                    event.data = serde_json::from_str(value).expect("data is JSON");
                }
                other => panic!("no such field: {other}"),
            }
        }
        data.then_some(event)
    }
}
