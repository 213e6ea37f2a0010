//! Slow and broken links between services: a proxy in front of a service that delays, cuts, lets half of an answer through,
//! and heals.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What a link does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// Each piece waits so long.
    Delay(Duration),
    /// Every connection is cut, and every new one at once.
    Cut,
    /// Of the next piece of an answer one half gets through; then the connection is cut.
    HalfThenCut,
    /// The same, but then nothing gets through any more until the link is well.
    HalfThenHang,
}

/// The links to all services; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Links {
    links: Arc<Mutex<HashMap<String, Link>>>,
}

#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    fault: watch::Sender<Option<LinkFault>>,
    /// How often it did something to somebody.
    struck: watch::Sender<usize>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Links {
    /// Stands in front of `service` at `upstream`, which stays there; the address to be told to the others.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn stand_before(&self, service: &str, upstream: SocketAddr) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("the system gives a port");
        let address = listener.local_addr().expect("it is bound");
        let (fault, struck) = (watch::Sender::new(None), watch::Sender::new(0));
        let shared = Arc::new(Shared { upstream, fault, struck });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let link = Link { shared, accepting };
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), link);
        format!("http://{address}")
    }

    /// From now on the link to `service` has this fault.
    pub fn fault(&self, service: &str, fault: LinkFault) {
        self.of(service).fault.send_replace(Some(fault));
    }

    /// The link to `service` is well from now on; what waits goes on.
    pub fn heal(&self, service: &str) {
        self.of(service).fault.send_replace(None);
    }

    /// How often the link to `service` did something to somebody.
    pub fn struck(&self, service: &str) -> usize {
        *self.of(service).struck.borrow()
    }

    fn of(&self, service: &str) -> Arc<Shared> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.get(service).unwrap_or_else(|| panic!("there is no link to {service}"));
        Arc::clone(&link.shared)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
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

async fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut fault = shared.fault.subscribe();
    let cut = async {
        drop(fault.wait_for(|fault| *fault == Some(LinkFault::Cut)).await);
        shared.strike();
        Ok(())
    };
    let both = async {
        let upstream = TcpStream::connect(shared.upstream).await?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_upstream, to_upstream) = upstream.into_split();
        // Who ends one direction ends both: no service here closes only its half.
        tokio::select! {
            ended = pass_on(from_client, to_upstream, shared, false) => ended,
            ended = pass_on(from_upstream, to_client, shared, true) => ended,
        }
    };
    tokio::select! {
        biased;
        ended = cut => ended,
        ended = both => ended,
    }
}

impl Shared {
    fn strike(&self) {
        self.struck.send_modify(|count| *count += 1);
    }
}

async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    is_answer: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let fault = *shared.fault.borrow();
        match fault {
            Some(LinkFault::Delay(time)) => {
                shared.strike();
                tokio::time::sleep(time).await;
            }
            Some(LinkFault::HalfThenCut) if is_answer => {
                to.write_all(&buffer[..count / 2]).await?;
                shared.strike();
                return Ok(());
            }
            Some(LinkFault::HalfThenHang) if is_answer => {
                to.write_all(&buffer[..count / 2]).await?;
                shared.strike();
                let well = |fault: &Option<LinkFault>| *fault != Some(LinkFault::HalfThenHang);
                drop(shared.fault.subscribe().wait_for(well).await);
                to.write_all(&buffer[count / 2..count]).await?;
                continue;
            }
            _ => {}
        }
        to.write_all(&buffer[..count]).await?;
    }
}
