//! How the bundler sees the project: which specifiers are part of the bundle, and what was read of which file.
//!
//! What must hold: bare specifiers stay external, except those that `tsconfig.json` (`paths`, `baseUrl`) or
//! `package.json` (`imports`) send to a file of the project's own; every file that a build read is recorded as it
//! was when it was read, so that a change since then can be told from one before.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rolldown::plugin::{
    HookLoadArgs, HookLoadOutput, HookLoadReturn, HookNoopReturn, HookResolveIdArgs, HookResolveIdOutput,
    HookResolveIdReturn, HookUsage, Plugin, PluginContext, PluginContextResolveOptions,
    SharedLoadPluginContext,
};
use rolldown_common::{ModuleInfo, NormalModule};

use super::stamp::Stamp;

/// What one build read.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Each file as it was when it was read, by its real path.
    pub(crate) files: HashMap<PathBuf, Stamp>,
    /// What each file imports.
    pub(crate) imports: HashMap<PathBuf, Imports>,
    /// Files that the build wanted and that are not there.
    pub(crate) missing: BTreeSet<PathBuf>,
}

/// What a file imports, as far as it matters for whether the graph is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Imports {
    /// A digest of the resolved imports, in order.
    digest: u64,
    /// Whether any of them is an `import()`.
    pub(crate) dynamic: bool,
}

impl Imports {
    fn of(module: &ModuleInfo) -> Self {
        let mut digest = DefaultHasher::new();
        for id in &module.imported_ids {
            id.as_str().hash(&mut digest);
        }
        Self { digest: digest.finish(), dynamic: !module.dynamically_imported_ids.is_empty() }
    }
}

/// The files that an alias may stand for, best first: (importer, specifier).
type Aliases = dyn Fn(&Path, &str) -> Vec<PathBuf> + Send + Sync;

/// The bundler's view of the project, as a plugin.
pub(crate) struct Sources {
    scan: Mutex<Scan>,
    aliases: Mutex<Option<Arc<Aliases>>>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Nothing is read yet, and there are no aliases.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { scan: Mutex::default(), aliases: Mutex::new(None) })
    }

    /// From now on `aliases` tells what `tsconfig.json` says of a specifier.
    pub(crate) fn resolve_aliases_with(
        &self,
        aliases: impl Fn(&Path, &str) -> Vec<PathBuf> + Send + Sync + 'static,
    ) {
        *self.aliases.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(aliases));
    }

    /// What was read since this was last asked.
    pub(crate) fn take_scan(&self) -> Scan {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Scan> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn aliases(&self, importer: &str, specifier: &str) -> Vec<PathBuf> {
        let aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        aliases.map(|aliases| aliases(Path::new(importer), specifier)).unwrap_or_default()
    }

    /// Reads a text file and records it. Nothing: the bundler reads it in its own way.
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.lock().missing.insert(path.to_owned());
                }
                return Ok(None);
            }
        };
        if meta.is_dir() {
            return Ok(None);
        }
        if !meta.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())));
        }
        let (stamp, text) = if is_text(path) { read_whole(path)? } else { (Stamp::of(&meta), None) };
        self.lock().files.insert(path.to_owned(), stamp);
        Ok(text.map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
    }
}

/// How often a file is read that is written meanwhile.
const READS: usize = 3;

/// The text of a file, and which version of the file that is. Nothing: it is no text.
fn read_whole(path: &Path) -> io::Result<(Stamp, Option<String>)> {
    let mut bytes = Vec::new();
    let mut read = || {
        let mut file = File::open(path)?;
        let before = Stamp::of(&file.metadata()?);
        bytes.clear();
        file.read_to_end(&mut bytes)?;
        let after = Stamp::of(&file.metadata()?);
        io::Result::Ok((before == after, after))
    };
    let mut last = read()?;
    for _ in 1..READS {
        if last.0 {
            break;
        }
        last = read()?;
    }
    Ok((last.1, String::from_utf8(bytes).ok()))
}

