//! A collector of traces: a real OTLP receiver over HTTP, protobuf decoded, which keeps every span it gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::LIMIT;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Collected {
    /// What it is called.
    pub name: String,
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// The span above it; empty for a root.
    pub parent: String,
    /// `service.name` of its resource.
    pub service: String,
    /// Nanoseconds since 1970.
    pub began: u64,
    /// Nanoseconds since 1970.
    pub ended: u64,
    /// Whether its status is an error.
    pub failed: bool,
    /// Its attributes, and its resource's, as text.
    pub attributes: BTreeMap<String, String>,
}

impl Collected {
    /// An attribute; empty when there is none.
    pub fn text(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// `00-TRACE-ID-01`.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// The collector. Dropping it closes it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    spans: watch::Sender<Vec<Collected>>,
    heads: watch::Sender<Vec<String>>,
}

/// More than any batch of a test.
const LONGEST_BODY: usize = 16 << 20;

impl Collector {
    /// One on a free port.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("the system gives a port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State { spans: watch::Sender::default(), heads: watch::Sender::default() });
        let own = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&own);
                tokio::spawn(async move { serve(stream, &state).await });
            }
        });
        Self { address, state, accepting }
    }

    /// What to set `OTEL_EXPORTER_OTLP_ENDPOINT` to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Collected> {
        self.state.spans.borrow().clone()
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads.borrow().clone()
    }

    /// Waits for the span that `is` true of.
    ///
    /// # Panics
    /// When none comes; says which came.
    pub async fn wait_for(&self, what: &str, is: impl Fn(&Collected) -> bool) -> Collected {
        let mut spans = self.state.spans.subscribe();
        let seen = tokio::time::timeout(LIMIT, spans.wait_for(|spans| spans.iter().any(&is))).await;
        match seen {
            Ok(Ok(spans)) => spans.iter().find(|span| is(span)).cloned().expect("it was just seen"),
            _ => panic!("no {what}; the spans are\n{}", self.shown()),
        }
    }

    /// Waits for the span `name` in the trace `trace`.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn span(&self, trace: &str, name: &str) -> Collected {
        self.wait_for(&format!("span {name} in {trace}"), |span| span.trace == trace && span.name == name)
            .await
    }

    /// Waits until `is` is true of the spans of the trace `trace`, which are given in the order in which they began.
    ///
    /// # Panics
    /// When it does not become so; says which came.
    pub async fn trace(&self, what: &str, trace: &str, is: impl Fn(&[Collected]) -> bool) -> Vec<Collected> {
        let mut spans = self.state.spans.subscribe();
        let own = |spans: &Vec<Collected>| {
            let mut own: Vec<Collected> = spans.iter().filter(|span| span.trace == trace).cloned().collect();
            own.sort_by_key(|span| span.began);
            own
        };
        let seen = tokio::time::timeout(LIMIT, spans.wait_for(|spans| is(&own(spans)))).await;
        match seen {
            Ok(Ok(spans)) => own(&spans),
            _ => panic!("no {what} in {trace}; the spans are\n{}", self.shown()),
        }
    }

    fn shown(&self) -> String {
        self.spans().iter().fold(String::new(), |mut text, span| {
            let Collected { name, trace, id, parent, service, .. } = span;
            let _ = writeln!(text, "{trace} {id} < {parent:16} {service} {name} {:?}", span.attributes);
            text
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, state: &State) {
    while let Ok(Some((head, body))) = request(&mut stream).await {
        let status = match ExportTraceServiceRequest::decode(&body[..]) {
            Ok(request) if head.starts_with("POST /v1/traces ") => {
                state.spans.send_modify(|spans| spans.extend(collected(request)));
                "200 OK"
            }
            Ok(_) => "404 Not Found",
            Err(_) => "400 Bad Request",
        };
        state.heads.send_modify(|heads| heads.push(head));
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        let length = answer.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\n\r\n"
        );
        if stream.write_all(&[head.as_bytes(), &answer].concat()).await.is_err() {
            return;
        }
    }
}

/// The next request: its head, in lower case but for the first line, and its body.
async fn request(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    let head = format!("{first}\r\n{}", rest.to_lowercase());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.filter(|length| *length <= LONGEST_BODY).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = bytes.split_off(end);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, body)))
}

fn collected(request: ExportTraceServiceRequest) -> Vec<Collected> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            let mut attributes = resource.clone();
            attributes.extend(texts(&span.attributes));
            all.push(Collected {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                service: service.clone(),
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                failed: span.status.is_some_and(|status| status.code == 2),
                attributes,
            });
        }
    }
    all
}

fn texts(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
