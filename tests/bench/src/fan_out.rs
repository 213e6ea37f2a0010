//! One frame to many clients: from the first that has it to the last.
//!
//! The clients are sockets of one thread that does nothing but wait for them, so that as little as possible of what
//! is measured is their own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::{Dev, Ticker};

use crate::figures::Figures;
use crate::memory::field;
use crate::modules::small_project;
use crate::plan::Plan;
use crate::table::Row;

/// Between two frames.
const PAUSE: Duration = Duration::from_millis(300);
/// How long the clients wait for a frame.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) async fn measure(plan: &Plan) -> Vec<Row> {
    let team = frames_to(plan.clients, plan.frames).await;
    let crowd = frames_to(plan.crowd, plan.frames).await;
    let what = |clients: usize| format!("{clients} SSE clients, one frame, first to last client");
    vec![
        Row::value(&what(plan.clients), "30 ms", 25.0, team.spread.median(), "ms").remark(team.remark()),
        Row::value(&what(plan.crowd), "", 300.0, crowd.spread.median(), "ms").remark(crowd.remark()),
        Row::told(
            &format!("memory of a client, at {} of them", plan.crowd),
            format!("{:.1} kB", crowd.memory * 1e3 / plan.crowd as f64),
        )
        .remark("resident memory of the server, sockets in the system not counted"),
    ]
}

/// What came of frames to many clients.
struct Told {
    spread: Figures,
    last: Figures,
    /// By how much the server grew for the clients, megabytes.
    memory: f64,
}

impl Told {
    fn remark(&self) -> String {
        format!(
            "p95 {:.1} ms, n={}; save to the last client {:.1} ms",
            self.spread.p95(),
            self.spread.count(),
            self.last.median()
        )
    }
}

async fn frames_to(clients: usize, frames: usize) -> Told {
    raise_file_limit(clients);
    let stage = small_project();
    let (dev, mut events) = Dev::ready(&stage).await;
    let resident = || dev.pids().into_iter().map(|pid| field(pid, "Rss:")).sum::<f64>();
    let before = resident();
    let mut clients = Clients::connect(dev.client.address(), dev.client.token(), clients);
    let mut spreads = Vec::with_capacity(frames);
    let mut lasts = Vec::with_capacity(frames);
    for frame in 0..frames {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("v{frame}x")));
        let (first, last) = clients.wait_for_all(b"event: rebuild");
        spreads.push(last - first);
        lasts.push(last - begun);
        events.next_named("rebuild").await;
    }
    let memory = resident() - before;
    drop(clients);
    dev.finish().await;
    Told { spread: Figures::of_times(&spreads), last: Figures::of_times(&lasts), memory }
}

/// Each client is a file here and one in the server, which inherits the limit.
fn raise_file_limit(clients: usize) {
    let wanted = clients as u64 + 1_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    if soft < wanted {
        let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
        raised.unwrap_or_else(|error| panic!("{wanted} open files are needed, {hard} are allowed: {error}"));
    }
}

struct Clients {
    epoll: Epoll,
    sockets: Vec<TcpStream>,
}

impl Clients {
    /// Opens the streams and waits until each has its first frame.
    fn connect(server: SocketAddr, token: &str, count: usize) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("the system has epoll");
        let mut clients = Self { epoll, sockets: Vec::with_capacity(count) };
        let request = format!(
            "GET /api/dev/events HTTP/1.1\r\nhost: {server}\r\nx-midrun-token: {token}\r\naccept: text/event-stream\r\n\r\n"
        );
        for index in 0..count {
            let mut socket =
                TcpStream::connect(server).unwrap_or_else(|error| panic!("client {index}: {error}"));
            socket.write_all(request.as_bytes()).expect("the server has just accepted it");
            socket.set_nonblocking(true).expect("a socket can be made so");
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            clients.epoll.add(&socket, event).expect("the socket is open");
            clients.sockets.push(socket);
        }
        clients.wait_for_all(b"event: ready");
        clients
    }

    /// Reads until every client has `text`; when the first had it, and when the last.
    fn wait_for_all(&mut self, text: &[u8]) -> (Instant, Instant) {
        let mut has = vec![false; self.sockets.len()];
        let mut seen: Vec<Vec<u8>> = vec![Vec::new(); self.sockets.len()];
        let mut left = self.sockets.len();
        let (mut first, mut last) = (None, Instant::now());
        let until = Instant::now() + LIMIT;
        let mut ready = vec![EpollEvent::empty(); 512];
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            assert!(Instant::now() < until, "{left} of {} clients have no frame", self.sockets.len());
            let count = self.epoll.wait(&mut ready, EpollTimeout::from(1_000_u16)).expect("it is open");
            for event in &ready[..count] {
                let index = usize::try_from(event.data()).expect("an index was given");
                let read = match self.sockets[index].read(&mut buffer) {
                    Ok(0) => panic!("the server closed client {index}"),
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("client {index}: {error}"),
                };
                // A frame comes whole as a rule; where it does not, its parts are put together.
                seen[index].extend_from_slice(&buffer[..read]);
                if !has[index] && seen[index].windows(text.len()).any(|window| window == text) {
                    has[index] = true;
                    left -= 1;
                    last = Instant::now();
                    first.get_or_insert(last);
                }
            }
        }
        (first.unwrap_or(last), last)
    }
}
