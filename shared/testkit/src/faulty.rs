//! A control plane with faults: a proxy in front of a real one that delays, cuts, fails or hangs on demand.
//!
//! Each connection carries one request: both sides are told that it closes. So a fault concerns exactly the requests
//! whose path it names.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, and never reaches the control plane.
    Answer(u16),
    /// The connection is closed without an answer; the control plane never sees the request.
    Refuse,
    /// It reaches the control plane, which handles it; the connection is closed before the answer.
    LoseAnswer,
    /// It waits until the faults change.
    Hang,
    /// It waits so long, then goes on.
    Delay(Duration),
    /// Its answer is cut after so many bytes, head included.
    CutAfter(usize),
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    /// Faults by what a request's line contains; the first that fits is it.
    faults: watch::Sender<Vec<(String, Fault)>>,
    seen: Mutex<HashMap<String, usize>>,
}

/// The proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct FaultyControlPlane {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

const LONGEST_HEAD: usize = 64 * 1024;

impl FaultyControlPlane {
    /// A proxy in front of the control plane at `upstream`, without faults.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn in_front_of(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("the system gives a port");
        let address = listener.local_addr().expect("it is bound");
        let (faults, seen) = (watch::Sender::new(Vec::new()), Mutex::default());
        let shared = Arc::new(Shared { upstream, faults, seen });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, requests whose line (`POST /v1/jobs?… HTTP/1.1`) contains `which` have this fault, and no others.
    pub fn only(&self, which: &str, fault: Fault) {
        self.shared.faults.send_replace(vec![(which.to_owned(), fault)]);
    }

    /// No faults from now on; who hangs goes on.
    pub fn heal(&self) {
        self.shared.faults.send_replace(Vec::new());
    }

    /// How many requests came whose line contains `which`.
    pub fn count(&self, which: &str) -> usize {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(line, _)| line.contains(which)).map(|(_, count)| count).sum()
    }
}

impl Drop for FaultyControlPlane {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // Either side may break off whenever it likes.
            let _ = serve(stream, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    *shared.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(line.clone()).or_default() += 1;
    let mut faults = shared.faults.subscribe();
    let fault = loop {
        let fault =
            faults.borrow_and_update().iter().find(|(which, _)| line.contains(which)).map(|(_, f)| f.clone());
        if fault != Some(Fault::Hang) {
            break fault;
        }
        faults.changed().await.map_err(io::Error::other)?;
    };
    match fault {
        Some(Fault::Refuse) => return Ok(()),
        Some(Fault::Answer(status)) => {
            let body = r#"{"error":"a fault of the test"}"#;
            let head =
                format!("HTTP/1.1 {status} Fault\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            return client.write_all(answer.as_bytes()).await;
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::LoseAnswer | Fault::CutAfter(_) | Fault::Hang) | None => {}
    }
    let mut upstream = TcpStream::connect(shared.upstream).await?;
    upstream.write_all(closing(&head).as_bytes()).await?;
    upstream.write_all(&rest).await?;
    let limit = match fault {
        Some(Fault::CutAfter(bytes)) => Some(bytes),
        Some(Fault::LoseAnswer) => Some(0),
        _ => None,
    };
    forward(client, upstream, limit).await
}

/// Passes the rest of the request on, and the answer back, up to `limit` bytes of it.
async fn forward(client: TcpStream, upstream: TcpStream, limit: Option<usize>) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_upstream, mut to_upstream) = upstream.into_split();
    let request = async {
        tokio::io::copy(&mut from_client, &mut to_upstream).await?;
        Ok::<_, io::Error>(())
    };
    let answer = async {
        let mut left = limit;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from_upstream.read(&mut buffer).await?;
            let count = left.map_or(count, |left| count.min(left));
            if count == 0 {
                return Ok::<_, io::Error>(());
            }
            to_client.write_all(&buffer[..count]).await?;
            left = left.map(|left| left - count);
        }
    };
    // A client that goes away takes its request with it; an answer that ended ends both.
    tokio::select! {
        ended = answer => ended,
        ended = request => ended,
    }
}

async fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer).await?;
        if count == 0 || bytes.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// The head with `connection: close` in place of what it says of the connection.
fn closing(head: &str) -> String {
    let kept = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut head: String = kept.map(|line| format!("{line}\r\n")).collect();
    head.push_str("connection: close\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    /// Answers every request with its own target.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (head, _) = read_head(&mut stream).await.unwrap();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    assert!(head.contains("connection: close"), "{head}");
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{target}",
                        target.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn faults_concern_what_they_name_and_end_when_they_are_healed() {
        let proxy = FaultyControlPlane::in_front_of(echo().await).await;
        let client = Client::new(proxy.address, "t");
        assert_eq!(client.get("/a?b=1").await.expect(200).text(), "/a?b=1");
        proxy.only("/a", Fault::Answer(503));
        assert_eq!(client.get("/a").await.status, 503);
        assert_eq!(client.get("/b").await.expect(200).text(), "/b");
        for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::CutAfter(20)] {
            proxy.only("/a", fault.clone());
            assert!(client.ask("GET", "/a").try_open().await.is_err(), "{fault:?}");
        }
        proxy.only("/a", Fault::Hang);
        let hanging = tokio::spawn({
            let client = client.clone();
            async move { client.get("/a").await.text() }
        });
        client.get("/b").await.expect(200).text();
        assert!(!hanging.is_finished());
        proxy.heal();
        assert_eq!(hanging.await.unwrap(), "/a");
        assert_eq!(proxy.count("GET /a "), 5);
    }
}
