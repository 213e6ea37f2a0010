//! A project with artifacts, and an inspector that follows it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use manifest_inspector::{Handle, Settings, start};
use peer::{FeedWriter, Peer, Reader, Start};
use rolldown::{Bundler, BundlerOptions, InputItem, OutputFormat, Platform};
use serde_json::Value;
use tempfile::TempDir;
use wire::build::SourceMap;
use wire::manifest::Good;
use wire::{
    Artifact, BuildEvent, BuildId, BuildOutcome, ContentHash, EntryPath, Failure, Manifest, Rebuild,
    TraceContext,
};

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(20);

/// The worker's script, bundled as the binary bundles it.
static WORKER: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/sdk/typescript/src/inspector-worker.ts");
    let options = BundlerOptions {
        input: Some(vec![InputItem { name: Some("inspector-worker".into()), import: source.into() }]),
        dir: Some(dir.path().to_string_lossy().into_owned()),
        entry_filenames: Some("[name].mjs".to_owned().into()),
        platform: Some(Platform::Node),
        format: Some(OutputFormat::Esm),
        ..BundlerOptions::default()
    };
    let script = dir.path().join("inspector-worker.mjs");
    let written = script.clone();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let output = runtime.block_on(bundler::generate(&mut Bundler::new(options).unwrap())).unwrap();
        let code = output.assets.first().unwrap().content_as_bytes().to_vec();
        std::fs::write(written, code).unwrap();
    })
    .join()
    .unwrap();
    (dir, script)
});

/// An inspector over a project in a folder of its own.
pub(crate) struct Bench {
    pub(crate) project: TempDir,
    builds: FeedWriter<BuildEvent>,
    pub(crate) inspector: Handle,
    rebuilds: Reader<Rebuild>,
}

/// The usual settings for the project at `project`.
pub(crate) fn settings(project: &Path) -> Settings {
    Settings::of(project, &WORKER.1)
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {}, |_| Ok(None))
    }

    /// With other settings, and source maps from `source_map`.
    pub(crate) fn with(
        set: impl FnOnce(&mut Settings),
        source_map: impl Fn(SourceMap) -> Result<Option<String>, wire::message::Never> + Send + Sync + 'static,
    ) -> Self {
        let project = tempfile::Builder::new().prefix("midrun inspector ").tempdir().unwrap();
        let mut settings = settings(project.path());
        set(&mut settings);
        let builds = FeedWriter::new(64);
        let inspector = start(settings);
        inspector.follow(builds.feed(), Peer::fake(source_map));
        let rebuilds = inspector.rebuilds.read(Start::Snapshot);
        Self { project, builds, inspector, rebuilds }
    }

    /// Puts `code` where the build watcher would.
    pub(crate) fn artifact(&self, code: &str) -> Artifact {
        let content_hash = ContentHash::of(code.as_bytes());
        let dir = self.project.path().join(".midrun/build").join(content_hash.as_str());
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("index.mjs");
        std::fs::write(&path, code).unwrap();
        Artifact { content_hash, path: path.to_string_lossy().into_owned(), size: code.len() as u64 }
    }

    /// A save of `entry` that builds `code`.
    pub(crate) fn save(&self, entry: &str, code: &str) -> BuildId {
        self.build(entry, BuildOutcome::Built(self.artifact(code)))
    }

    pub(crate) fn build(&self, entry: &str, outcome: BuildOutcome) -> BuildId {
        let build_id = BuildId::fresh();
        self.builds.publish(BuildEvent {
            build_id: build_id.clone(),
            entry: EntryPath::from(entry),
            changed: vec!["src/midrun/index.ts".into()],
            saved_at_us: 7,
            bundle_ms: 0.5,
            trace: TraceContext { traceparent: Some("00-1-2-01".into()), tracestate: None },
            outcome,
        });
        build_id
    }

    pub(crate) async fn rebuild(&mut self) -> Arc<Rebuild> {
        let next = tokio::time::timeout(LIMIT, self.rebuilds.next()).await;
        next.expect("a rebuild in time").expect("the feed goes on").event
    }

    /// The result of a save of the project's own entry.
    pub(crate) async fn result(&mut self, code: &str) -> Result<Good, Failure> {
        let id = self.save("index.ts", code);
        let rebuild = self.rebuild().await;
        assert_eq!(rebuild.build_id, id);
        rebuild.result.clone()
    }

    pub(crate) async fn manifest(&mut self, code: &str) -> Manifest {
        self.result(code).await.expect("a good build").manifest
    }

    pub(crate) async fn failure(&mut self, code: &str) -> Failure {
        self.result(code).await.expect_err("a failure")
    }

    /// The process that evaluates artifacts now.
    pub(crate) async fn worker(&mut self, unlike: &str) -> u32 {
        let config = self.manifest(&trainer("{ pid: process.pid }", unlike)).await.config.unwrap();
        u32::try_from(config["pid"].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn no_more(&mut self) -> bool {
        self.rebuilds.try_next().is_none()
    }

    pub(crate) async fn feed_ends(&mut self) {
        let end = tokio::time::timeout(LIMIT, async { while self.rebuilds.next().await.is_some() {} });
        end.await.expect("the feed ends");
    }
}

/// A module with a trainer whose config is the expression `config`. `before` comes first.
pub(crate) fn trainer(config: &str, before: &str) -> String {
    format!(
        "{before}\nexport const trainer = {{ name: 'hand', start() {{}}, wait() {{}}, cancel() {{}},\n\
         [Symbol.for('midrun.trainer.inspect')]: () => ({{ config: {config}, callbacks: {{ onLog: (e) => e }} }}),\n\
         [Symbol.for('midrun.trainer.replaceCallbacks')]: () => {{}} }};\n"
    )
}

/// Whether a process with this id executes something.
pub(crate) fn alive(pid: u32) -> bool {
    process::Identity::of(pid).is_ok_and(|identity| identity.is_alive())
}

/// Waits until `holds` does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "never {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads a file that an artifact writes.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Code that appends a line to `path`.
pub(crate) fn note(path: &Path, line: &str) -> String {
    let (path, line) = (Value::from(path.to_string_lossy()), Value::from(format!("{line}\n")));
    format!("(await import('node:fs')).appendFileSync({path}, {line});")
}
