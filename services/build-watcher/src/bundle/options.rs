//! How the bundler is set up. What must hold: the same sources give the same bytes on any machine, in one file, with
//! no path of this machine in them.

use std::path::Path;
use std::sync::Arc;

use rolldown::{
    AttachDebugInfo, Bundler, BundlerOptions, CodeSplittingMode, CommentsOptions, ExperimentalOptions,
    InputItem, OutputFormat, Platform, RawMinifyOptions, SourceMapType,
};
use rolldown_error::BuildResult;

use super::sources::Sources;

/// The file name of a bundle.
pub(crate) const BUNDLE_FILE: &str = "index.mjs";

/// Whether the bundle comes with a source map. The code is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// None is made.
    None,
    /// It is made; the code does not point to it.
    Hidden,
}

/// Options that every bundle of ours shares.
pub(crate) fn shared(cwd: &Path) -> BundlerOptions {
    BundlerOptions {
        cwd: Some(cwd.to_owned()),
        platform: Some(Platform::Node),
        format: Some(OutputFormat::Esm),
        // The default parses the whole bundle once more to remove dead code, which is a third of the time.
        minify: Some(RawMinifyOptions::Bool(false)),
        // A comment in the source is no change of the program.
        comments: Some(CommentsOptions { legal: false, annotation: true, jsdoc: false }),
        experimental: Some(ExperimentalOptions {
            // No comment with the module's path: where a module stands is no part of the program.
            attach_debug_info: Some(AttachDebugInfo::None),
            ..ExperimentalOptions::default()
        }),
        ..BundlerOptions::default()
    }
}

/// A bundler for one entry of the project at `root`, with an empty cache.
pub(crate) fn bundler(root: &Path, entry: &Path, sources: &Arc<Sources>, map: Map) -> BuildResult<Bundler> {
    let mut options = shared(root);
    options.input = Some(vec![InputItem {
        name: Some("index".to_owned()),
        import: entry.to_string_lossy().into_owned(),
    }]);
    options.entry_filenames = Some(BUNDLE_FILE.to_owned().into());
    // Paths in the source map are relative to the project.
    options.dir = Some(root.to_string_lossy().into_owned());
    options.code_splitting = Some(CodeSplittingMode::Bool(false));
    match map {
        Map::None => {
            if let Some(experimental) = &mut options.experimental {
                experimental.incremental_build = Some(true);
            }
        }
        Map::Hidden => options.sourcemap = Some(SourceMapType::Hidden),
    }
    let bundler = Bundler::with_plugins(options, vec![Arc::clone(sources) as _])?;
    let resolver = bundler.resolver.clone_default_resolver();
    sources.resolve_aliases_with(move |importer, specifier| match resolver.find_tsconfig(importer) {
        Ok(Some(tsconfig)) => tsconfig.resolve_path_alias_or_base_url(specifier),
        Ok(None) | Err(_) => Vec::new(),
    });
    Ok(bundler)
}
