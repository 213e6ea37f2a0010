//! A look at the process table: who carries which run's id, and for which project.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use process::{Process, arguments, owner, processes, variables};
use wire::RunId;

use super::resolve::{Home, Mark, Seen};
use crate::launch::{RUN_DIR, RUN_ID};

/// Every living process, seen from the project whose runs are in `runs_dir`. Blocks on the system.
pub(crate) fn look(runs_dir: &Path) -> std::io::Result<Vec<Seen>> {
    let living = processes()?.into_iter().filter(Process::is_alive);
    Ok(living.filter_map(|row| see(row, runs_dir)).collect())
}

/// One of them; nothing when it has ended meanwhile.
pub(crate) fn see(row: Process, runs_dir: &Path) -> Option<Seen> {
    let uid = owner(row.pid).ok()?;
    let mark = match variables(row.pid, [RUN_ID, RUN_DIR]) {
        Ok([Some(run), dir]) => match run.into_string() {
            Ok(run) if RunId::is_well_formed(&run) => {
                let home = home(dir.as_deref(), &runs_dir.join(&run));
                Mark::Run { run: RunId::from(run), home }
            }
            _ => Mark::None,
        },
        Ok([None, _]) => Mark::None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(_) => Mark::Unreadable,
    };
    Some(Seen { row, uid, mark })
}

/// Whose run the process `pid` hosts, by its arguments; `folder` is the run's here.
pub(crate) fn hosted_by(pid: u32, folder: &Path) -> Home {
    let arguments = arguments(pid).unwrap_or_default();
    let dir = arguments.iter().skip_while(|word| *word != "--dir").nth(1);
    home(dir.map(AsRef::as_ref), folder)
}

/// Whether `named` is `folder`. One that is not there any more was moved, and may be this.
fn home(named: Option<&OsStr>, folder: &Path) -> Home {
    let Some(named) = named.map(PathBuf::from) else { return Home::Unsaid };
    let place = |path: &Path| std::fs::metadata(path).map(|of| (of.dev(), of.ino())).ok();
    match (place(&named), place(folder)) {
        (None, _) => Home::Unsaid,
        (there, here) if there == here => Home::Here,
        _ => Home::Elsewhere(named),
    }
}
