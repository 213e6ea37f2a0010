//! midrun's own TypeScript (the runner, the inspector's worker, the SDK), bundled when midrun starts.
//!
//! What must hold: only the first start with some version of the sources bundles them; a folder that is there is
//! complete.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rolldown::plugin::{
    HookLoadArgs, HookLoadOutput, HookLoadReturn, HookResolveIdArgs, HookResolveIdOutput,
    HookResolveIdReturn, HookUsage, Plugin, PluginContext, SharedLoadPluginContext,
};
use rolldown::{BundleOutput, Bundler, InputItem};
use wire::{ContentHash, Failure};

use crate::bundle::threads::{Threads, Work};
use crate::bundle::{flatten, options};
use crate::once::on_own_thread;

/// Where the sources stand as long as they are bundled: no place on any disk.
const PLACE: &str = "/midrun-runtime";

/// Changes whenever the same sources give other bundles.
const FORMAT: u32 = 1;

/// Bundles `entries` of `sources`, each a file name such as `runner.ts` or `lib/x.ts` with its text, into a folder
/// below `out_dir` that is named after their content, and gives that folder: it holds `runner.mjs` for the entry
/// `runner.ts`. If the folder is there already, nothing is bundled. Bare specifiers stay external. Blocks; may be
/// called from anywhere.
///
/// # Errors
/// The sources do not build, or the folder cannot be written.
pub fn bundle_runtime(
    sources: &[(&str, &str)],
    entries: &[&str],
    out_dir: &Path,
) -> Result<PathBuf, Failure> {
    let folder = out_dir.join(address(sources, entries).as_str());
    if folder.is_dir() {
        return Ok(folder);
    }
    let (embedded, inputs) = (Embedded::new(sources), entries.iter().map(|entry| input(entry)).collect());
    let output = on_own_thread(move |threads| bundle(threads, embedded, inputs))??;
    write(&output, out_dir, &folder).map_err(|error| {
        Failure::plain(format!(
            "{} cannot be written: {error}; give yourself write permission",
            out_dir.display()
        ))
    })?;
    Ok(folder)
}

/// The address of what the sources are bundled to.
fn address(sources: &[(&str, &str)], entries: &[&str]) -> ContentHash {
    let mut sorted = sources.to_vec();
    sorted.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    ContentHash::of(format!("{FORMAT} {version} {entries:?} {sorted:?}").as_bytes())
}

fn bundle(threads: &Threads, embedded: Embedded, inputs: Vec<InputItem>) -> Result<BundleOutput, Failure> {
    let mut options = options::shared(Path::new(PLACE));
    options.input = Some(inputs);
    options.entry_filenames = Some("[name].mjs".to_owned().into());
    options.chunk_filenames = Some("shared-[hash].mjs".to_owned().into());
    options.tsconfig = Some(rolldown::TsConfig::Auto(false));
    let work = Work { read: embedded.files.len(), bundled: embedded.files.len() };
    let mut bundler = Bundler::with_plugins(options, vec![Arc::new(embedded) as _])
        .map_err(|errors| Failure::plain(errors.to_string()))?;
    let outcome = threads.run(work, bundler::generate(&mut bundler));
    flatten(outcome, Path::new(PLACE)).map_err(|complaint| complaint.failure)
}

fn input(entry: &str) -> InputItem {
    let name = Path::new(entry).with_extension("").to_string_lossy().into_owned();
    InputItem { name: Some(name), import: format!("{PLACE}/{entry}") }
}

/// Writes everything beside its place, then moves it there.
fn write(output: &BundleOutput, out_dir: &Path, folder: &Path) -> io::Result<()> {
    let temporary = out_dir.join(format!(".{}.tmp", std::process::id()));
    let written = output.assets.iter().try_for_each(|asset| {
        let file = temporary.join(asset.filename());
        fs::create_dir_all(file.parent().unwrap_or(&temporary))?;
        fs::write(file, asset.content_as_bytes())
    });
    let moved = written.and_then(|()| fs::rename(&temporary, folder));
    if moved.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    // Another process may have been faster: then its folder is as good.
    if folder.is_dir() { Ok(()) } else { moved }
}

