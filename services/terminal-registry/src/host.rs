//! One session's host: how it is started, found again, spoken to, and what is left when it is gone.
//!
//! What must hold: what a host needs stands in its folder before it is started; it belongs to no terminal and dies with
//! nobody; every record that is not output reaches the registry once and in order, even when the connection broke:
//! the log has it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Launch, Marker, Spawner, Tree, kill_tree};
use supervise::Life;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use wire::TerminalId;
use wire::host::{HostRequest, HostSays, Spec};
use wire::log::{Record, Step};

use crate::settings::Settings;

/// How long a host may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);
/// Requests on their way to a host.
const MAX_REQUESTS: usize = 256;

/// Where everything of a session is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Place {
    pub(crate) fn of(settings: &Settings, id: &TerminalId) -> Self {
        Self {
            folder: settings.terminals_dir.join(id.as_str()),
            socket: settings.socket_dir.join(format!("{id}.sock")),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("events.jsonl")
    }

    /// What a host was given.
    pub(crate) fn spec(&self) -> io::Result<Spec> {
        let text = std::fs::read(self.folder.join("spec.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    /// Every record of life that stands in the log after `after`; none where there is no log.
    pub(crate) fn life(&self, after: u64) -> io::Result<Vec<Record>> {
        match runlog::Follower::open(&self.log(), after) {
            Ok(mut follower) => follower.rest(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes what the host needs and opens the file for what it says on standard error.
    fn prepare(&self, spec: &Spec) -> io::Result<File> {
        for folder in [Some(self.folder.as_path()), self.socket.parent()].into_iter().flatten() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let path = self.folder.join("spec.json");
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(&serde_json::to_vec_pretty(spec)?)?;
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.folder.join("host.log"))
    }

    fn host_is_alive(&self) -> bool {
        let read = std::fs::read(self.folder.join("host.json")).ok();
        read.and_then(|text| serde_json::from_slice::<process::Identity>(&text).ok())
            .is_some_and(|identity| identity.is_alive())
    }
}

/// Starts the host of a session and connects to it.
pub(crate) async fn start(settings: &Settings, place: &Place, spec: Spec) -> Result<UnixStream, String> {
    let at = place.clone();
    let host_log = tokio::task::spawn_blocking(move || at.prepare(&spec))
        .await
        .map_err(|panic| panic.to_string())?
        .map_err(|error| format!("{} cannot be written: {error}", place.folder.display()))?;
    let (program, args) = settings.host_command.split_first().ok_or("no program to start as a host")?;
    let launch = Launch::new(program).args(args).arg("--dir").arg(&place.folder).detached();
    let launch = launch.huge_pages(false).stderr(host_log);
    let mut host = Spawner::get().spawn(launch).await.map_err(|error| format!("no host: {error}"))?;
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        match UnixStream::connect(&place.socket).await {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < until && matches!(host.try_wait(), Ok(None)) => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(error) => {
                let said = tokio::fs::read_to_string(place.folder.join("host.log")).await.unwrap_or_default();
                return Err(match said.trim() {
                    "" => format!("its host does not listen: {error}"),
                    said => format!("its host did not start: {said}"),
                });
            }
        }
    }
}

/// Connects to the host of a session that an earlier server started; nothing when it is gone.
pub(crate) async fn find_again(place: &Place) -> Option<UnixStream> {
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        match UnixStream::connect(&place.socket).await {
            Ok(stream) => return Some(stream),
            // A host that lives but does not listen is about to, or has just ended its session.
            Err(_) if Instant::now() < until && place.host_is_alive() => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(_) => return None,
        }
    }
}

/// Kills what a host that is gone left behind, and says what that was.
pub(crate) async fn clean_up(id: TerminalId, grace: Duration) -> Option<String> {
    let marker = Marker { name: "MIDRUN_TERMINAL_ID".to_owned(), value: id.to_string() };
    let killing = tokio::task::spawn_blocking(move || kill_tree(Tree::marked_only(marker), grace));
    let report = killing.await.ok()?;
    let pids: Vec<_> = report.killed.iter().map(|killed| killed.pid.to_string()).collect();
    (!pids.is_empty()).then(|| format!("ended what it left behind: process {}", pids.join(", ")))
}

/// What a host told.
#[derive(Debug)]
pub(crate) enum Told {
    /// A record that is not output.
    Record(Record),
    /// What became of a request.
    Answer { id: u64, answer: Answer },
    /// The connection is gone, and the log has no last record.
    Lost,
}

/// What became of a request to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(String),
    Busy(String),
}

/// The sending end of a connection to a host.
#[derive(Debug)]
pub(crate) struct Link {
    requests: mpsc::Sender<HostRequest>,
    pub(crate) newest: watch::Receiver<u64>,
}

impl Link {
    /// Queues a request.
    pub(crate) fn send(&self, request: HostRequest) -> Result<(), Answer> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Answer::Busy(format!("{MAX_REQUESTS} requests wait for its host"))
            }
            mpsc::error::TrySendError::Closed(_) => Answer::Refused("its host is gone".to_owned()),
        })
    }
}

