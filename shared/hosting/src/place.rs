//! Where a host is: its folder and its socket, and how it is started and found again there.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Child, Identity, Launch, Marker, Spawner};
use tokio::net::UnixStream;
use tokio::time::Instant;
use wire::host::Spec;
use wire::log::Record;

/// How long a host that lives may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// The file with what a host is given.
const SPEC: &str = "spec.json";
/// What stands in the claim of a log that no host will ever write.
const NOBODY: &[u8] = b"{}";
/// Between two looks at whether it listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// Where a host keeps what it does, and where it listens.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
    socket: PathBuf,
}

/// A host that was just started, and the first connection to it.
#[derive(Debug)]
pub struct Started {
    /// Its process. To be waited for when it has ended, or dropped.
    pub child: Child,
    /// The connection.
    pub stream: UnixStream,
}

impl Place {
    /// A host in the folder `dir` that listens at `socket`.
    pub fn new(dir: PathBuf, socket: PathBuf) -> Self {
        Self { dir, socket }
    }

    /// The host's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the host listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the host's process wrote and what happened to it.
    pub fn log(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    /// What a host was given. Blocks on the disk.
    ///
    /// # Errors
    /// The system's, also when what stands there is no spec.
    pub fn spec(&self) -> std::io::Result<Spec> {
        let text = std::fs::read(self.dir.join(SPEC))?;
        serde_json::from_slice(&text).map_err(std::io::Error::other)
    }

    /// The records behind `after` in its log, but for output; none where there is no log. Blocks on the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn life(&self, after: u64) -> std::io::Result<Vec<Record>> {
        match runlog::Follower::open(&self.log(), after) {
            Ok(mut follower) => follower.rest(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes the folder and writes `bytes` to the file `name` in it, for its owner alone. Blocks on the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let path = self.dir.join(name);
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600).open(&path)?.write_all(bytes)?;
        Ok(path)
    }

    /// Starts a host by `command`, to whose arguments `--dir FOLDER` is added, and connects to it. The host, and so
    /// everything below it, has `marker` in its environment, if there is one.
    ///
    /// # Errors
    /// Why there is no host, for a person; what was said by one that did not start is in it.
    pub async fn start(
        &self,
        command: &[OsString],
        spec: &Spec,
        marker: Option<&Marker>,
    ) -> Result<Started, String> {
        let (program, args) = command.split_first().ok_or("no program to start as a host")?;
        let (place, text) =
            (self.clone(), serde_json::to_vec_pretty(spec).map_err(|error| error.to_string())?);
        let host_log = tokio::task::spawn_blocking(move || place.prepare(&text))
            .await
            .map_err(|panic| panic.to_string())?
            .map_err(|error| format!("{} cannot be written: {error}", self.dir.display()))?;
        let launch = Launch::new(program)
            .args(args)
            .arg("--dir")
            .arg(&self.dir)
            // Where this is called from within a run, its host is no part of that run.
            .env_remove("MIDRUN_RUN_ID")
            .env_remove("MIDRUN_RUN_DIR")
            .detached()
            .huge_pages(false)
            .stderr(host_log);
        let launch = match marker {
            Some(marker) => launch.env(&marker.name, &marker.value),
            None => launch,
        };
        let mut child = Spawner::get().spawn(launch).await.map_err(|error| {
            format!("no host: {} cannot be started: {error}", Path::new(program).display())
        })?;
        let until = Instant::now() + LISTEN_LIMIT;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(Started { child, stream }),
                Err(_) if Instant::now() < until && matches!(child.try_wait(), Ok(None)) => {
                    tokio::time::sleep(LISTEN_PAUSE).await;
                }
                Err(error) => {
                    let _ = child.end(Duration::ZERO).await;
                    return Err(self.did_not_listen(&error).await);
                }
            }
        }
    }

    fn prepare(&self, spec: &[u8]) -> std::io::Result<std::fs::File> {
        if let Some(folder) = self.socket.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        self.keep(SPEC, spec)?;
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(self.dir.join("host.log"))
    }

    async fn did_not_listen(&self, error: &std::io::Error) -> String {
        let said = tokio::fs::read_to_string(self.dir.join("host.log")).await.unwrap_or_default();
        match said.trim() {
            "" => format!("the host does not listen: {error}"),
            said => format!("the host did not start: {said}"),
        }
    }

    /// Connects to the host that somebody else may have started; `None` when it is gone, or lives and does not listen
    /// for 10 s. One that was started and has not begun yet never will then: who claims the log first has it.
    pub async fn reconnect(&self) -> Option<UnixStream> {
        let until = Instant::now() + LISTEN_LIMIT;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Some(stream),
                Err(_) => match self.identity() {
                    // One that lives but does not listen is about to, or has just ended.
                    Some(host) if Instant::now() < until && host.is_alive() => {
                        tokio::time::sleep(LISTEN_PAUSE).await;
                    }
                    Some(_) => return None,
                    None if runlog::claim(&self.dir, NOBODY).is_ok() => return None,
                    // Somebody was faster: a host, or one who shut it out.
                    None if self.identity().is_none() => return None,
                    None => {}
                },
            }
        }
    }

    /// Who the host is, or was; `None` when none has begun.
    pub fn identity(&self) -> Option<Identity> {
        serde_json::from_slice(&runlog::claimed_by(&self.dir).ok()??).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().join("job/host"), dir.path().join("sockets/h.sock"));
        (dir, place)
    }

    fn spec(place: &Place) -> Spec {
        let socket = place.socket().to_str().unwrap();
        let spec = serde_json::json!({
            "run": "r0", "command": ["true"], "cwd": "/", "env": {}, "contentHash": "aa", "socket": socket,
            "hotSwapSignal": 12, "drainMs": 0, "killGraceMs": 0,
        });
        serde_json::from_value(spec).unwrap()
    }

    fn marker() -> Marker {
        Marker { name: "MIDRUN_TEST".into(), value: "hosting".into() }
    }

    #[tokio::test]
    async fn one_that_does_not_start_says_why() {
        let (_dir, place) = place();
        let spec = spec(&place);
        let missing = place.start(&["/no/such/host".into()], &spec, Some(&marker())).await.unwrap_err();
        assert!(missing.contains("/no/such/host"), "{missing}");
        let command = ["sh", "-c", "echo no room >&2; exit 1"].map(OsString::from);
        let failed = place.start(&command, &spec, Some(&marker())).await.unwrap_err();
        assert!(failed.contains("no room"), "{failed}");
    }

    #[tokio::test]
    async fn what_it_needs_is_there_first_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, place) = place();
        let script = r#"test -s "$2/spec.json" && echo "spec $MIDRUN_TEST" >&2"#;
        let command = ["sh", "-c", script, "sh"].map(OsString::from);
        let said = place.start(&command, &spec(&place), Some(&marker())).await.unwrap_err();
        assert!(said.contains("spec hosting"), "{said}");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.dir().join("spec.json")), 0o600);
        assert_eq!((mode(place.dir()), mode(place.socket().parent().unwrap())), (0o700, 0o700));
    }

    #[tokio::test]
    async fn one_that_is_gone_is_not_waited_for() {
        let (_dir, place) = place();
        assert!(place.reconnect().await.is_none());
        let mut other = Identity::own().unwrap();
        other.start_time += 1;
        std::fs::create_dir_all(place.dir()).unwrap();
        runlog::claim(place.dir(), &serde_json::to_vec(&other).unwrap()).unwrap();
        let begun = Instant::now();
        assert!(place.reconnect().await.is_none(), "another process has its pid");
        assert!(begun.elapsed() < LISTEN_LIMIT);
    }

    #[tokio::test]
    async fn one_that_has_not_begun_never_will() {
        let (_dir, place) = place();
        place.keep("spec.json", b"{}").unwrap();
        assert!(place.reconnect().await.is_none());
        assert!(runlog::claim(place.dir(), b"late").is_err(), "a host that comes late does nothing");
        assert!(place.identity().is_none());
    }
}
