//! Whether a program is a Node that midrun can use.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The oldest one that runs the SDK.
const OLDEST: (u32, u32) = (20, 3);

/// How long it may take to say its version.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a program is of no use as a Node; written as a whole it says what to do, too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {}", self.words())]
pub struct UnfitNode {
    /// Continues "node …".
    pub what: String,
}

impl UnfitNode {
    /// What a person can do about it.
    pub const ADVICE: &str =
        "install Node.js 20.3 or newer, or name one: run.node in midrun.toml, or MIDRUN_RUN__NODE";

    /// Why, and what to do; continues "node …".
    pub(crate) fn words(&self) -> String {
        format!("{}: {}", self.what, Self::ADVICE)
    }

    /// `program` could not be started.
    pub(crate) fn not_started(program: &Path, error: &io::Error) -> Self {
        let what = match error.kind() {
            io::ErrorKind::NotFound => format!("was not found as {program:?}"),
            _ => format!("could not be started as {program:?}: {error}"),
        };
        Self { what }
    }

    /// What stands in the way of using this version, which writes itself `v20.3.0`.
    pub(crate) fn too_old(version: &str) -> Option<Self> {
        let (major, minor) = OLDEST;
        let is_old = numbers(version)? < OLDEST;
        is_old.then(|| Self { what: format!("is {version}, and midrun needs {major}.{minor} or newer") })
    }

    /// The same, where it has to be a version.
    fn by(version: &str) -> Option<Self> {
        match numbers(version) {
            Some(_) => Self::too_old(version),
            None => Some(Self { what: format!("says {version:?}, which is no version") }),
        }
    }
}

/// Asks `program`, in the folder that it will be used in, for its version.
///
/// # Errors
/// It is not there, is no Node, or is too old.
pub async fn check_node(program: &Path, folder: &Path) -> Result<String, UnfitNode> {
    let asked = Command::new(program)
        .arg("--version")
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let what = match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(said)) if said.status.success() => {
            let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            return UnfitNode::by(&version).map_or(Ok(version), Err);
        }
        Ok(Ok(said)) => format!("does not say its version as {program:?}: {}", said.status),
        Ok(Err(error)) => return Err(UnfitNode::not_started(program, &error)),
        Err(_) => format!("took more than {} s to say its version as {program:?}", LIMIT.as_secs()),
    };
    Err(UnfitNode { what })
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|part| part.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_is_told_and_an_unreadable_one_is_let_be() {
        for fine in ["v20.3.0", "v20.20.2", "v22.0.0", "v100.0.0-nightly", "unreadable"] {
            assert_eq!(UnfitNode::too_old(fine), None, "{fine}");
        }
        for old in ["v18.20.0", "v20.2.9", "v4.0.0"] {
            assert!(UnfitNode::too_old(old).unwrap().what.contains(old));
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_for_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("node");
        for (script, words) in [
            ("echo v20.3.0", None),
            ("echo v18.20.0", Some("is v18.20.0, and midrun needs 20.3 or newer")),
            ("echo hello", Some("which is no version")),
            ("exit 3", Some("exit status: 3")),
        ] {
            testkit::program(&program, script);
            let told = check_node(&program, dir.path()).await;
            match words {
                None => assert_eq!(told.as_deref(), Ok("v20.3.0")),
                Some(words) => assert!(told.as_ref().is_err_and(|why| why.what.contains(words)), "{told:?}"),
            }
        }
        let missing = check_node(&dir.path().join("none"), dir.path()).await.unwrap_err().to_string();
        assert!(missing.starts_with("node was not found as ") && missing.contains("MIDRUN_RUN__NODE"));
    }
}
