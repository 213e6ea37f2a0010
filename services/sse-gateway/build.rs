//! Puts Studio's built files into the crate, and builds them first when node is there and they are out of date.
//!
//! A build never fails because of Studio: without node, or without the network for its packages, the binary serves a
//! page that says how to build it, never a Studio that is older than its sources. `studio/dist` that somebody built
//! after the newest change is taken as it is; with `MIDRUN_STUDIO=skip`, whatever its age.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// What Studio is made from, besides `src`.
const INPUTS: [&str; 6] =
    ["src", "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let studio = root.join("studio");
    let dist = studio.join("dist");
    println!("cargo:rerun-if-env-changed=MIDRUN_STUDIO");
    for input in INPUTS {
        println!("cargo:rerun-if-changed={}", studio.join(input).display());
    }
    let skip = std::env::var_os("MIDRUN_STUDIO").is_some_and(|wish| wish == "skip");
    let found = provide(&studio, &dist, "npm", skip);
    if found != Dist::BuiltHere {
        // Somebody may build it later. Cargo takes a path that is not there for a change at each build.
        drop(fs::create_dir_all(&dist));
        println!("cargo:rerun-if-changed={}", dist.display());
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("studio_files.rs"), list(&files(&dist, &found)))
        .expect("cargo's own folder can be written");
}

/// What `studio/dist` is worth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dist {
    /// It was there, and belongs to these sources or was asked for as it is.
    AsFound,
    BuiltHere,
    /// It could not be built; what may lie there is out of date.
    Missing,
}

pub(crate) fn provide(studio: &Path, dist: &Path, npm: &str, skip: bool) -> Dist {
    if skip || is_fresh(studio, dist) {
        Dist::AsFound
    } else if build(studio, npm) {
        Dist::BuiltHere
    } else {
        Dist::Missing
    }
}

/// Whether `dist` is newer than everything it is made from.
fn is_fresh(studio: &Path, dist: &Path) -> bool {
    let Some(built) = modified(&dist.join("index.html")) else { return false };
    INPUTS.iter().all(|input| newest(&studio.join(input)).is_none_or(|changed| changed <= built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The newest change of `path` or of anything below it.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = modified(path);
    let below = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path()));
    below.chain(own).max()
}

/// Installs what is needed and builds; says why when it cannot.
fn build(studio: &Path, npm: &str) -> bool {
    let installed = modified(&studio.join("node_modules/.package-lock.json"));
    let current = installed >= modified(&studio.join("package-lock.json")) && installed.is_some();
    let install = ["ci", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=20000"];
    let steps: &[&[&str]] = if current { &[&["run", "build"]] } else { &[&install, &["run", "build"]] };
    for step in steps {
        let ran = Command::new(npm).arg("--silent").args(*step).current_dir(studio).output();
        let why = match ran {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("").to_owned(),
            Err(error) => error.to_string(),
        };
        let step = step.join(" ");
        println!(
            "cargo:warning=Studio is not built: `npm {step}` failed: {why}; the binary says how to build it"
        );
        return false;
    }
    true
}

/// The files that go into the crate.
pub(crate) fn files(dist: &Path, worth: &Dist) -> Vec<PathBuf> {
    if *worth == Dist::Missing || !dist.join("index.html").is_file() {
        return Vec::new();
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(dist).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// They as Rust: name and content of each.
fn list(files: &[PathBuf]) -> String {
    let mut text = String::from("&[\n");
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("built names are ASCII");
        writeln!(text, "    ({name:?}, include_bytes!({file:?})),").expect("writing to a String cannot fail");
    }
    text.push_str("]\n");
    text
}
