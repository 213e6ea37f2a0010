//! From the `builds` feed to the `rebuilds` feed.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use failpoint::Point;
use peer::{Feed, FeedSeat, FeedWriter, Peer, Reader, Start};
use supervise::{Condition, Policy};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use wire::build::SourceMap;
use wire::manifest::Good;
use wire::{Artifact, BuildEvent, BuildOutcome, EntryPath, Failure, Manifest, Rebuild, Trouble};

use crate::crew::Crew;
use crate::manifest::{Known, manifest};
use crate::pool::Outcome;
use crate::protocol::{Facts, Thrown};
use crate::stack;

/// Events that are kept for readers that are behind. A config may have a whole dataset in it.
const FEED: usize = 16;

/// How long making a source map may take; then the stack is shown as it is.
const MAP_LIMIT: Duration = Duration::from_secs(10);

/// How long workers may take to end when nobody says.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How a project's artifacts are evaluated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The project's folder: the workers' working folder.
    pub project: PathBuf,
    /// The Node program, by name or path; 20.3 or newer.
    pub node: PathBuf,
    /// The bundled `inspector-worker.ts` of `shared/sdk/typescript`.
    pub worker: PathBuf,
    /// How long an evaluation may take.
    pub time_limit: Duration,
    /// Evaluations after which a worker is replaced.
    pub max_imports: u32,
}

impl Settings {
    /// The usual settings for the project at `project`: `node`, 10 s, 64 evaluations.
    pub fn of(project: &Path, worker: &Path) -> Self {
        Self {
            project: project.to_owned(),
            node: "node".into(),
            worker: worker.to_owned(),
            time_limit: Duration::from_secs(10),
            max_imports: 64,
        }
    }
}

/// A running inspector. It ends when this is dropped, or in an orderly way with [`Handle::shutdown`].
pub struct Handle {
    /// Every build that ended in an inspected artifact, or in an error.
    pub rebuilds: Feed<Rebuild>,
    follow: watch::Sender<Option<Followed>>,
    stop: watch::Sender<Option<Duration>>,
    ended: watch::Receiver<()>,
    condition: Condition,
}

/// What an inspector lives on.
#[derive(Clone)]
struct Followed {
    builds: Feed<BuildEvent>,
    source_map: Peer<SourceMap>,
}

impl Handle {
    /// Inspects what `builds` brings from now on; `source_map` is asked when user code throws. Replaces what was
    /// followed before.
    pub fn follow(&self, builds: Feed<BuildEvent>, source_map: Peer<SourceMap>) {
        self.follow.send_replace(Some(Followed { builds, source_map }));
    }

    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.condition.watch()
    }

    /// Ends every worker, and then the feed, and waits for that at most `limit`. May be called again.
    pub async fn shutdown(&self, limit: Duration) {
        self.stop.send_replace(Some(limit));
        let mut ended = self.ended.clone();
        let gone = async { while ended.changed().await.is_ok() {} };
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("the inspector has not ended in time");
        }
    }
}

/// Starts an inspector that follows nothing yet, and its first worker, which takes as long to be ready as a first
/// build does. Needs a tokio runtime.
pub fn start(settings: Settings) -> Handle {
    let seat = FeedSeat::new(FEED);
    let rebuilds = seat.feed();
    let (follow, followed) = watch::channel(None);
    let (stop, mut stopped) = watch::channel(None);
    let (alive, ended) = watch::channel(());
    let (settings, condition) = (Arc::new(settings), Condition::new("manifest-inspector"));
    // At once, and not only when it is waited for.
    let mut first = Some(Inspector::new(Arc::clone(&settings), seat.writer()));
    let kept = condition.clone();
    tokio::spawn(async move {
        let stopping = stopped.clone();
        let life = || {
            // Also one that begins later inspects what is followed by then.
            let mut followed = followed.clone();
            followed.mark_changed();
            let inspector =
                first.take().unwrap_or_else(|| Inspector::new(Arc::clone(&settings), seat.writer()));
            inspector.run(followed, stopping.clone())
        };
        if supervise::keep(&kept, Policy::default(), life).await.is_none() {
            // Its readers wait for what does not come; a feed that ended would be opened again and again.
            drop(stopped.changed().await);
        }
        drop(alive);
    });
    Handle { rebuilds, follow, stop, ended, condition }
}

