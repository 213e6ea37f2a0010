//! One frame to two thousand clients.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::support::*;

const CLIENTS: usize = 2000;
const FRAMES: usize = 20;
/// About as long as a rebuild's frame.
const LENGTH: usize = 1200;

/// Not the bar itself, which is for a quiet machine, but what no machine may exceed. Prints what it measured.
const BOUND: Duration = Duration::from_secs(2);

#[actix_web::test]
async fn two_thousand_clients_get_a_frame_at_nearly_the_same_time() {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    let wanted = 2 * CLIENTS as u64 + 500;
    if soft < wanted {
        nix::sys::resource::setrlimit(limit, wanted.min(hard), hard).expect("as many files as clients");
    }
    let edge = edge();
    let before = resident_kb();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let (ready, mut all_ready) = watch::channel(0);
    let address = edge.address;
    // The clients have a thread of their own, as a browser would.
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tally = Rc::new(RefCell::new(Tally { frame: 0, times: Vec::with_capacity(CLIENTS), arrived }));
        let tasks = tokio::task::LocalSet::new();
        for _ in 0..CLIENTS {
            tasks.spawn_local(client(address, ready.clone(), Rc::clone(&tally)));
        }
        drop((ready, tally));
        runtime.block_on(tasks);
    });
    soon(all_ready.wait_for(|count| *count == CLIENTS)).await.unwrap();
    let each = resident_kb().saturating_sub(before) as f64 / CLIENTS as f64;

    let (mut spreads, mut firsts) = (Vec::new(), Vec::new());
    for n in 0..FRAMES {
        let published = Instant::now();
        edge.registry.events.publish(error_frame(&format!("{n} {}", "x".repeat(LENGTH))));
        let (first, last) = soon(arrivals.recv()).await.expect("the clients are there");
        firsts.push(first - published);
        spreads.push(last - first);
    }
    assert_eq!(edge.metric("midrun_sse_frames_encoded_total").await, FRAMES as u64);
    assert_eq!(edge.metric(r#"midrun_sse_frames_total{stream="dev"}"#).await, (CLIENTS * FRAMES) as u64);
    spreads.sort();
    firsts.sort();
    println!(
        "{CLIENTS} clients, one frame of {LENGTH} bytes: first to last p50 {:.1?}, p95 {:.1?}; publish to first p50 \
         {:.1?}; {each:.1} kB resident a client, server and test client together",
        spreads[FRAMES / 2],
        spreads[FRAMES * 95 / 100],
        firsts[FRAMES / 2],
    );
    assert!(spreads[FRAMES / 2] < BOUND, "{:?}", spreads[FRAMES / 2]);
    let begun = Instant::now();
    edge.handle.shutdown(Duration::from_secs(30)).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    clients.join().unwrap();
}

/// When the frame that is on its way came to each client so far.
struct Tally {
    frame: usize,
    times: Vec<Instant>,
    arrived: mpsc::Sender<(Instant, Instant)>,
}

impl Tally {
    /// Every client gets every frame once, in order.
    fn note(&mut self, frame: usize, at: Instant) {
        assert_eq!(frame, self.frame);
        self.times.push(at);
        if self.times.len() == CLIENTS {
            let (first, last) = (*self.times.iter().min().unwrap(), *self.times.iter().max().unwrap());
            self.arrived.try_send((first, last)).expect("somebody waits for it");
            self.times.clear();
            self.frame += 1;
        }
    }
}

async fn client(address: std::net::SocketAddr, ready: watch::Sender<usize>, tally: Rc<RefCell<Tally>>) {
    let mut socket = TcpStream::connect(address).await.expect("room for one more");
    let head = format!("GET /api/dev/events HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::with_capacity(4096);
    while !contains(&text, b"retry: 1000\n\n") {
        assert_ne!(socket.read_buf(&mut text).await.unwrap(), 0);
    }
    ready.send_modify(|count| *count += 1);
    // Behind the head there are frames and now and then a comment, each in a chunk of its own.
    text.clear();
    let mut frames = 0;
    while socket.read_buf(&mut text).await.is_ok_and(|count| count > 0) {
        let now = Instant::now();
        if text.len() > LENGTH && text.ends_with(b"\n\n\r\n") {
            assert!(contains(&text[..200], format!("\"message\":\"{frames} x").as_bytes()));
            tally.borrow_mut().note(frames, now);
            frames += 1;
            text.clear();
        }
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
