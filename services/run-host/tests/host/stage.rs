//! A run's folder with a host in it, and what can be seen of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use base64::Engine as _;
use process::{Child, Group, Launch, Marker, Tree, kill_tree, signal};
use tempfile::TempDir;
use wire::host::{HostRequest, HostSays, Spec, TerminalSpec};
use wire::id::RunId;
use wire::log::{Record, Step, Stream};

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A `ready` message.
pub(crate) const READY: &str = r#"{"type":"ready","contentHash":"aa","canSwap":true}"#;

/// What a host will be given.
pub(crate) struct Setting {
    dir: TempDir,
    pub(crate) spec: Spec,
}

impl Setting {
    pub(crate) fn new(command: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec {
            run: RunId::fresh(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            cwd: dir.path().to_str().unwrap().to_owned(),
            env: [("READY".to_owned(), READY.to_owned())].into(),
            content_hash: "aa".into(),
            socket: dir.path().join("host.sock").to_str().unwrap().to_owned(),
            hot_swap_signal: signal::SIGUSR2,
            drain_ms: 20_000,
            kill_grace_ms: 20_000,
            alone_ms: None,
            early_stop_ms: 20_000,
            pty: false,
            log_cap: None,
            executor: false,
            stdin: None,
            terminal: None,
        };
        Self { dir, spec }
    }

    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// A terminal session with this shell, in an empty home.
    pub(crate) fn shell(shell: &str) -> Self {
        let mut setting = Self::new(&[shell]);
        setting.spec.pty = true;
        setting.spec.terminal = Some(TerminalSpec { name: None, rows: 24, columns: 80, alone_ms: 60_000 });
        let home = setting.spec.cwd.clone();
        setting.spec.env.insert("HOME".to_owned(), home);
        setting
    }

    pub(crate) fn node(script: &str) -> Self {
        Self::new(&["node", "-e", script])
    }

    /// Starts the host and waits until it listens.
    pub(crate) fn start(self) -> Stage {
        let Self { dir, spec } = self;
        fs::write(dir.path().join("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        // With a test that fails, its host goes too.
        let host = Launch::new(env!("CARGO_BIN_EXE_run-host"))
            .arg("--dir")
            .arg(dir.path())
            .group(Group::OwnSession)
            .dies_with_parent(signal::SIGKILL)
            .spawn()
            .unwrap();
        let stage = Stage { dir, spec, host };
        until("host.json", || stage.dir.path().join("host.json").exists());
        stage
    }
}

/// A host at work.
pub(crate) struct Stage {
    dir: TempDir,
    pub(crate) spec: Spec,
    pub(crate) host: Child,
}

impl Stage {
    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("events.jsonl")
    }

    /// The log as it is now.
    pub(crate) fn log(&self) -> Vec<Record> {
        let (mut records, mut hint) = (Vec::<Record>::new(), None);
        loop {
            let after = records.last().map_or(0, |record| record.seq);
            let page = runlog::read_page(&self.log_path(), after, hint, 1 << 20).unwrap();
            if page.records.is_empty() {
                break;
            }
            hint = Some(page.hint);
            records.extend(page.records);
        }
        let mut next = 1;
        for record in &records {
            let first = if let Step::Dropped { from_seq, .. } = record.step { from_seq } else { record.seq };
            assert_eq!(first, next, "the log has no gaps");
            next = record.seq + 1;
        }
        records
    }

    /// Waits until a record is there.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Step) -> bool) {
        let (mut after, mut hint) = (0, None);
        until(what, || {
            let page = runlog::read_page(&self.log_path(), after, hint, 1 << 20).unwrap();
            (after, hint) = (page.records.last().map_or(after, |record| record.seq), Some(page.hint));
            page.records.iter().any(|record| wanted(&record.step))
        });
    }

    /// Waits until standard output holds `text`.
    pub(crate) fn wait_for_text(&self, text: &str) {
        until(text, || String::from_utf8_lossy(&bytes_of(&self.log(), Stream::Stdout)).contains(text));
    }

    pub(crate) fn runner_pid(&self) -> u32 {
        match self.log().first().map(|record| &record.step) {
            Some(Step::Spawned { pid, .. }) => *pid,
            other => panic!("the first record is {other:?}"),
        }
    }

    pub(crate) fn marker(&self) -> Marker {
        let name = if self.spec.terminal.is_some() { "MIDRUN_TERMINAL_ID" } else { "MIDRUN_RUN_ID" };
        Marker { name: name.to_owned(), value: self.spec.run.to_string() }
    }

    pub(crate) fn connect(&self) -> Visitor {
        Visitor::over(UnixStream::connect(&self.spec.socket).unwrap())
    }

    /// Waits for the host's end, checks what holds at every end, and answers the log.
    pub(crate) fn finish(mut self) -> Vec<Record> {
        // A host stays for a moment if nobody has listened; it may have gone already.
        if let Ok(stream) = UnixStream::connect(&self.spec.socket) {
            let mut listener = Visitor::over(stream);
            let request = serde_json::to_string(&HostRequest::Subscribe { after: 0 }).unwrap();
            let _ = writeln!(listener.answers.get_mut(), "{request}");
            let _ = std::io::copy(&mut listener.answers, &mut std::io::sink());
        }
        let status = wait(&mut self.host);
        assert!(status.success(), "the host ended with {status}");
        let log = self.log();
        let spawned = log.iter().filter(|record| matches!(record.step, Step::Spawned { .. })).count();
        assert!(spawned <= 1 && (spawned == 0 || matches!(log[0].step, Step::Spawned { .. })));
        let last = log.iter().position(|record| matches!(record.step, Step::Exit { .. }));
        assert_eq!(last, Some(log.len() - 1), "exit is the last record, once");
        assert!(Tree::marked_only(self.marker()).members().unwrap().is_empty(), "a process is left");
        assert!(!PathBuf::from(&self.spec.socket).exists(), "the socket is left");
        log
    }
}

impl Drop for Stage {
    /// Whatever a failed test left.
    fn drop(&mut self) {
        if self.host.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.host.kill_blocking();
        }
        kill_tree(Tree::marked_only(self.marker()), Duration::ZERO);
    }
}

