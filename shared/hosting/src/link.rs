//! A connection to a host.
//!
//! A record that is not output stands in the log before the host tells of it, unless its disk refuses it; so when the connection ends without the
//! last record, what is missing is read from there.

use failpoint::Point;
use supervise::Life;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use wire::host::{HostRequest, HostSays};
use wire::log::{Record, Step};

use crate::Place;

/// Requests on their way to a host: minutes of one that hangs while somebody types into it.
const MAX_REQUESTS: usize = 256;

/// What a host told.
#[derive(Debug)]
pub enum Told {
    /// A record that is not output.
    Record(Record),
    /// What became of a request.
    Answer {
        /// The request.
        id: u64,
        /// What became of it.
        answer: Answer,
    },
    /// The connection is gone, and the log has no last record.
    Lost {
        /// For a person.
        why: String,
    },
}

/// What became of a request to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was carried out.
    Done,
    /// It was not, and never will be.
    Refused(String),
    /// It was not, and may be asked again.
    Busy(String),
}

/// The sending end of a connection.
#[derive(Debug)]
pub struct Link {
    requests: mpsc::Sender<HostRequest>,
    newest: watch::Receiver<u64>,
}

impl Link {
    /// Follows the host at `place` over `stream`, from the record behind `after` on. `tell` gets everything that it tells;
    /// that ends after the last record or [`Told::Lost`], and with `life`.
    pub fn follow(
        life: &Life,
        place: Place,
        stream: UnixStream,
        after: u64,
        tell: impl Fn(Told) + 'static,
    ) -> Self {
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
        let mut hearing = Hearing { seen: after, grew, tell };
        life.spawn(async move {
            let ended = hearing.listen(reading).await;
            drop(gone);
            if !ended {
                hearing.catch_up(place).await;
            }
        });
        Self { requests, newest }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// That it is not queued, as an answer of the host.
    pub fn send(&self, request: HostRequest) -> Result<(), Answer> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Answer::Busy(format!("{MAX_REQUESTS} requests wait for its host"))
            }
            mpsc::error::TrySendError::Closed(_) => Answer::Refused("its host is gone".to_owned()),
        })
    }

    /// The number of the newest record in the log, output included.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }
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

/// Hears what a host says, and passes it on.
struct Hearing<F> {
    seen: u64,
    grew: watch::Sender<u64>,
    tell: F,
}

impl<F: Fn(Told)> Hearing<F> {
    /// Listens until the last record (true) or the end of the connection (false).
    async fn listen(&mut self, stream: OwnedReadHalf) -> bool {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let (id, answer) = match serde_json::from_str(&line) {
                Ok(HostSays::Record { record }) if record.seq <= self.seen => continue,
                Ok(HostSays::Record { record }) => {
                    if self.take(record) {
                        return true;
                    }
                    continue;
                }
                Ok(HostSays::Grew { seq, .. }) => {
                    self.raise(seq);
                    continue;
                }
                Ok(HostSays::Done { id }) => (id, Answer::Done),
                Ok(HostSays::Refused { id, why }) => (id, Answer::Refused(why)),
                Ok(HostSays::Busy { id, why }) => (id, Answer::Busy(why)),
                Err(error) => {
                    tracing::warn!(%error, "a host said something that is not of this version");
                    continue;
                }
            };
            (self.tell)(Told::Answer { id, answer });
        }
        false
    }

    /// Reads from the log what the connection did not bring.
    async fn catch_up(&mut self, place: Place) {
        let seen = self.seen;
        let rest = tokio::task::spawn_blocking(move || place.life(seen)).await;
        let mut ended = false;
        let why = match rest.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(records) => {
                for record in records {
                    ended = self.take(record);
                }
                "its host ended without saying how".to_owned()
            }
            Err(error) => format!("its host is gone, and its log cannot be read: {error}"),
        };
        if !ended {
            (self.tell)(Told::Lost { why });
        }
    }

    /// Passes a record on; whether it is the last one.
    fn take(&mut self, record: Record) -> bool {
        self.seen = record.seq;
        let last = matches!(record.step, Step::Exit { .. });
        self.raise(record.seq);
        (self.tell)(Told::Record(record));
        last
    }

    fn raise(&self, seq: u64) {
        self.grew.send_if_modified(|newest| {
            let higher = seq > *newest;
            *newest = seq.max(*newest);
            higher
        });
    }
}