/// Inspects one artifact in a worker of its own. `map` is only waited for when user code throws.
///
/// # Errors
/// User code threw or did not come to its end, or there is no Node to evaluate it with.
pub async fn inspect_once(
    settings: &Settings,
    artifact: &Artifact,
    map: impl Future<Output = Option<String>>,
) -> Result<Manifest, Failure> {
    let mut crew = Crew::new(Arc::new(settings.clone()));
    crew.ask(1, "", &artifact.path);
    let (_, outcome) = crew.next().await;
    crew.close(Duration::from_secs(1)).await;
    match outcome {
        Outcome::Told(facts) => manifest(facts),
        Outcome::Threw(thrown) => {
            Err(stack::failure(&thrown, &settings.project, Path::new(&artifact.path), map.await.as_deref()))
        }
        Outcome::Failed(why) => Err(Failure::plain(why)),
    }
}

struct Inspector {
    settings: Arc<Settings>,
    crew: Crew,
    writer: FeedWriter<Rebuild>,
    builds: Option<Reader<BuildEvent>>,
    source_map: Option<Peer<SourceMap>>,
    known: Known,
    /// The newest build of each entry that is not published yet.
    jobs: BTreeMap<EntryPath, Job>,
    /// Failures whose place is being looked up.
    mapping: JoinSet<(EntryPath, u64, Failure)>,
    next_request: u64,
}

struct Job {
    request: u64,
    event: Arc<BuildEvent>,
    artifact: Artifact,
    begun: Instant,
    /// The look-up of its failure's place; goes on only for as long as the job is wanted.
    mapping: Option<AbortHandle>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(mapping) = &self.mapping {
            mapping.abort();
        }
    }
}

impl Inspector {
    fn new(settings: Arc<Settings>, writer: FeedWriter<Rebuild>) -> Self {
        Self {
            crew: Crew::new(Arc::clone(&settings)),
            settings,
            writer,
            builds: None,
            source_map: None,
            known: Known::default(),
            jobs: BTreeMap::new(),
            mapping: JoinSet::new(),
            next_request: 1,
        }
    }

    async fn run(
        mut self,
        mut followed: watch::Receiver<Option<Followed>>,
        mut stopped: watch::Receiver<Option<Duration>>,
    ) {
        loop {
            tokio::select! {
                event = next_build(&mut self.builds) => match event {
                    Some(event) => self.built(event),
                    None => self.builds = None,
                },
                (request, outcome) = self.crew.next() => self.came_to(request, outcome),
                Some(mapped) = self.mapping.join_next() => {
                    match mapped {
                        Ok((entry, request, failure)) => self.publish(&entry, request, Err(failure)),
                        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                        // One that was called off is of a build that nobody wants any more.
                        Err(_) => {}
                    }
                }
                changed = followed.changed() => {
                    let followed = followed.borrow_and_update().clone();
                    if let (Ok(()), Some(Followed { builds, source_map })) = (changed, followed) {
                        self.builds = Some(builds.read(Start::Snapshot));
                        self.source_map = Some(source_map);
                    }
                }
                // Also when the handle is dropped.
                _ = stopped.changed() => {
                    let limit = stopped.borrow().unwrap_or(END_LIMIT);
                    return self.crew.close(limit).await;
                }
            }
        }
    }

    /// A build ended; whatever is under way for its entry is out of date.
    fn built(&mut self, event: Arc<BuildEvent>) {
        let begun = Instant::now();
        self.jobs.remove(&event.entry);
        let artifact = match &event.outcome {
            BuildOutcome::Built(artifact) => artifact.clone(),
            BuildOutcome::Failed(failure) => {
                self.crew.forget(event.entry.as_str());
                self.writer.publish(rebuild(&event, begun, Err(failure.clone())));
                return;
            }
        };
        if let Some(manifest) = self.known.get(&artifact.content_hash) {
            let good = Good { artifact, manifest: manifest.clone() };
            self.crew.forget(event.entry.as_str());
            self.writer.publish(rebuild(&event, begun, Ok(good)));
            return;
        }
        failpoint::reach(Point::InspectionAsked);
        let request = self.next_request;
        self.next_request += 1;
        self.crew.ask(request, event.entry.as_str(), &artifact.path);
        let entry = event.entry.clone();
        self.jobs.insert(entry, Job { request, event, artifact, begun, mapping: None });
    }

