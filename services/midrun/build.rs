//! Lists the SDK's TypeScript sources, so that the binary carries all of them, and keeps small processes small.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    // A position-independent executable of this size has 8 MB of addresses that are patched at each start, in memory
    // of its own. A run-host is this executable, one for each run, and needs less than that for all it does.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let sources =
        root.join("../../shared/sdk/typescript/src").canonicalize().expect("the SDK is in the repository");
    println!("cargo:rerun-if-changed={}", sources.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&sources)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ts"))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("source names are ASCII");
        writeln!(list, "    ({name:?}, include_str!({file:?})),").expect("writing to a String cannot fail");
    }
    list.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("sdk_sources.rs"), list).expect("cargo's own folder can be written");
}
