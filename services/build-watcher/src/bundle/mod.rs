//! One entry, bundled over and over.
//!
//! What must hold: the bytes are those that a fresh bundler would produce from the same files. A rebuild reads again
//! only the files that changed, as long as nothing but their content did: as soon as a name came or went, an import
//! changed, or a build failed, the bundler starts afresh.

pub(crate) mod diagnose;
pub(crate) mod options;
#[cfg(test)]
mod parity;
pub(crate) mod sources;
pub(crate) mod stamp;
pub(crate) mod threads;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rolldown::{BundleOutput, Bundler};
use rolldown_error::BuildResult;

pub(crate) use diagnose::Complaint;
use options::Map;
use sources::{Imports, Sources};
use stamp::Stamp;
use threads::{Outcome, Threads, Work};

/// Rebuilds on one bundler; then it starts afresh, so that nothing it keeps can pile up.
const PARTIAL_BUILDS: u32 = 500;

/// Different files read again on one bundler; then it starts afresh. It keeps some 50 kB more for a file that was read
/// alone than for one that was read with all others.
const PARTIAL_READS: usize = 32;

/// More changed files than this are read with everything else.
const PARTIAL_FILES: usize = 16;

/// What changed since the last build.
#[derive(Debug)]
pub(crate) enum Changed<'a> {
    /// Anything.
    Anything,
    /// These paths. They may be files, folders or links; they may be there or not.
    Paths(&'a BTreeSet<PathBuf>),
}

/// What a build came to.
#[derive(Debug)]
pub(crate) struct Built {
    /// The code, or why there is none.
    pub(crate) code: Result<String, Complaint>,
    /// A file is empty that was not, or not there, in the last build that was told of.
    pub(crate) doubtful: bool,
}

/// The files of an entry.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Every file that the last build read, by real path; after a failure also those of the last good build.
    pub(crate) files: HashMap<PathBuf, Stamp>,
    /// Paths that imports hope for.
    pub(crate) hoped: BTreeSet<PathBuf>,
    /// Another number whenever other paths are in it than before.
    pub(crate) version: u64,
    /// Files that were read in another version than before, since the last build that was told of.
    pub(crate) reread: BTreeSet<PathBuf>,
}

impl Graph {
    /// Other files, or other stamps of them; `keep` tells that those of before are still part of it.
    fn update(&mut self, files: HashMap<PathBuf, Stamp>, hoped: BTreeSet<PathBuf>, keep: bool) {
        let news = files.keys().any(|path| !self.files.contains_key(path)) || self.hoped != hoped;
        let losses = !keep && self.files.keys().any(|path| !files.contains_key(path));
        self.version += u64::from(news || losses);
        let changed = files.iter().filter(|(path, stamp)| self.files.get(*path) != Some(stamp));
        self.reread.extend(changed.map(|(path, _)| path.clone()));
        if keep {
            self.files.extend(files);
        } else {
            self.files = files;
        }
        self.hoped = hoped;
    }
}

/// A bundler for one entry and what it knows.
pub(crate) struct EntryBundler {
    root: PathBuf,
    file: PathBuf,
    sources: Arc<Sources>,
    warm: Option<Warm>,
    graph: Graph,
    imports: HashMap<PathBuf, Imports>,
    /// Files that were empty in the last build that was told of, if there was one.
    known_empty: Option<BTreeSet<PathBuf>>,
}

/// A bundler whose cache holds the graph of the last build, which was good.
struct Warm {
    bundler: Bundler,
    builds: u32,
    /// The files that were read again.
    reread: BTreeSet<PathBuf>,
}

impl EntryBundler {
    /// Nothing is built yet. `root` and `file` are absolute.
    pub(crate) fn new(root: PathBuf, file: PathBuf) -> Self {
        Self {
            root,
            file,
            sources: Sources::new(),
            warm: None,
            graph: Graph::default(),
            imports: HashMap::new(),
            known_empty: None,
        }
    }

    /// The files of the entry, as the last build saw them.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The next build starts from `file`.
    pub(crate) fn start_from(&mut self, file: &Path) {
        if self.file != file {
            self.file = file.to_owned();
            self.forget();
        }
    }

    /// Whether its bundler keeps more than one that has just built everything.
    pub(crate) fn is_worn(&self) -> bool {
        self.warm.as_ref().is_some_and(|warm| warm.builds > 0)
    }

    /// Builds everything again on a new bundler, for what the old one kept. The bytes are those of the last build, unless
    /// files have changed meanwhile, and then word of that will come. Blocks for as long as that takes.
    pub(crate) fn renew(&mut self, threads: &Threads) {
        self.forget();
        threads.tidy();
        // Else the new one lies scattered over all the pages that the old one used.
        process::give_back_heap();
        let _same_as_before = self.build_afresh(threads);
    }

    /// The next build reads everything again.
    pub(crate) fn forget(&mut self) {
        self.warm = None;
    }

    /// Builds. Blocks for as long as that takes.
    pub(crate) fn build(&mut self, threads: &Threads, changed: &Changed<'_>) -> Built {
        if let Some(files) = self.only_content(changed)
            && let Some(built) = self.build_partially(threads, files)
        {
            return built;
        }
        self.build_afresh(threads)
    }

