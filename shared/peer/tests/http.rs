//! Requests and feeds between processes: a real server, real connections, and a proxy that spoils them.

#![allow(clippy::unwrap_used, reason = "what the tests' helpers cannot do fails the test")]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use peer::{
    AskError, Backlog, Envelope, Exchange, FeedWriter, Followed, Inbox, Peer, Reader, Remote, Start,
    bring_here,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use wire::message::FeedEvent;
use wire::{Artifact, ContentHash, Reject, Secret, TraceContext, Wire};

/// Enough for everything that must happen; what must not is waited for in other ways.
const BUDGET: Duration = Duration::from_secs(10);
const SECRET: &str = "0123456789abcdef";

/// How often something happened.
#[derive(Clone, Default)]
struct Count(watch::Sender<usize>);

impl Count {
    fn add(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    fn now(&self) -> usize {
        *self.0.borrow()
    }

    async fn reaches(&self, wanted: usize) {
        let mut changes = self.0.subscribe();
        let reached = tokio::time::timeout(BUDGET, changes.wait_for(|count| *count >= wanted)).await;
        assert!(reached.is_ok(), "{} instead of {wanted}", self.now());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0} is odd")]
struct Odd(u32);

impl Reject for Odd {
    fn code(&self) -> &'static str {
        "odd"
    }

    fn http_status(&self) -> u16 {
        409
    }
}

/// Not to be repeated: each one counts.
#[derive(Debug, Serialize, Deserialize)]
struct Halve(u32);

impl Wire for Halve {
    const NAME: &'static str = "halve";
    const REPEATABLE: bool = false;
    type Reply = u32;
    type Refusal = Odd;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Beat {
    key: u8,
    n: u32,
}

impl FeedEvent for Beat {
    const NAME: &'static str = "beats";

    fn snapshot_key(&self) -> Option<String> {
        Some(self.key.to_string())
    }
}

/// Halves when it is let.
struct Halver {
    let_go: Arc<Semaphore>,
    begun: Count,
    handled: Arc<AtomicUsize>,
}

impl Actor for Halver {
    type Context = Context<Self>;
}

impl Handler<Envelope<Halve>> for Halver {
    type Result = ResponseFuture<Result<u32, Odd>>;

    fn handle(&mut self, envelope: Envelope<Halve>, _: &mut Context<Self>) -> Self::Result {
        let (let_go, handled) = (Arc::clone(&self.let_go), Arc::clone(&self.handled));
        self.begun.add();
        Box::pin(async move {
            let_go.acquire().await.expect("never closed").forget();
            handled.fetch_add(1, Ordering::SeqCst);
            let (Halve(n), _held) = envelope.open();
            if n.is_multiple_of(2) { Ok(n / 2) } else { Err(Odd(n)) }
        })
    }
}

/// A process with a halver and a feed, as others see it.
struct Service {
    address: SocketAddr,
    exchange: Exchange,
    server: ServerHandle,
    let_go: Arc<Semaphore>,
    begun: Count,
    handled: Arc<AtomicUsize>,
    beats: FeedWriter<Beat>,
}

impl Service {
    fn start(listener: TcpListener, capacity: usize) -> Self {
        Self::with(listener, capacity, |exchange| exchange)
    }

    fn with(listener: TcpListener, capacity: usize, more: impl FnOnce(Exchange) -> Exchange) -> Self {
        let (let_go, begun, handled) = (Arc::new(Semaphore::new(0)), Count::default(), Arc::default());
        let halver =
            Halver { let_go: Arc::clone(&let_go), begun: begun.clone(), handled: Arc::clone(&handled) };
        let inbox = Inbox::new(capacity);
        inbox.point_at(halver.start().recipient());
        let beats = FeedWriter::new(4);
        let exchange = more(Exchange::new(Some(Secret::new(SECRET))).answer(&inbox).offer(&beats.feed()));
        let address = listener.local_addr().unwrap();
        let routes = exchange.clone();
        let server = HttpServer::new(move || App::new().configure(|app| routes.configure(app)))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(1)
            .listen(listener)
            .unwrap()
            .run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { address, exchange, server: handle, let_go, begun, handled, beats }
    }

    fn anew() -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").unwrap(), 8)
    }

    fn remote(&self) -> Remote {
        to(self.address)
    }

    async fn stop(self) {
        self.exchange.close_feeds();
        self.server.stop(false).await;
    }
}

fn to(address: SocketAddr) -> Remote {
    Remote::new("halver", &format!("http://{address}"), Some(Secret::new(SECRET))).unwrap()
}

fn ask(
    remote: &Remote,
    n: u32,
    budget: Duration,
) -> impl Future<Output = Result<u32, AskError<Odd>>> + 'static {
    let peer = Peer::remote(remote.clone());
    async move { peer.ask_within(Halve(n), TraceContext::default(), budget).await }
}

