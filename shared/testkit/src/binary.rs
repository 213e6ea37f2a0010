//! Where the binary under test is.

use std::path::{Path, PathBuf};

/// The `midrun` binary: `MIDRUN_BIN`, or the one beside the running test, or the one that the workspace built last.
///
/// # Panics
/// When there is none.
pub fn midrun() -> PathBuf {
    if let Some(named) = std::env::var_os("MIDRUN_BIN") {
        let path = PathBuf::from(named);
        assert!(path.is_file(), "MIDRUN_BIN names {}, which is no file", path.display());
        return path.canonicalize().expect("it is a file, as was just seen");
    }
    let beside = std::env::current_exe().ok().and_then(|test| {
        // A test runs from `target/PROFILE/deps`, a binary from `target/PROFILE`.
        test.ancestors().skip(1).take(2).map(|dir| dir.join("midrun")).find(|path| path.is_file())
    });
    beside.or_else(newest_built).unwrap_or_else(|| {
        panic!("there is no midrun binary: run `cargo build -p midrun` first, or name one by MIDRUN_BIN")
    })
}

fn newest_built() -> Option<PathBuf> {
    let target = workspace().join("target");
    let built = ["debug", "release"].map(|profile| target.join(profile).join("midrun"));
    built
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
}

/// The workspace's folder.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is two folders below the workspace")
}
