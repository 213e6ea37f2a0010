//! The same loop as a good Node implementation has it (`node-loop` beside this crate), measured beside midrun: a machine
//! that is slow for one is slow for the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Dev, DevOptions, Midrun, Stage};

/// The program, with what it needs installed.
///
/// # Panics
/// When npm cannot install it.
fn program() -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node-loop");
    if !folder.join("node_modules/rolldown").exists() {
        let installed = Command::new("npm").args(["ci", "--silent", "--prefix"]).arg(&folder).status();
        let ok = installed.is_ok_and(|status| status.success());
        assert!(ok, "npm ci in {} failed: the Node loop needs rolldown", folder.display());
    }
    ["node".into(), folder.join("loop.mjs")]
}

/// A loop in the stage's project, not started yet.
pub(crate) fn options(stage: &Stage) -> DevOptions {
    Dev::options(stage, &[]).by(program())
}

/// The same as a plain command.
pub(crate) fn command(stage: &Stage) -> Midrun {
    Midrun::new(stage, ["dev"]).by(program())
}