    fn came_to(&mut self, request: u64, outcome: Outcome) {
        let Some(entry) =
            self.jobs.iter().find(|(_, job)| job.request == request).map(|(entry, _)| entry.clone())
        else {
            return;
        };
        match outcome {
            Outcome::Told(facts) => self.told(&entry, request, facts),
            Outcome::Threw(thrown) => self.threw(&entry, request, thrown),
            // There is no stack, but the same bytes are to be tried again.
            Outcome::Failed(why) => {
                let thrown = Thrown { name: String::new(), message: why, stack: String::new() };
                self.threw(&entry, request, thrown);
            }
        }
    }

    fn told(&mut self, entry: &EntryPath, request: u64, facts: Facts) {
        let size = facts.config.as_ref().map_or(0, String::len);
        let Some(job) = self.jobs.get(entry) else { return };
        let result = manifest(facts).map(|manifest| Good { artifact: job.artifact.clone(), manifest });
        if let Ok(good) = &result {
            self.known.put(good.artifact.content_hash.clone(), good.manifest.clone(), size);
        }
        self.publish(entry, request, result);
    }

    /// Looks up where in the source it was thrown, without keeping anyone else waiting.
    fn threw(&mut self, entry: &EntryPath, request: u64, thrown: Thrown) {
        let (Some(job), Some(source_map)) = (self.jobs.get_mut(entry), self.source_map.clone()) else {
            return;
        };
        let (settings, artifact, trace) =
            (Arc::clone(&self.settings), job.artifact.clone(), job.event.trace.clone());
        let wanted = SourceMap { entry: entry.clone(), content_hash: artifact.content_hash.clone() };
        job.mapping = Some(self.mapping.spawn(async move {
            let map = source_map.ask_within(wanted.clone(), trace, MAP_LIMIT).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "no source map for the stack of an error");
                None
            });
            let failure =
                stack::failure(&thrown, &settings.project, Path::new(&artifact.path), map.as_deref());
            (wanted.entry, request, failure)
        }));
    }

    /// Publishes what `request` came to, if that is still the newest of its entry.
    fn publish(&mut self, entry: &EntryPath, request: u64, result: Result<Good, Failure>) {
        if self.jobs.get(entry).is_none_or(|job| job.request != request) {
            return;
        }
        if let Some(job) = self.jobs.remove(entry) {
            self.writer.publish(rebuild(&job.event, job.begun, result));
        }
    }
}

fn rebuild(event: &BuildEvent, begun: Instant, result: Result<Good, Failure>) -> Rebuild {
    let mut rebuild = Rebuild {
        build_id: event.build_id.clone(),
        entry: event.entry.clone(),
        changed: event.changed.clone(),
        saved_at_us: event.saved_at_us,
        bundle_ms: event.bundle_ms,
        inspect_ms: begun.elapsed().as_secs_f64() * 1_000.0,
        trace: event.trace.clone(),
        result,
    };
    // There was nothing to be inspected in a build that failed.
    if matches!(event.outcome, BuildOutcome::Built(_)) {
        account(&mut rebuild, begun.elapsed());
    }
    rebuild
}

/// What an inspection is to those who look on: its span and its counts.
fn account(rebuild: &mut Rebuild, took: Duration) {
    let began = SystemTime::now() - took;
    let mut span = telemetry::Service::ManifestInspector.child_since("inspect", &rebuild.trace, began);
    if span.is_recording() {
        span.set("midrun.build.id", rebuild.build_id.to_string());
        match &rebuild.result {
            Ok(good) => {
                span.set("midrun.content_hash", good.artifact.content_hash.to_string());
                if let Some(hash) = &good.manifest.config_hash {
                    span.set("midrun.config_hash", hash.as_str().to_owned());
                }
            }
            Err(failure) => span.fail("inspection-failed", &failure.message),
        }
    }
    rebuild.trace = span.context();
    span.end();
    let counted = telemetry::metrics::counted();
    counted.inspections.add([if rebuild.result.is_ok() { "good" } else { "failed" }]);
    counted.inspect.observe([], took, &rebuild.trace);
}

/// The next build; without a feed there is none.
async fn next_build(builds: &mut Option<Reader<BuildEvent>>) -> Option<Arc<BuildEvent>> {
    match builds {
        Some(reader) => reader.next().await.map(|delivery| delivery.event),
        None => pending().await,
    }
}
