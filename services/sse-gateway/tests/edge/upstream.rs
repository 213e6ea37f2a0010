//! What goes on to the control plane.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use wire::{ControlPlane, Secret};

use crate::support::*;

/// A small control plane that remembers what it was asked and streams what it is told to.
pub(crate) struct ControlPlaneStub {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    handle: actix_web::dev::ServerHandle,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    /// Where the next part of the newest stream goes in.
    stream: Mutex<Option<mpsc::UnboundedSender<String>>>,
    open: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

async fn answer(seen: Data<Seen>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let seen = seen.into_inner();
    let text = |value: &actix_web::http::header::HeaderValue| value.to_str().unwrap().to_owned();
    seen.requests.lock().unwrap().push(Request {
        line: format!("{} {}", request.method(), request.uri()),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let path = request.path().to_owned();
    if path.ends_with("/stream") || path.ends_with("/chat") {
        let (sender, receiver) = mpsc::unbounded_channel::<String>();
        sender.send("id: 1\nevent: training.log\ndata: {\"step\":1}\n\n".to_owned()).unwrap();
        *seen.stream.lock().unwrap() = Some(sender);
        seen.open.send_modify(|open| *open += 1);
        let open = Open(Arc::clone(&seen));
        let parts = futures_util::stream::unfold((receiver, open), |(mut receiver, open)| async move {
            let part = receiver.recv().await?;
            let part = if part == "BREAK" {
                Err(std::io::Error::other("told to break"))
            } else {
                Ok(Bytes::from(part))
            };
            Some((part, (receiver, open)))
        });
        return HttpResponse::Ok().content_type("text/event-stream").streaming(parts);
    }
    match path.as_str() {
        "/base/v1/me" => HttpResponse::Ok().json(json!({"anonymousId": "a1"})),
        "/leak/v1/me" => HttpResponse::Ok().json(json!({"token": SECRET})),
        "/moved/v1/jobs" => HttpResponse::Found().insert_header(("location", "http://evil.com/")).finish(),
        "/denied/v1/jobs" => HttpResponse::Unauthorized()
            .insert_header(("www-authenticate", "Bearer"))
            .json(json!({"error": "expired"})),
        "/busy/v1/jobs" => {
            HttpResponse::TooManyRequests().insert_header(("retry-after", "7")).json(json!({}))
        }
        "/base/v1/jobs/done/cancel" => HttpResponse::Conflict().json(json!({"error": "already completed"})),
        _ => HttpResponse::Ok()
            .insert_header(("set-cookie", "a=b"))
            .insert_header(("access-control-allow-origin", "*"))
            .json(json!({"jobs": [{"id": "job-1"}]})),
    }
}

impl ControlPlaneStub {
    pub(crate) fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let data = Arc::clone(&seen);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = HttpServer::new(move || {
            App::new().app_data(Data::from(Arc::clone(&data))).default_service(web::to(answer))
        })
        .workers(1)
        .disable_signals()
        .h1_allow_half_closed(false)
        .listen(listener)
        .unwrap()
        .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, seen, handle }
    }

    pub(crate) fn scope(&self) -> ControlPlane {
        self.scope_at("/base")
    }

    fn scope_at(&self, base: &str) -> ControlPlane {
        ControlPlane {
            url: format!("http://{}{base}", self.address),
            token: Secret::new(SECRET),
            org_slug: "org a".to_owned(),
            project_slug: "proj&b".to_owned(),
        }
    }

    pub(crate) fn last(&self) -> Request {
        self.seen.requests.lock().unwrap().last().expect("it was asked").clone()
    }

    pub(crate) fn push(&self, text: &str) {
        self.seen.stream.lock().unwrap().as_ref().expect("a stream is open").send(text.to_owned()).unwrap();
    }

    pub(crate) fn end(&self) {
        *self.seen.stream.lock().unwrap() = None;
    }

    pub(crate) async fn until_open(&self, count: usize) {
        soon(self.seen.open.subscribe().wait_for(|open| *open == count)).await.unwrap();
    }
}

impl Drop for ControlPlaneStub {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

const SCOPE: &str = "orgSlug=org+a&projectSlug=proj%26b";

pub(crate) fn setup() -> (Edge, ControlPlaneStub) {
    let (edge, stub) = (edge(), ControlPlaneStub::start());
    edge.control_plane.send_replace(Some(stub.scope()));
    (edge, stub)
}

#[actix_web::test]
async fn jobs_are_asked_for_in_the_servers_scope_and_name() {
    let (edge, stub) = setup();
    let request = edge
        .get("/api/jobs?limit=3&orgSlug=evil&token=t")
        .header("cookie", "c=d")
        .header("authorization", "x");
    let answer = soon(request.send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    for name in ["set-cookie", "access-control-allow-origin"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert_eq!(soon(answer.json::<Value>()).await.unwrap(), json!({"jobs": [{"id": "job-1"}]}));
    let asked = stub.last();
    assert_eq!(asked.line, format!("GET /base/v1/jobs?limit=3&{SCOPE}"));
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!((asked.header("cookie"), asked.header("x-midrun-token")), (None, None));
    assert_eq!(asked.header("traceparent"), None);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    edge.json(edge.get("/api/jobs").header("traceparent", parent)).await;
    assert_eq!(stub.last().header("traceparent"), Some(parent));
}

#[actix_web::test]
async fn what_the_control_plane_says_is_passed_on() {
    let (edge, stub) = setup();
    let (status, body) = edge.json(edge.post("/api/jobs/done/cancel", "")).await;
    assert_eq!((status, &body["error"]), (409, &json!("already completed")));
    assert_eq!(stub.last().line, format!("POST /base/v1/jobs/done/cancel?{SCOPE}"));
    let (status, _) = edge.json(edge.post("/api/jobs/job%20%C3%BC/cancel", "{}")).await;
    assert_eq!(status, 200);
    assert_eq!(stub.last().line, format!("POST /base/v1/jobs/job%20%C3%BC/cancel?{SCOPE}"));

    edge.control_plane.send_replace(Some(stub.scope_at("/busy/")));
    let answer = soon(edge.get("/api/jobs").send()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));

    // Its 401 is told from ours.
    edge.control_plane.send_replace(Some(stub.scope_at("/denied")));
    let answer = soon(edge.get("/api/jobs").send()).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(!answer.headers().contains_key("www-authenticate"));
    let own = soon(edge.http.get(edge.url("/api/jobs")).send()).await.unwrap();
    assert_eq!(own.headers()["www-authenticate"], "X-Midrun-Token");
}

#[actix_web::test]
async fn job_ids_cannot_lead_elsewhere() {
    let (edge, stub) = setup();
    for id in ["..", "%2e%2e", "..%2f..%2fauth", "a%2fb", "a%5cb", "%2e", "a%0ab", "a%00b"] {
        for (method, path) in
            [("GET", format!("/api/jobs/{id}/events")), ("POST", format!("/api/jobs/{id}/cancel"))]
        {
            let mut raw = edge.raw().await;
            let head = format!("Host: localhost\r\nX-Midrun-Token: {TOKEN}\r\nConnection: close");
            raw.send(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n")).await;
            assert_eq!(raw.status().await, 404, "{method} {path}");
        }
    }
    assert!(stub.seen.requests.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn job_events_stream_as_they_come_and_go_on_where_they_were() {
    let (edge, stub) = setup();
    let mut events =
        Events::open_any(edge.get("/api/jobs/job-1/events?token=t").header("last-event-id", "41")).await;
    assert_eq!(events.headers()["cache-control"], "no-cache, no-transform");
    let asked = stub.last();
    assert_eq!(asked.line, format!("GET /base/v1/jobs/job-1/events/stream?{SCOPE}"));
    assert_eq!(asked.header("last-event-id"), Some("41"));
    assert_eq!(events.next().await.unwrap().name, "training.log");
    for n in 2..6 {
        stub.push(&format!("id: {n}\nevent: training.log\ndata: {{\"step\":{n}}}\n\n"));
        assert_eq!(events.next().await.unwrap().data["step"], n);
    }
    stub.end();
    assert_eq!(events.next().await, None);
}

#[actix_web::test]
async fn a_client_that_goes_closes_the_stream_behind_it() {
    let (edge, stub) = setup();
    let events = Events::open_any(edge.get("/api/jobs/job-1/events")).await;
    stub.until_open(1).await;
    drop(events);
    stub.until_open(0).await;
}

#[actix_web::test]
async fn chat_streams_and_a_break_shows_as_a_break() {
    let (edge, stub) = setup();
    let body = r#"{"messages":[{"role":"user","content":"27+15="}],"stream":true}"#;
    let mut answer = soon(edge.post("/api/inference/chat", body).send()).await.unwrap();
    assert_eq!(stub.last().body, body);
    assert_eq!(stub.last().line, format!("POST /base/v1/inference/chat?{SCOPE}"));
    soon(answer.chunk()).await.unwrap().unwrap();
    stub.push("data: {\"choices\":[{\"delta\":{\"content\":\"42\"}}]}\n\n");
    assert!(String::from_utf8_lossy(&soon(answer.chunk()).await.unwrap().unwrap()).contains("42"));
    stub.push("BREAK");
    assert!(soon(answer.chunk()).await.is_err(), "half an answer is not taken for a whole one");
}

#[actix_web::test]
async fn who_the_server_acts_as_is_told_without_the_secret() {
    let (edge, stub) = setup();
    let (status, body) = edge.json(edge.get("/api/credentials")).await;
    assert_eq!(status, 200);
    assert_eq!((&body["orgSlug"], &body["projectSlug"]), (&json!("org a"), &json!("proj&b")));
    assert!(!body.to_string().contains(SECRET));
    let (status, body) = edge.json(edge.get("/api/me")).await;
    assert_eq!((status, &body["anonymousId"]), (200, &json!("a1")));
    edge.control_plane.send_replace(Some(stub.scope_at("/leak")));
    let (status, body) = edge.json(edge.get("/api/me")).await;
    assert_eq!(status, 502);
    assert!(!body.to_string().contains(SECRET), "{body}");
}

#[actix_web::test]
async fn a_control_plane_that_is_not_there_is_a_clear_error() {
    let edge = edge();
    let asked = || {
        [
            edge.get("/api/jobs"),
            edge.get("/api/jobs/j/events"),
            edge.post("/api/jobs/j/cancel", ""),
            edge.post("/api/inference/chat", "{}"),
            edge.get("/api/me"),
        ]
    };
    for request in asked().into_iter().chain([edge.get("/api/credentials")]) {
        let (status, body) = edge.json(request).await;
        assert_eq!(status, 503);
        assert!(body["error"].as_str().unwrap().contains("MIDRUN_CONTROL_PLANE_URL"), "{body}");
    }
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (org_slug, project_slug) = ("o".to_owned(), "p".to_owned());
    let nobody =
        ControlPlane { url: format!("http://{free}"), token: Secret::new(SECRET), org_slug, project_slug };
    edge.control_plane.send_replace(Some(nobody));
    for request in asked() {
        let (status, body) = edge.json(request).await;
        assert_eq!(status, 502);
        let error = body["error"].as_str().unwrap();
        assert!(error.contains(&free.to_string()) && !error.contains(SECRET), "{error}");
    }
}

#[actix_web::test]
async fn a_redirect_is_not_followed_with_the_credential() {
    let (edge, stub) = setup();
    edge.control_plane.send_replace(Some(stub.scope_at("/moved")));
    let (status, body) = edge.json(edge.get("/api/jobs")).await;
    assert_eq!(status, 502);
    assert!(body["error"].as_str().unwrap().contains("http://evil.com/"), "{body}");
}

#[actix_web::test]
async fn a_silent_control_plane_is_given_up_on() {
    let edge = edge_with(|settings| settings.limits.upstream_silence = Duration::from_secs(2));
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let (org_slug, project_slug) = ("o".to_owned(), "p".to_owned());
    let url = format!("http://{}", deaf.local_addr().unwrap());
    edge.control_plane.send_replace(Some(ControlPlane {
        url,
        token: Secret::new(SECRET),
        org_slug,
        project_slug,
    }));
    assert_eq!(edge.json(edge.get("/api/jobs")).await.0, 504);

    let stub = ControlPlaneStub::start();
    edge.control_plane.send_replace(Some(stub.scope()));
    let answer = soon(edge.get("/api/jobs/job-1/events").send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut parts = answer.bytes_stream();
    assert!(soon(parts.next()).await.unwrap().is_ok());
    assert!(soon(parts.next()).await.unwrap().is_err(), "it broke off");
    stub.until_open(0).await;
}