/// Passes connections on, and spoils them while it is told to.
struct Proxy {
    address: SocketAddr,
    /// Where new connections lead.
    service: Arc<Mutex<SocketAddr>>,
    /// Answers of requests are cut after their first bytes.
    cuts: Arc<AtomicBool>,
    /// Connections are cut behind the head of the first answer.
    only_heads: Arc<AtomicBool>,
    connections: Count,
}

impl Proxy {
    async fn before(service: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            service: Arc::new(Mutex::new(service)),
            cuts: Arc::default(),
            only_heads: Arc::default(),
            connections: Count::default(),
        };
        let (cuts, connections) = (Arc::clone(&proxy.cuts), proxy.connections.clone());
        let only_heads = Arc::clone(&proxy.only_heads);
        let leads_to = Arc::clone(&proxy.service);
        actix_rt::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                connections.add();
                let (cuts, only_heads) = (Arc::clone(&cuts), Arc::clone(&only_heads));
                let service = *leads_to.lock().unwrap();
                actix_rt::spawn(async move {
                    let Ok(mut upstream) = TcpStream::connect(service).await else { return };
                    let (mut from_client, mut to_client) = client.split();
                    let (mut from_service, mut to_service) = upstream.split();
                    let answers = async {
                        let mut chunk = [0; 4096];
                        while let Ok(count @ 1..) = from_service.read(&mut chunk).await {
                            let passed = if cuts.load(Ordering::SeqCst) { 20 } else { count };
                            let is_written = to_client.write_all(&chunk[..passed]).await.is_ok();
                            if !is_written || passed < count || only_heads.load(Ordering::SeqCst) {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = answers => {}
                        _ = tokio::io::copy(&mut from_client, &mut to_service) => {}
                    }
                });
            }
        });
        proxy
    }
}

#[actix_rt::test]
async fn an_answer_and_a_refusal_come_as_they_were_given() {
    let service = Service::anew();
    service.let_go.add_permits(9);
    assert_eq!(ask(&service.remote(), 42, BUDGET).await.unwrap(), 21);
    assert_eq!(ask(&service.remote(), 7, BUDGET).await.unwrap_err().refusal(), Some(Odd(7)));
    service.stop().await;
}

#[actix_rt::test]
async fn a_full_inbox_is_tried_again_until_there_is_room() {
    let service = Service::start(TcpListener::bind("127.0.0.1:0").unwrap(), 1);
    let remote = service.remote();
    let first = actix_rt::spawn(ask(&remote, 2, BUDGET));
    let second = actix_rt::spawn(ask(&remote, 4, BUDGET));
    service.let_go.add_permits(2);
    let mut answers = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    answers.sort_unstable();
    assert_eq!(answers, [1, 2]);
    assert_eq!(service.handled.load(Ordering::SeqCst), 2);
    service.stop().await;
}

#[actix_rt::test]
async fn a_service_that_stays_full_is_a_promise_that_nothing_was_handled() {
    let service = Service::start(TcpListener::bind("127.0.0.1:0").unwrap(), 1);
    let remote = service.remote();
    let blocker = actix_rt::spawn(ask(&remote, 2, BUDGET));
    service.begun.reaches(1).await;
    let turned_away = ask(&remote, 4, Duration::from_secs(3)).await;
    assert!(
        matches!(&turned_away, Err(AskError::NotDelivered { why, .. }) if why.contains("full")),
        "{turned_away:?}"
    );
    service.let_go.add_permits(2);
    blocker.await.unwrap().unwrap();
    assert_eq!(service.handled.load(Ordering::SeqCst), 1);
    service.stop().await;
}

#[actix_rt::test]
async fn a_service_that_is_away_is_waited_for_and_the_way_is_known_to_be_bad() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let remote = to(address);
    let mut trouble = remote.trouble();
    let waiting = actix_rt::spawn(ask(&remote, 8, BUDGET));
    trouble.changed().await.unwrap();
    let seen = trouble.borrow().clone().unwrap();
    assert!(seen.service == "halver" && seen.why.contains("http://127.0.0.1"), "{seen}");
    assert!(seen.why.contains("refused"), "{seen}");
    let service = Service::start(TcpListener::bind(address).unwrap(), 8);
    service.let_go.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap(), 4);
    assert!(trouble.borrow().is_none(), "it is well again");
    service.stop().await;
    let away = ask(&to(address), 8, Duration::from_secs(1)).await;
    assert!(matches!(away, Err(AskError::NotDelivered { .. })), "{away:?}");
}