    /// The changed files, if nothing but their content changed.
    fn only_content(&self, changed: &Changed<'_>) -> Option<BTreeSet<PathBuf>> {
        let Changed::Paths(paths) = changed else { return None };
        let warm = self.warm.as_ref()?;
        let is_content = |path: &PathBuf| {
            // The bundler keeps what it knew of an `import()` when the file around it changes.
            self.imports.get(path).is_some_and(|imports| !imports.dynamic)
                && path.extension().is_some_and(|e| e != "json" && e != "txt")
                && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
        };
        let partial = !paths.is_empty()
            && paths.len() <= PARTIAL_FILES
            && warm.builds < PARTIAL_BUILDS
            && warm.reread.union(paths).count() <= PARTIAL_READS;
        (partial && paths.iter().all(is_content)).then(|| (*paths).clone())
    }

    /// Builds with the cache of the last build. Nothing: that would not, or might not, give a fresh build's bytes.
    fn build_partially(&mut self, threads: &Threads, files: BTreeSet<PathBuf>) -> Option<Built> {
        let mut warm = self.warm.take()?;
        let work = Work { read: files.len(), bundled: self.graph.files.len() };
        let ids = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        let outcome = threads.run(work, bundler::generate_changed(&mut warm.bundler, ids));
        let scan = self.sources.take_scan();
        let Outcome::Done(Ok(output)) = outcome else { return None };
        let same_files = scan.files.len() == files.len() && files.iter().all(|f| scan.files.contains_key(f));
        let same_imports = files.iter().all(|file| {
            let now = scan.imports.get(file);
            now.is_some_and(|now| !now.dynamic) && now == self.imports.get(file)
        });
        if !same_files || !same_imports || !scan.missing.is_empty() {
            return None;
        }
        let code = single_file(output).ok()?;
        warm.builds += 1;
        warm.reread.extend(files);
        self.warm = Some(warm);
        self.graph.update(scan.files, BTreeSet::new(), true);
        Some(Built { code: Ok(code), doubtful: self.is_doubtful() })
    }

    fn build_afresh(&mut self, threads: &Threads) -> Built {
        self.warm = None;
        let mut bundler = match options::bundler(&self.root, &self.file, &self.sources, Map::None) {
            Ok(bundler) => bundler,
            Err(errors) => return Built { code: Err(Complaint::of(&errors, &self.root)), doubtful: false },
        };
        let work = Work { read: self.graph.files.len(), bundled: self.graph.files.len() };
        let outcome = threads.run(work, bundler::generate(&mut bundler));
        let scan = self.sources.take_scan();
        let code = flatten(outcome, &self.root).and_then(single_file);
        match &code {
            Ok(_) => {
                self.warm = Some(Warm { bundler, builds: 0, reread: BTreeSet::new() });
                self.graph.update(scan.files, BTreeSet::new(), false);
                self.imports = scan.imports;
            }
            Err(complaint) => {
                let hoped = scan.missing.into_iter().chain(complaint.hoped.iter().cloned()).collect();
                self.graph.update(scan.files, hoped, true);
            }
        }
        Built { code, doubtful: self.is_doubtful() }
    }

    /// The last build is told of: what is empty in it is meant to be.
    pub(crate) fn told(&mut self) {
        self.known_empty = Some(self.empty().cloned().collect());
        self.graph.reread.clear();
    }

    fn is_doubtful(&self) -> bool {
        self.known_empty.as_ref().is_some_and(|known| self.empty().any(|path| !known.contains(path)))
    }

    fn empty(&self) -> impl Iterator<Item = &PathBuf> {
        self.graph.files.iter().filter(|(_, stamp)| stamp.len == 0).map(|(path, _)| path)
    }
}

/// The code of a bundle, and its source map.
pub(crate) struct Mapped {
    pub(crate) code: String,
    pub(crate) map: Option<String>,
}

/// Builds `file` of the project at `root` once, with a source map.
pub(crate) fn build_mapped(root: &Path, file: &Path, threads: &Threads) -> Result<Mapped, Complaint> {
    let sources = Sources::new();
    let mut bundler =
        options::bundler(root, file, &sources, Map::Hidden).map_err(|e| Complaint::of(&e, root))?;
    let output = flatten(threads.run(Work { read: 0, bundled: 0 }, bundler::generate(&mut bundler)), root)?;
    let chunk = output.assets.into_iter().find_map(|asset| match asset {
        rolldown_common::Output::Chunk(chunk) => Some(chunk),
        rolldown_common::Output::Asset(_) => None,
    });
    let chunk = chunk.ok_or_else(|| Complaint::plain("the bundler produced no code"))?;
    Ok(Mapped { code: chunk.code.clone(), map: chunk.map.as_ref().map(|map| map.to_json_string()) })
}

/// What the bundler came to, or the complaint that says why it came to nothing.
pub(crate) fn flatten(
    outcome: Outcome<BuildResult<BundleOutput>>,
    root: &Path,
) -> Result<BundleOutput, Complaint> {
    match outcome {
        Outcome::Done(Ok(output)) => Ok(output),
        Outcome::Done(Err(errors)) => Err(Complaint::of(&errors, root)),
        Outcome::TimedOut(limit) => {
            Err(Complaint::plain(format!("the bundler did not finish within {} s", limit.as_secs())))
        }
        Outcome::Panicked(what) => {
            Err(Complaint::plain(format!("the bundler failed: {what}; the next save starts it afresh")))
        }
    }
}

fn single_file(output: BundleOutput) -> Result<String, Complaint> {
    let mut assets = output.assets.into_iter();
    match (assets.next(), assets.next()) {
        (Some(rolldown_common::Output::Chunk(chunk)), None) => {
            Ok(Arc::try_unwrap(chunk).map_or_else(|shared| shared.code.clone(), |chunk| chunk.code))
        }
        _ => Err(Complaint::plain("the bundle is not a single file")),
    }
}