/// Files that are in memory.
struct Embedded {
    files: HashMap<PathBuf, String>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    fn new(sources: &[(&str, &str)]) -> Self {
        let place = Path::new(PLACE);
        Self { files: sources.iter().map(|(name, text)| (place.join(name), (*text).to_owned())).collect() }
    }

    /// The file that `specifier` stands for in `importer`, as TypeScript finds it: `./x`, `./x.js` and `./x.ts` all
    /// stand for `x.ts`.
    fn find(&self, importer: &Path, specifier: &str) -> Option<PathBuf> {
        let path = crate::bundle::diagnose::without_dots(&importer.parent()?.join(specifier));
        let mut candidates = vec![path.clone(), path.with_extension("ts"), path.with_extension("mts")];
        candidates.push(path.join("index.ts"));
        candidates.push(PathBuf::from(format!("{}.ts", path.display())));
        candidates.into_iter().find(|path| self.files.contains_key(path))
    }
}

impl Plugin for Embedded {
    fn name(&self) -> Cow<'static, str> {
        "midrun:embedded".into()
    }

    fn register_hook_usage(&self) -> HookUsage {
        HookUsage::ResolveId | HookUsage::Load
    }

    async fn resolve_id(&self, _: &PluginContext, args: &HookResolveIdArgs<'_>) -> HookResolveIdReturn {
        let found = match args.importer {
            None => Some(PathBuf::from(args.specifier)).filter(|path| self.files.contains_key(path)),
            Some(importer) if args.specifier.starts_with('.') => {
                self.find(Path::new(importer), args.specifier)
            }
            Some(_) if crate::bundle::sources::is_bare(args.specifier) => {
                let id = args.specifier.into();
                return Ok(Some(HookResolveIdOutput {
                    id,
                    external: Some(true.into()),
                    ..Default::default()
                }));
            }
            Some(_) => None,
        };
        Ok(found.map(|path| HookResolveIdOutput::from_id(path.to_string_lossy().as_ref())))
    }

    async fn load(&self, _: SharedLoadPluginContext, args: &HookLoadArgs<'_>) -> HookLoadReturn {
        let text = self.files.get(Path::new(args.id));
        Ok(text.map(|text| HookLoadOutput { code: text.as_str().into(), ..Default::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: [(&str, &str); 4] = [
        (
            "runner.ts",
            "import { brand } from './lib/brand.js';\nimport fs from 'node:fs';\nconsole.log(brand as string, typeof fs);\n",
        ),
        ("index.ts", "export { brand } from './lib/brand';\nexport * from 'pkg';\n"),
        ("lib/brand.ts", "import { deep } from '.';\nexport const brand: string = `branded ${deep}`;\n"),
        ("lib/index.ts", "export const deep = 'deeply';\n"),
    ];

    #[test]
    fn the_first_start_bundles_and_the_next_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("sdk");
        let entries = ["runner.ts", "index.ts"];
        let folder = bundle_runtime(&SOURCES, &entries, &out).unwrap();
        let output = std::process::Command::new("node").arg(folder.join("runner.mjs")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "branded deeply object\n", "{output:?}");
        let index = fs::read_to_string(folder.join("index.mjs")).unwrap();
        assert!(index.contains("from \"pkg\""), "{index}");

        fs::write(folder.join("runner.mjs"), "// as it was\n").unwrap();
        let mut reordered = SOURCES;
        reordered.reverse();
        assert_eq!(bundle_runtime(&reordered, &entries, &out).unwrap(), folder);
        assert_eq!(fs::read_to_string(folder.join("runner.mjs")).unwrap(), "// as it was\n");

        let mut other = SOURCES;
        other[3].1 = "export const deep = 'otherwise';\n";
        assert_ne!(bundle_runtime(&other, &entries, &out).unwrap(), folder);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "nothing else is left there");
    }

    #[test]
    fn sources_that_do_not_build_are_an_error_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let broken = [("runner.ts", "import './nowhere';\n")];
        let failure = bundle_runtime(&broken, &["runner.ts"], dir.path()).unwrap_err();
        assert!(failure.message.contains("./nowhere"), "{failure:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
