//! A control plane on a real file and a real port, users of it over HTTP, and readers of its streams.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::{ControlPlane, ExecutorSetting, Handle, HostSetting, Settings};
use futures_util::StreamExt as _;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far beyond what anything here takes; a test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

/// The scripted executor.
pub(crate) fn scripted() -> ExecutorSetting {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/scripted-executor.mjs");
    ExecutorSetting::command("node", [script])
}

/// The real host, with its sockets in the test's folder.
fn hosts(dir: &Path) -> HostSetting {
    HostSetting { command: vec![testkit::midrun().into(), "run-host".into()], socket_dir: dir.join("s") }
}

/// Settings of a control plane in `dir`.
pub(crate) fn settings_in(dir: &Path) -> Settings {
    Settings::new(dir.join("state"), scripted(), hosts(dir))
}

/// A folder that goes away, and with it every process of the jobs in it: hosts outlive whoever started them.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        // Short: sockets are below it.
        Self(tempfile::Builder::new().prefix("cp-").tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What is left of the jobs' hosts and executors.
    pub(crate) fn processes(&self) -> Vec<process::Identity> {
        self.trees().into_iter().flat_map(|tree| tree.members().unwrap()).collect()
    }

    fn trees(&self) -> Vec<process::Tree> {
        let jobs = std::fs::read_dir(self.path().join("state/jobs")).into_iter().flatten().flatten();
        let marker = |dir: PathBuf| process::Marker {
            name: "MIDRUN_JOB_DIR".to_owned(),
            value: dir.canonicalize().unwrap().to_str().unwrap().to_owned(),
        };
        jobs.map(|job| process::Tree::marked_only(marker(job.path()))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for tree in self.trees() {
            process::kill_tree(tree, Duration::ZERO);
        }
    }
}

pub(crate) struct Plane {
    pub(crate) dir: Folder,
    pub(crate) handle: Handle,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_in(Folder::new(), change).await
    }

    async fn start_in(dir: Folder, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings_in(dir.path());
        change(&mut settings);
        let control_plane = ControlPlane::open(settings).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = control_plane.serve(listener).unwrap();
        Self { dir, handle }
    }

    /// Goes down in order and comes up again on the same state, at another port.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        within("shutdown", self.handle.shutdown(Duration::from_secs(10))).await;
        Self::start_in(self.dir, change).await
    }

    /// Goes down in order. The state stays as long as this does.
    pub(crate) async fn stop(&self) {
        within("shutdown", self.handle.shutdown(Duration::from_secs(10))).await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn user(&self) -> User {
        User::at(self.handle.url()).await
    }
}

pub(crate) fn state_dir(dir: &Folder) -> PathBuf {
    dir.path().join("state")
}

/// An account with one project.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) org: String,
    pub(crate) project: String,
    http: reqwest::Client,
}

impl User {
    pub(crate) async fn at(url: String) -> Self {
        let http = reqwest::Client::new();
        let body = json!({ "kind": "cli" });
        let answer = http.post(format!("{url}/v1/auth/anonymous")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let account: Value = answer.json().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let user = Self {
            url,
            token: text(&account["token"]),
            org: text(&account["personalOrg"]["slug"]),
            project: "adder".to_owned(),
            http,
        };
        let (status, _) = user.post("/v1/projects", &json!({ "name": "Adder", "slug": "adder" })).await;
        assert_eq!(status, StatusCode::CREATED);
        user
    }

    /// The same user at the address of a restarted control plane.
    pub(crate) fn moved_to(&self, plane: &Plane) -> Self {
        self.at_url(plane.handle.url())
    }

    pub(crate) fn at_url(&self, url: String) -> Self {
        Self { url, ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let join = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{join}orgSlug={}&projectSlug={}", self.url, self.org, self.project);
        self.http.request(method, url).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body).send().await.unwrap()).await
    }

    /// Creates a job of this script; its id.
    pub(crate) async fn job(&self, script: Value) -> String {
        self.job_with(json!({ "script": script })).await
    }

    pub(crate) async fn job_with(&self, config: Value) -> String {
        let (status, body) = self.post("/v1/jobs", &json!({ "name": "job", "config": config })).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["job"]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn show(&self, id: &str) -> Value {
        let (status, body) = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    pub(crate) async fn status(&self, id: &str) -> String {
        self.show(id).await["job"]["status"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn cancel(&self, id: &str) -> StatusCode {
        self.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await.0
    }

    pub(crate) async fn stream(&self, id: &str) -> Stream {
        self.stream_after(id, None).await
    }

    pub(crate) async fn stream_after(&self, id: &str, last: Option<&str>) -> Stream {
        let mut request = self.request(Method::GET, &format!("/v1/jobs/{id}/events/stream"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        Stream::of(request.send().await.unwrap())
    }

    /// Follows a job to its end; everything that its stream said.
    pub(crate) async fn follow(&self, id: &str) -> Vec<Event> {
        self.stream(id).await.rest().await
    }
}

pub(crate) async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.text().await.unwrap();
    let value = serde_json::from_str(&body)
        .unwrap_or_else(|_| panic!("{status} with a body that is not JSON: {body}"));
    (status, value)
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn step(&self) -> Option<i64> {
        self.data["step"].as_i64()
    }
}

/// A reader of an SSE stream.
pub(crate) struct Stream {
    response: Response,
    text: String,
    pub(crate) retry: Option<String>,
}

impl Stream {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), retry: None }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    /// The next event; `None` when the stream has closed.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let frame = self.frame().await?;
            let field = |name: &str| {
                frame
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim_start().to_owned())
            };
            self.retry = field("retry:").or(self.retry.take());
            if let Some(data) = field("data:") {
                let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
                return Some(Event { id: field("id:"), kind: field("event:").unwrap_or_default(), data });
            }
        }
    }

    async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let frame = self.text[..end].to_owned();
                self.text.drain(..end + 2);
                return Some(frame);
            }
            let chunk = within("the next event", self.response.chunk()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of that kind, skipping others.
    pub(crate) async fn until(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream closed before {kind}"));
            if event.kind == kind {
                return event;
            }
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The kinds of `events`, `ping` left out.
pub(crate) fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).filter(|kind| *kind != "ping").collect()
}

/// The text of a file that something writes in one step, once it is there.
pub(crate) async fn file(path: &Path) -> String {
    let appears = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            if let Ok(text) = tokio::fs::read_to_string(path).await {
                return text;
            }
            ticks.tick().await;
        }
    };
    within(&format!("{}", path.display()), appears).await
}

pub(crate) async fn write(path: &Path, text: &str) {
    tokio::fs::write(path, text).await.unwrap();
}

/// Whether the process runs; a zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    process::Identity::of(pid).is_ok_and(|identity| identity.is_alive())
}

/// Waits until the process is gone.
pub(crate) async fn gone(pid: u32) {
    if let Ok(identity) = process::Identity::of(pid)
        && let Ok(pidfd) = process::PidFd::open(&identity)
    {
        within("the process's end", pidfd.wait()).await.unwrap();
    }
    assert!(!alive(pid));
}

/// Runs all of `futures` at once.
pub(crate) async fn all<T>(
    futures: impl IntoIterator<Item = impl Future<Output = T>>,
    at_once: usize,
) -> Vec<T> {
    futures_util::stream::iter(futures).buffered(at_once).collect().await
}
