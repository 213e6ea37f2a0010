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
        let mut hearing = Hearing { place, seen: after, grew, tell };
        life.spawn(async move {
            let ended = hearing.listen(reading).await;
            drop(gone);
            if !ended {
                hearing.catch_up().await;
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
    place: Place,
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
                    let folder = self.place.dir().display();
                    tracing::warn!(%folder, %error, "a host said something that is not of this version");
                    continue;
                }
            };
            (self.tell)(Told::Answer { id, answer });
        }
        false
    }

    /// Reads from the log what the connection did not bring.
    async fn catch_up(&mut self) {
        let (place, seen) = (self.place.clone(), self.seen);
        let rest = tokio::task::spawn_blocking(move || place.life(seen)).await;
        let mut ended = false;
        let why = match rest.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(records) => {
                for record in records {
                    ended = self.take(record);
                }
                match self.place.log().exists() {
                    true => "its host ended without saying how".to_owned(),
                    false => format!("its host is gone, and so is its log {}", self.place.log().display()),
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;
    use supervise::{Part, Policy};
    use wire::log::Stream;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A link to a host that a test plays.
    struct Hosted {
        _dir: tempfile::TempDir,
        log: std::path::PathBuf,
        host: UnixStream,
        link: Link,
        told: mpsc::UnboundedReceiver<Told>,
        part: Part,
    }

    fn follow(after: u64) -> Hosted {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().join("run"), dir.path().join("h.sock"));
        std::fs::create_dir(place.dir()).unwrap();
        let log = place.log();
        let (ours, host) = UnixStream::pair().unwrap();
        let (tells, told) = mpsc::unbounded_channel();
        let (made, mut ours) = (Rc::new(RefCell::new(None)), Some(ours));
        let keep = Rc::clone(&made);
        let life = move |life: &Life| {
            let (tells, stream) = (tells.clone(), ours.take().expect("it has one life"));
            let tell = move |what| tells.send(what).expect("the test listens");
            *keep.borrow_mut() = Some(Link::follow(life, place.clone(), stream, after, tell));
            Ok(())
        };
        let part = Part::start("a-registry", Policy::default(), life).expect("it needs nothing");
        let link = made.borrow_mut().take().expect("it has begun");
        Hosted { _dir: dir, log, host, link, told, part }
    }

    impl Hosted {
        async fn says(&mut self, what: &HostSays) {
            let line = format!("{}\n", serde_json::to_string(what).unwrap());
            self.host.write_all(line.as_bytes()).await.unwrap();
        }

        async fn next(&mut self) -> Told {
            tokio::time::timeout(LIMIT, self.told.recv())
                .await
                .expect("it is told")
                .expect("and more may follow")
        }

        /// Everything that is told until nobody tells any more.
        async fn rest(mut self) -> Vec<Told> {
            // The host's own part is the last reason to listen.
            self.host.shutdown().await.unwrap();
            let mut all = Vec::new();
            loop {
                let told = self.next().await;
                let last = matches!(&told, Told::Lost { .. })
                    || matches!(&told, Told::Record(record) if matches!(record.step, Step::Exit { .. }));
                all.push(told);
                if last {
                    self.part.retire(LIMIT).await;
                    assert!(self.told.try_recv().is_err(), "that was the last word");
                    return all;
                }
            }
        }
    }

    fn checkpoint(step: u64) -> Step {
        Step::Checkpoint { step }
    }

    fn exit() -> Step {
        Step::Exit { code: 0, signal: None }
    }

    fn record(seq: u64, step: Step) -> HostSays {
        HostSays::Record { record: Record { seq, ts: String::new(), step } }
    }

    fn write_log(path: &Path, steps: impl IntoIterator<Item = Step>) {
        let mut log = runlog::Writer::create(path).unwrap();
        steps.into_iter().for_each(|step| log.append(step));
        assert!(log.flush());
    }

    fn seqs(told: &[Told]) -> Vec<u64> {
        let seq = |told: &Told| if let Told::Record(record) = told { Some(record.seq) } else { None };
        told.iter().filter_map(seq).collect()
    }

    #[actix_rt::test]
    async fn it_asks_for_what_is_new_and_passes_each_record_on_once() {
        let mut hosted = follow(3);
        let mut lines = BufReader::new(&mut hosted.host).lines();
        let first = lines.next_line().await.unwrap().expect("it subscribes");
        assert!(matches!(serde_json::from_str(&first).unwrap(), HostRequest::Subscribe { after: 3 }));
        for says in [record(3, checkpoint(1)), record(4, checkpoint(2)), record(4, checkpoint(2))] {
            hosted.says(&says).await;
        }
        hosted.says(&HostSays::Busy { id: 7, why: "later".into() }).await;
        hosted.says(&record(9, exit())).await;
        let newest = hosted.link.newest();
        let told = hosted.rest().await;
        assert_eq!(seqs(&told), [4, 9]);
        let busy = Answer::Busy("later".into());
        assert!(told.iter().any(|told| matches!(told, Told::Answer { id: 7, answer } if *answer == busy)));
        assert_eq!(*newest.borrow(), 9);
    }

    #[actix_rt::test]
    async fn what_a_broken_connection_did_not_bring_is_read_from_the_log() {
        let mut hosted = follow(0);
        let output = Step::Output { stream: Stream::Stdout, text: Some("x".into()), base64: None };
        write_log(&hosted.log, [checkpoint(1), output, checkpoint(2), exit()]);
        hosted.says(&record(1, checkpoint(1))).await;
        assert!(matches!(hosted.next().await, Told::Record(Record { seq: 1, .. })));
        assert_eq!(seqs(&hosted.rest().await), [3, 4], "output has other readers");
    }

    #[actix_rt::test]
    async fn a_host_that_goes_without_a_word_is_lost() {
        let hosted = follow(0);
        write_log(&hosted.log, [checkpoint(1)]);
        let told = hosted.rest().await;
        assert_eq!(seqs(&told), [1]);
        assert!(matches!(&told[1], Told::Lost { why } if why.contains("without saying how")), "{told:?}");

        let hosted = follow(0);
        let log = hosted.log.display().to_string();
        let told = hosted.rest().await;
        assert!(matches!(&told[0], Told::Lost { why } if why.contains(&log)), "{told:?}");
    }

    #[actix_rt::test]
    async fn a_request_to_a_host_that_is_gone_is_refused_and_one_too_many_is_too() {
        let hosted = follow(0);
        let request = || HostRequest::Stop {
            id: 1,
            mode: wire::StopMode::Now,
            traceparent: None,
            why: "x".repeat(1 << 16),
        };
        let busy = (0..=2 * MAX_REQUESTS).find_map(|_| hosted.link.send(request()).err());
        assert!(matches!(busy, Some(Answer::Busy(_))), "{busy:?}");
        let Hosted { link, host, mut told, .. } = hosted;
        drop(host);
        while !matches!(tokio::time::timeout(LIMIT, told.recv()).await.unwrap(), Some(Told::Lost { .. })) {}
        assert!(matches!(link.send(request()), Err(Answer::Refused(_))));
    }
}