/// A connection to a host.
pub(crate) struct Visitor {
    answers: BufReader<UnixStream>,
    last_id: u64,
}

impl Visitor {
    fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { answers: BufReader::new(stream), last_id: 0 }
    }

    pub(crate) fn send(&mut self, request: &HostRequest) {
        self.send_line(&serde_json::to_string(request).unwrap());
    }

    pub(crate) fn send_line(&mut self, line: &str) {
        self.answers.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn subscribe(&mut self, after: u64) {
        self.send(&HostRequest::Subscribe { after });
    }

    /// The next thing it says; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<HostSays> {
        let mut line = String::new();
        match self.answers.read_line(&mut line).unwrap() {
            0 => None,
            _ => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    /// Everything it says until the end of the connection.
    pub(crate) fn rest(mut self) -> Vec<HostSays> {
        std::iter::from_fn(|| self.next()).collect()
    }

    pub(crate) fn into_inner(self) -> UnixStream {
        self.answers.into_inner()
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, request: impl FnOnce(u64) -> HostRequest) -> Result<(), String> {
        self.last_id += 1;
        let asked = self.last_id;
        self.send(&request(asked));
        loop {
            match self.next().expect("the host answers before it goes") {
                HostSays::Done { id } if id == asked => return Ok(()),
                HostSays::Refused { id, why } if id == asked => return Err(why),
                HostSays::Busy { id, why } if id == asked => return Err(format!("busy: {why}")),
                _ => {}
            }
        }
    }

    pub(crate) fn swap(&mut self) -> Result<(), String> {
        self.swap_to("bb")
    }

    pub(crate) fn swap_to(&mut self, hash: &str) -> Result<(), String> {
        self.ask(|id| HostRequest::Swap {
            id,
            content_hash: hash.into(),
            path: format!("/artifacts/{hash}/index.mjs"),
            config_hash: None,
            traceparent: None,
            why: "only callbacks changed".to_owned(),
        })
    }

    pub(crate) fn stop(&mut self, mode: wire::run::StopMode) -> Result<(), String> {
        self.ask(|id| HostRequest::Stop { id, mode, traceparent: None, why: "asked".to_owned() })
    }
}

/// Waits until `holds`, for a time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a process, for a time.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    assert!(child.pidfd().wait_blocking(Some(LIMIT)).unwrap(), "waited too long for process {}", child.pid());
    child.wait_blocking().unwrap()
}

/// The bytes of a stream of output.
pub(crate) fn bytes_of(log: &[Record], wanted: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in log {
        if let Step::Output { stream, text, base64 } = &record.step
            && *stream == wanted
        {
            assert_ne!(text.is_some(), base64.is_some(), "either text or base64");
            bytes.extend(text.iter().flat_map(|text| text.bytes()));
            bytes.extend(
                base64.iter().flat_map(|text| base64::prelude::BASE64_STANDARD.decode(text).unwrap()),
            );
        }
    }
    bytes
}

/// A figure of the host's memory, kB.
pub(crate) fn memory(stage: &Stage, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How much output the log says is gone, bytes.
pub(crate) fn dropped(log: &[Record]) -> u64 {
    let bytes = |record: &Record| if let Step::Dropped { bytes, .. } = record.step { bytes } else { 0 };
    log.iter().map(bytes).sum()
}

/// The exit record's code and signal.
pub(crate) fn exit_of(log: &[Record]) -> (i32, Option<i32>) {
    match log.last().map(|record| &record.step) {
        Some(Step::Exit { code, signal }) => (*code, *signal),
        other => panic!("the last record is {other:?}"),
    }
}

/// The notes, one a line.
pub(crate) fn notes(log: &[Record]) -> String {
    let notes = log.iter().filter_map(|record| match &record.step {
        Step::Note { text } => Some(format!("{text}\n")),
        _ => None,
    });
    notes.collect()
}
