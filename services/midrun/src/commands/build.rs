//! `midrun build`: one build and one inspection, for people in a hurry and for checks in a pipeline.
//!
//! The bundle goes where the server's loop would put it, and the answer is what that loop would decide by.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wire::{Artifact, ConfigHash, EntryPath, Manifest};

use super::screen::{Own, Screen};
use super::table::{self, cell};
use super::{Failure, Outcome, here, place, with_frames};
use crate::project::Project;
use crate::{cli, sdk};

/// Carries out `midrun build`.
pub(crate) async fn command(args: &cli::Build) -> Result<Outcome, Failure> {
    let mut own = Own::outputs();
    let built = match Project::open(&folder(&args.dir)?) {
        Ok(project) => build(&project).await.map(|built| (project, built)),
        Err(why) => Err(wire::Failure::plain(why)),
    };
    match built {
        Ok((project, built)) => tell(&project, &built, args.json, &mut own.screen()),
        Err(failure) if args.json => {
            own.screen().json(&json!({ "error": failure.message, "diagnostics": failure.diagnostics }))?;
            Ok(Outcome::FAILED)
        }
        Err(failure) => Err(Failure::plain(with_frames(&failure.message, &failure.diagnostics))),
    }
}

/// The project's folder: the one that is named, or the one around the current folder.
fn folder(named: &Path) -> Result<PathBuf, Failure> {
    if named != Path::new(".") {
        return Ok(named.to_owned());
    }
    let here = here()?;
    Ok(place::project_of(&here).unwrap_or(here))
}

/// A build that is good.
struct Built {
    artifact: Artifact,
    manifest: Manifest,
    bundling: Duration,
    inspecting: Duration,
}

async fn build(project: &Project) -> Result<Built, wire::Failure> {
    let plain = wire::Failure::plain;
    let Some(entry) = place::entry_of(&project.root) else {
        let none =
            format!("no trainer in {}: write src/midrun/index.ts, or `midrun init`", project.root.display());
        return Err(plain(none));
    };
    let entry = EntryPath::from(entry.to_string_lossy().into_owned());
    let state_dir = project.make_state_dir().map_err(plain)?;
    let sdk = sdk::make(&project.root, &state_dir).map_err(plain)?;
    let begun = Instant::now();
    let artifact = build_watcher::build_once(&project.root, &entry)?;
    let bundling = begun.elapsed();
    let wanted = &project.settings;
    let settings = manifest_inspector::Settings {
        project: project.root.clone(),
        node: wanted.run.node.clone(),
        worker: sdk.inspector_worker,
        time_limit: Duration::from_millis(wanted.inspector.time_limit_ms),
        max_imports: wanted.inspector.max_imports,
    };
    let begun = Instant::now();
    // Made when the code throws; it is what names the place.
    let map = async { build_watcher::map_once(&project.root, &entry, &artifact.content_hash) };
    let manifest = manifest_inspector::inspect_once(&settings, &artifact, map).await?;
    if manifest.trainer.is_none() {
        return Err(plain(wire::run::RunRefusal::NoTrainer { entry }.to_string()));
    }
    Ok(Built { artifact, manifest, bundling, inspecting: begun.elapsed() })
}

fn tell(project: &Project, built: &Built, json: bool, screen: &mut Screen<'_>) -> Result<Outcome, Failure> {
    if json {
        screen.json(&result(built))?;
        return Ok(Outcome::DONE);
    }
    let Built { artifact, manifest, bundling, inspecting } = built;
    let file = Path::new(&artifact.path);
    let file = file.strip_prefix(&project.root).unwrap_or(file);
    let callbacks: Vec<_> = manifest.callbacks.keys().map(|name| cell(Some(name))).collect();
    let swap = if manifest.can_swap { "yes" } else { "no: a change of callbacks restarts a run" };
    let facts = [
        ("trainer", Some(cell(manifest.trainer.as_deref()))),
        ("bundle", Some(format!("{} ({} bytes)", file.display(), artifact.size))),
        ("config", Some(manifest.config_hash.as_ref().map_or("not told", ConfigHash::as_str).to_owned())),
        ("callbacks", Some(if callbacks.is_empty() { "none".to_owned() } else { callbacks.join(", ") })),
        ("hot swap", Some(swap.to_owned())),
        (
            "time",
            Some(format!("{:.0} ms to bundle, {:.0} ms to inspect", millis(*bundling), millis(*inspecting))),
        ),
    ];
    table::facts(&facts, screen)?;
    Ok(Outcome::DONE)
}

fn result(built: &Built) -> Value {
    let Built { artifact, manifest, bundling, inspecting } = built;
    json!({
        "outFile": artifact.path,
        "contentHash": artifact.content_hash,
        "configHash": manifest.config_hash,
        "trainer": manifest.trainer.as_ref().map(|name| json!({ "name": name })),
        "config": manifest.config,
        "callbacks": manifest.callbacks.keys().collect::<Vec<_>>(),
        "canSwap": manifest.can_swap,
        "timings": { "bundleMs": millis(*bundling), "inspectMs": millis(*inspecting) },
    })
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