#[actix_rt::test]
async fn without_the_secret_or_with_another_protocol_nothing_is_answered() {
    let service = Service::anew();
    service.let_go.add_permits(9);
    for secret in [None, Some(Secret::new("another one, as long"))] {
        let remote = Remote::new("halver", &format!("http://{}", service.address), secret).unwrap();
        let refused = ask(&remote, 2, BUDGET).await.unwrap_err().to_string();
        assert!(refused.contains("MIDRUN_PEER_TOKEN_FILE"), "{refused}");
    }
    let client = reqwest::Client::new();
    let url = format!("http://{}/peer/v1/halve", service.address);
    let other = client.post(url).bearer_auth(SECRET).header("x-midrun-peer-protocol", "999").body("2");
    let answer = other.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 426);
    assert!(answer.text().await.unwrap().contains("run the same midrun everywhere"));
    assert_eq!(service.handled.load(Ordering::SeqCst), 0);
    service.stop().await;
}

#[actix_rt::test]
async fn an_answer_that_was_cut_is_asked_for_again_and_handled_once() {
    let service = Service::anew();
    let proxy = Proxy::before(service.address).await;
    let remote = to(proxy.address);
    service.let_go.add_permits(2);
    // So that it knows which life it speaks with.
    ask(&remote, 2, BUDGET).await.unwrap();
    proxy.cuts.store(true, Ordering::SeqCst);
    let connections = proxy.connections.now();
    let cut = actix_rt::spawn(ask(&remote, 10, BUDGET));
    proxy.connections.reaches(connections + 2).await;
    proxy.cuts.store(false, Ordering::SeqCst);
    assert_eq!(cut.await.unwrap().unwrap(), 5);
    assert_eq!(service.handled.load(Ordering::SeqCst), 2, "the first one and this one, once");
    service.stop().await;
}

#[actix_rt::test]
async fn what_another_life_may_have_handled_is_not_sent_to_the_next_one() {
    let service = Service::anew();
    let address = service.address;
    let remote = service.remote();
    service.let_go.add_permits(1);
    ask(&remote, 2, BUDGET).await.unwrap();
    // It is handed over, and its life ends before it answers.
    let lost = actix_rt::spawn(ask(&remote, 4, BUDGET));
    service.begun.reaches(2).await;
    service.stop().await;
    let next = Service::start(TcpListener::bind(address).unwrap(), 8);
    next.let_go.add_permits(9);
    let fate = lost.await.unwrap();
    assert!(matches!(&fate, Err(AskError::Unknown { .. })), "{fate:?}");
    assert_eq!(next.handled.load(Ordering::SeqCst), 0);
    next.stop().await;
}

#[actix_rt::test]
async fn a_message_stays_with_the_life_it_was_sent_to_though_another_one_has_answered_since() {
    let service = Service::anew();
    let next = Service::anew();
    let proxy = Proxy::before(service.address).await;
    let remote = to(proxy.address);
    service.let_go.add_permits(1);
    next.let_go.add_permits(9);
    ask(&remote, 2, BUDGET).await.unwrap();
    // It is handed over. Before its life ends, the next one answers something else.
    let lost = actix_rt::spawn(ask(&remote, 4, BUDGET));
    service.begun.reaches(2).await;
    *proxy.service.lock().unwrap() = next.address;
    assert_eq!(ask(&remote, 6, BUDGET).await.unwrap(), 3);
    service.stop().await;
    let fate = lost.await.unwrap();
    assert!(matches!(&fate, Err(AskError::Unknown { .. })), "{fate:?}");
    assert_eq!(next.handled.load(Ordering::SeqCst), 1);
    next.stop().await;
}

async fn drain(reader: &mut Reader<Beat>, count: usize) -> Vec<(u32, bool)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(BUDGET, reader.next()).await.expect("an event").expect("no end");
        seen.push((next.event.n, next.snapshot));
    }
    seen
}

#[actix_rt::test]
async fn a_followed_feed_goes_on_where_its_connection_broke_and_into_the_writer_s_next_life() {
    let service = Service::anew();
    let address = service.address;
    let proxy = Proxy::before(address).await;
    service.beats.publish(Beat { key: 1, n: 1 });
    let followed = Followed::new(to(proxy.address), Backlog::All, 8, async |beat: Beat| beat);
    let mut reader = followed.feed().read(Start::Snapshot);
    assert_eq!(drain(&mut reader, 1).await, [(1, true)]);
    service.beats.publish(Beat { key: 1, n: 2 });
    assert_eq!(drain(&mut reader, 1).await, [(2, false)]);
    proxy.cuts.store(true, Ordering::SeqCst);
    for n in 3..=5 {
        service.beats.publish(Beat { key: 2, n });
    }
    proxy.connections.reaches(2).await;
    proxy.cuts.store(false, Ordering::SeqCst);
    assert_eq!(drain(&mut reader, 3).await, [(3, false), (4, false), (5, false)]);
    service.stop().await;
    let next = Service::start(TcpListener::bind(address).unwrap(), 8);
    next.beats.publish(Beat { key: 1, n: 9 });
    assert_eq!(drain(&mut reader, 1).await, [(9, false)]);
    drop(followed);
    next.stop().await;
}

