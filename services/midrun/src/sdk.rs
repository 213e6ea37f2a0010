//! The TypeScript SDK inside the binary: bundled when a server starts, once for each version of it.
//!
//! What must hold: a project's `import … from "midrun"` finds the SDK of this binary, unless the project has its own.
//! Artifacts are below the state folder, so node finds `node_modules` there before the project's.

use std::io;
use std::path::{Path, PathBuf};

/// The names and texts of the SDK's sources.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk_sources.rs"));

/// What is bundled: what a trainer imports, what runs a trainer, what inspects one.
const ENTRIES: [&str; 3] = ["index.ts", "runner.ts", "inspector-worker.ts"];

/// The bundled files.
#[derive(Debug, Clone)]
pub(crate) struct Sdk {
    /// `node RUNNER --artifact PATH`.
    pub(crate) runner: PathBuf,
    /// What the inspector's workers execute.
    pub(crate) inspector_worker: PathBuf,
}

/// Bundles the SDK below `state_dir`, unless that was done before, and lets the project at `root` find it.
pub(crate) fn make(root: &Path, state_dir: &Path) -> Result<Sdk, String> {
    let dir = build_watcher::bundle_runtime(SOURCES, &ENTRIES, &state_dir.join("sdk"))
        .map_err(|failure| format!("the SDK cannot be bundled: {}", failure.message))?;
    offer(root, state_dir, &dir).map_err(|error| format!("{}: {error}", state_dir.display()))?;
    Ok(Sdk { runner: dir.join("runner.mjs"), inspector_worker: dir.join("inspector-worker.mjs") })
}

/// Makes the bare specifier `midrun` resolve to the SDK in `sdk`, or to the project's own if it has one.
///
/// A link, not a copy: node then loads the same module for the trainer and for its runner.
fn offer(root: &Path, state_dir: &Path, sdk: &Path) -> io::Result<()> {
    let modules = state_dir.join("node_modules");
    let link = modules.join("midrun");
    if root.join("node_modules/midrun/package.json").exists() {
        return match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let manifest = serde_json::json!({
        "name": "midrun",
        "version": env!("CARGO_PKG_VERSION"),
        "private": true,
        "type": "module",
        "exports": "./index.mjs",
    });
    // Never half-written: a run of an earlier server may be importing it now.
    let package = sdk.join("package.json");
    let text = serde_json::to_vec_pretty(&manifest)?;
    if std::fs::read(&package).ok().as_ref() != Some(&text) {
        let fresh = sdk.join(format!(".package-{}.json", std::process::id()));
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &package)?;
    }
    if std::fs::read_link(&link).is_ok_and(|target| target == sdk) {
        return Ok(());
    }
    std::fs::create_dir_all(&modules)?;
    let fresh = modules.join(format!(".midrun-{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    std::os::unix::fs::symlink(sdk, &fresh)?;
    std::fs::rename(&fresh, &link)
}
