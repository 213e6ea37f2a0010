//! The registry's connection to one run-host.
//!
//! What must hold: every record that is not output reaches the registry once and in order. The host tells of a
//! record only after it stands in the log, so when the connection ends without the last record, what is missing is
//! read from there.

use std::path::{Path, PathBuf};

use failpoint::Point;
use supervise::Life;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use wire::RunId;
use wire::host::{HostRequest, HostSays};
use wire::log::{Record, Step};

/// Requests on their way to a host. More than one per save is never sent, so this is hours of a hanging host.
const MAX_REQUESTS: usize = 64;

/// What a host told.
#[derive(Debug)]
pub(crate) enum Told {
    /// A record that is not output.
    Record(Record),
    /// A request was carried out.
    Done { id: u64 },
    /// A request was not carried out.
    Refused { id: u64, why: String },
    /// The connection is gone, and the log has no last record.
    Lost { why: String },
}

/// The sending end of a link.
#[derive(Debug)]
pub(crate) struct Link {
    requests: mpsc::Sender<HostRequest>,
    pub(crate) newest: watch::Receiver<u64>,
}

impl Link {
    /// Queues a request.
    pub(crate) fn send(&self, request: HostRequest) -> Result<(), &'static str> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "its host does not take requests",
            mpsc::error::TrySendError::Closed(_) => "its host is gone",
        })
    }
}

/// Follows the host behind `stream`, whose log is the file, from the record after the number on. `tell` gets everything
/// it tells; the link ends after the last record or [`Told::Lost`], and with `life`.
pub(crate) fn follow<F>(
    life: &Life,
    run: RunId,
    stream: UnixStream,
    (log, after): (PathBuf, u64),
    tell: F,
) -> Link
where
    F: AsyncFn(RunId, Told) + 'static,
{
    let (requests, queue) = mpsc::channel(MAX_REQUESTS);
    let (grew, newest) = watch::channel(after);
    let (reading, writing) = stream.into_split();
    let (gone, mut is_gone) = oneshot::channel::<()>();
    life.spawn(async move {
        tokio::select! {
            () = write(writing, queue, after) => {}
            _ = &mut is_gone => {}
        }
    });
    life.spawn(async move {
        let mut seen = after;
        let ended = read(&run, reading, &mut seen, &grew, &tell).await;
        drop(gone);
        if !ended {
            catch_up(&run, &log, seen, &grew, &tell).await;
        }
    });
    Link { requests, newest }
}

async fn write(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<HostRequest>, after: u64) {
    let mut request = Some(HostRequest::Subscribe { after });
    while let Some(next) = request {
        let mut line = serde_json::to_vec(&next).expect("a wire type is always JSON");
        line.push(b'\n');
        if stream.write_all(&line).await.is_err() {
            return;
        }
        if !matches!(next, HostRequest::Subscribe { .. }) {
            failpoint::reach(Point::RequestWritten);
        }
        request = queue.recv().await;
    }
}

/// Reads until the last record (true) or the end of the connection (false).
async fn read<F>(
    run: &RunId,
    stream: OwnedReadHalf,
    seen: &mut u64,
    grew: &watch::Sender<u64>,
    tell: &F,
) -> bool
where
    F: AsyncFn(RunId, Told),
{
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(HostSays::Record { record }) => {
                if record.seq <= *seen {
                    continue;
                }
                *seen = record.seq;
                let last = matches!(record.step, Step::Exit { .. });
                grew.send_if_modified(|newest| raise(newest, record.seq));
                tell(run.clone(), Told::Record(record)).await;
                if last {
                    return true;
                }
            }
            Ok(HostSays::Grew { seq, .. }) => {
                grew.send_if_modified(|newest| raise(newest, seq));
            }
            Ok(HostSays::Done { id }) => tell(run.clone(), Told::Done { id }).await,
            Ok(HostSays::Refused { id, why } | HostSays::Busy { id, why }) => {
                tell(run.clone(), Told::Refused { id, why }).await
            }
            Err(error) => {
                tracing::warn!(%run, %error, "a run-host said something that is not of this version")
            }
        }
    }
    false
}

fn raise(newest: &mut u64, seq: u64) -> bool {
    let higher = seq > *newest;
    *newest = seq.max(*newest);
    higher
}

/// Reads from the log what the connection did not bring.
async fn catch_up<F>(run: &RunId, log: &Path, seen: u64, grew: &watch::Sender<u64>, tell: &F)
where
    F: AsyncFn(RunId, Told),
{
    let path = log.to_owned();
    let rest = tokio::task::spawn_blocking(move || runlog::Follower::open(&path, seen)?.rest()).await;
    let rest = rest.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    let mut ended = false;
    let why = match rest {
        Ok(records) => {
            for record in records {
                ended = matches!(record.step, Step::Exit { .. });
                grew.send_if_modified(|newest| raise(newest, record.seq));
                tell(run.clone(), Told::Record(record)).await;
            }
            "its run-host ended without saying how the runner ended".to_owned()
        }
        Err(error) => format!("its run-host is gone and its log cannot be read: {error}"),
    };
    if !ended {
        tell(run.clone(), Told::Lost { why }).await;
    }
}