#[actix_rt::test]
async fn a_feed_that_breaks_behind_its_head_again_and_again_is_not_well_in_between() {
    let service = Service::anew();
    let proxy = Proxy::before(service.address).await;
    proxy.only_heads.store(true, Ordering::SeqCst);
    let remote = to(proxy.address);
    let followed = Followed::new(remote.clone(), Backlog::All, 8, async |beat: Beat| beat);
    let mut trouble = remote.trouble();
    let known = tokio::time::timeout(BUDGET, trouble.wait_for(Option::is_some)).await;
    let known = known.expect("it is known").expect("the remote lives").clone().unwrap();
    proxy.connections.reaches(proxy.connections.now() + 5).await;
    let still = trouble.borrow_and_update().clone().expect("it is known still");
    assert_eq!(still.since, known.since);
    // There is nothing to say, and it is well all the same.
    proxy.only_heads.store(false, Ordering::SeqCst);
    let well = tokio::time::timeout(BUDGET, trouble.wait_for(Option::is_none)).await;
    well.expect("it is well").expect("the remote lives");
    drop(followed);
    service.stop().await;
}

#[actix_rt::test]
async fn one_that_comes_late_acts_on_what_is_newest_and_misses_nothing_of_the_next_life() {
    let service = Service::anew();
    let address = service.address;
    for n in 1..=4 {
        service.beats.publish(Beat { key: u8::from(n % 2 == 0), n });
    }
    let followed = Followed::new(to(address), Backlog::Newest, 8, async |beat: Beat| beat);
    let mut reader = followed.feed().read(Start::Snapshot);
    assert_eq!(drain(&mut reader, 2).await, [(3, true), (4, true)]);
    service.beats.publish(Beat { key: 1, n: 5 });
    assert_eq!(drain(&mut reader, 1).await, [(5, false)]);
    service.stop().await;
    let next = Service::start(TcpListener::bind(address).unwrap(), 8);
    for n in 7..=8 {
        next.beats.publish(Beat { key: 1, n });
    }
    assert_eq!(drain(&mut reader, 2).await, [(7, false), (8, false)]);
    drop(followed);
    next.stop().await;
}

#[actix_rt::test]
async fn artifacts_come_by_their_address_and_nothing_else_does() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let code = b"export default 1;\n";
    let hash = ContentHash::of(code);
    std::fs::create_dir(there.path().join(hash.as_str())).unwrap();
    std::fs::write(there.path().join(hash.as_str()).join("index.mjs"), code).unwrap();
    let lend = |exchange: Exchange| exchange.lend_artifacts(there.path().to_owned());
    let service = Service::with(TcpListener::bind("127.0.0.1:0").unwrap(), 1, lend);
    let artifact =
        Artifact { content_hash: hash.clone(), path: "/nowhere/index.mjs".into(), size: code.len() as u64 };
    let brought = bring_here(&service.remote(), here.path(), artifact.clone()).await;
    assert_eq!(std::fs::read(&brought.path).unwrap(), code);
    assert!(brought.path.starts_with(&*here.path().to_string_lossy()), "{brought:?}");
    // Its bytes are not what its address says.
    let other = ContentHash::of(b"something else");
    std::fs::create_dir(there.path().join(other.as_str())).unwrap();
    std::fs::write(there.path().join(other.as_str()).join("index.mjs"), code).unwrap();
    let remote = service.remote();
    let mut trouble = remote.trouble();
    let wrong = Artifact { content_hash: other, ..artifact };
    tokio::select! {
        brought = bring_here(&remote, here.path(), wrong) => panic!("{brought:?}"),
        changed = trouble.changed() => changed.unwrap(),
    }
    assert!(trouble.borrow().as_ref().unwrap().why.contains("something else"));
    let url = format!("http://{}/peer/v1/artifacts/..%2F..%2Fetc", service.address);
    let asked = reqwest::Client::new().get(url).bearer_auth(SECRET).header("x-midrun-peer-protocol", "2");
    assert!(asked.send().await.unwrap().status().is_client_error());
    service.stop().await;
}