/// Follows the host behind `stream` from the record after the number on. `tell` gets everything it tells; it ends after
/// the last record or [`Told::Lost`], and with `life`.
pub(crate) fn follow<F>(life: &Life, place: Place, (stream, after): (UnixStream, u64), tell: F) -> Link
where
    F: Fn(Told) + 'static,
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
        let ended = read(reading, &mut seen, &grew, &tell).await;
        drop(gone);
        if !ended {
            catch_up(place, seen, &grew, &tell).await;
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
        request = queue.recv().await;
    }
}

/// Reads until the last record (true) or the end of the connection (false).
async fn read(
    stream: OwnedReadHalf,
    seen: &mut u64,
    grew: &watch::Sender<u64>,
    tell: &impl Fn(Told),
) -> bool {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(HostSays::Record { record }) if record.seq <= *seen => {}
            Ok(HostSays::Record { record }) => {
                *seen = record.seq;
                if take(record, grew, tell) {
                    return true;
                }
            }
            Ok(HostSays::Grew { seq, .. }) => raise(grew, seq),
            Ok(HostSays::Done { id }) => tell(Told::Answer { id, answer: Answer::Done }),
            Ok(HostSays::Refused { id, why }) => tell(Told::Answer { id, answer: Answer::Refused(why) }),
            Ok(HostSays::Busy { id, why }) => tell(Told::Answer { id, answer: Answer::Busy(why) }),
            Err(error) => tracing::warn!(%error, "a host said something that is not of this version"),
        }
    }
    false
}

/// Passes a record on; whether it is the last one.
fn take(record: Record, grew: &watch::Sender<u64>, tell: &impl Fn(Told)) -> bool {
    let last = matches!(record.step, Step::Exit { .. });
    raise(grew, record.seq);
    tell(Told::Record(record));
    last
}

fn raise(grew: &watch::Sender<u64>, seq: u64) {
    grew.send_if_modified(|newest| {
        let higher = seq > *newest;
        *newest = seq.max(*newest);
        higher
    });
}

/// Reads from the log what the connection did not bring.
async fn catch_up(place: Place, seen: u64, grew: &watch::Sender<u64>, tell: &impl Fn(Told)) {
    let rest = tokio::task::spawn_blocking(move || place.life(seen)).await;
    let rest = rest.unwrap_or_else(|panic| Err(io::Error::other(panic))).unwrap_or_else(|error| {
        tracing::warn!(%error, "the log of a terminal whose host is gone cannot be read");
        Vec::new()
    });
    let mut ended = false;
    for record in rest {
        ended = take(record, grew, tell);
    }
    if !ended {
        tell(Told::Lost);
    }
}

/// Removes a session's folder.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "the folder of an ended terminal stays");
    }
}