impl Plugin for Sources {
    fn name(&self) -> Cow<'static, str> {
        "midrun:sources".into()
    }

    fn register_hook_usage(&self) -> HookUsage {
        HookUsage::ResolveId | HookUsage::Load | HookUsage::ModuleParsed
    }

    async fn resolve_id(&self, context: &PluginContext, args: &HookResolveIdArgs<'_>) -> HookResolveIdReturn {
        let (Some(importer), specifier) = (args.importer, args.specifier) else { return Ok(None) };
        if !is_bare(specifier) {
            return Ok(None);
        }
        let aliases = self.aliases(importer, specifier);
        if !aliases.is_empty() || specifier.starts_with('#') {
            let options = PluginContextResolveOptions { import_kind: args.kind, ..Default::default() };
            match context.resolve(specifier, Some(importer), Some(options)).await? {
                Ok(resolved) if is_own_file(Path::new(resolved.id.as_str()), &aliases) => return Ok(None),
                Ok(_) => {}
                // An alias that leads nowhere is an error at its place in the source, not a missing package.
                Err(_) if is_scoped_alias(specifier) => {
                    if let Some(path) = aliases.first() {
                        let id = path.to_string_lossy().as_ref().into();
                        return Ok(Some(HookResolveIdOutput { id, ..Default::default() }));
                    }
                }
                Err(_) => {}
            }
        }
        Ok(Some(HookResolveIdOutput {
            id: specifier.into(),
            external: Some(true.into()),
            ..Default::default()
        }))
    }

    async fn load(&self, _: SharedLoadPluginContext, args: &HookLoadArgs<'_>) -> HookLoadReturn {
        let path = Path::new(args.id);
        if !path.is_absolute() {
            return Ok(None);
        }
        let Some(text) = self.read(path)? else { return Ok(None) };
        Ok(Some(HookLoadOutput { code: text.into(), ..Default::default() }))
    }

    async fn module_parsed(
        &self,
        _: &PluginContext,
        info: Arc<ModuleInfo>,
        _: &NormalModule,
    ) -> HookNoopReturn {
        let path = Path::new(info.id.as_str());
        if path.is_absolute() {
            self.lock().imports.insert(path.to_owned(), Imports::of(&info));
        }
        Ok(())
    }
}

/// Extensions of files that can be a part of a program, and that are text.
const TEXT: [&str; 11] = ["ts", "tsx", "mts", "cts", "js", "jsx", "mjs", "cjs", "json", "txt", "css"];

/// Whether `path` has the extension of a program's file.
pub(crate) fn is_text(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|extension| TEXT.contains(&extension))
}

/// Whether `specifier` names a package rather than a file. What the bundler or Node provides itself is neither.
pub(crate) fn is_bare(specifier: &str) -> bool {
    let inner = ["node:", "data:", "file:", "http:", "https:", "rolldown:", "@oxc-project/runtime/"];
    !specifier.starts_with(['.', '/', '\\', '\0'])
        && !inner.iter().any(|prefix| specifier.starts_with(prefix))
        && !Path::new(specifier).is_absolute()
}

/// `@/x` and `~/x` are nobody's package: only an alias can be meant.
fn is_scoped_alias(specifier: &str) -> bool {
    specifier.starts_with("@/") || specifier.starts_with('~')
}

/// Whether a resolved bare specifier is a file of the project rather than of a package: no part of its path is
/// `node_modules`, and if it was resolved by way of aliases it lies where one of them points (a linked package of the
/// same workspace does not).
fn is_own_file(path: &Path, aliases: &[PathBuf]) -> bool {
    if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "node_modules") {
        return false;
    }
    let lies_at = |alias: &PathBuf| {
        let starts = |alias: &Path| path.to_string_lossy().starts_with(&*alias.to_string_lossy());
        starts(alias) || alias.canonicalize().is_ok_and(|real| starts(&real)) || {
            let real = alias.parent().and_then(|parent| parent.canonicalize().ok());
            real.zip(alias.file_name()).is_some_and(|(parent, name)| starts(&parent.join(name)))
        }
    };
    aliases.is_empty() || aliases.iter().any(lies_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_bare_and_a_file_is_not() {
        for bare in ["midrun", "@scope/pkg", "fs", "lodash/fp", "#own", "@/alias", "~x"] {
            assert!(is_bare(bare), "{bare}");
        }
        for other in ["./a", "../a", "/abs/a.ts", "node:fs", "data:text/plain,1", "\0rolldown/runtime.js"] {
            assert!(!is_bare(other), "{other}");
        }
    }

    #[test]
    fn a_linked_package_is_no_file_of_the_project() {
        let aliases = [PathBuf::from("/p/src/x")];
        assert!(is_own_file(Path::new("/p/src/x.ts"), &aliases));
        assert!(is_own_file(Path::new("/p/src/x/index.ts"), &aliases));
        assert!(!is_own_file(Path::new("/packages/x/index.ts"), &aliases));
        assert!(!is_own_file(Path::new("/p/node_modules/x/index.js"), &[]));
        assert!(is_own_file(Path::new("/p/src/own.ts"), &[]));
        assert!(!is_own_file(Path::new("fs"), &[]));
    }
}
