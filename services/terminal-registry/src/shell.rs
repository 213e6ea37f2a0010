//! Which shell, and where.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use wire::terminal::TerminalRefusal;

/// The shells whose language is known: bash, and those that read `$ENV` when they start.
const KNOWN: [&str; 7] = ["bash", "rbash", "sh", "dash", "ash", "ksh", "mksh"];

/// The program of the shell that was asked for, or of the first of `SHELL`, bash and sh that is there and known.
pub(crate) fn resolve(asked: Option<&str>) -> Result<String, TerminalRefusal> {
    if let Some(asked) = asked {
        let no = |why: String| TerminalRefusal::NoSuchShell { shell: asked.to_owned(), why };
        if !is_known(asked) {
            return Err(no(format!("its language is not known; it can be {}", KNOWN.join(", "))));
        }
        return find(asked).ok_or_else(|| no("there is no such program".to_owned()));
    }
    let own = std::env::var("SHELL").ok().filter(|shell| is_known(shell));
    let candidates = own.into_iter().chain(["bash".to_owned(), "/bin/sh".to_owned()]);
    candidates.filter_map(|shell| find(&shell)).next().ok_or_else(|| TerminalRefusal::NoSuchShell {
        shell: "sh".to_owned(),
        why: "this system has neither it nor bash".to_owned(),
    })
}

fn is_known(shell: &str) -> bool {
    Path::new(shell).file_name().is_some_and(|name| KNOWN.iter().any(|known| name == *known))
}

/// The program's path: as it stands, or in a folder of `PATH`.
fn find(shell: &str) -> Option<String> {
    let is_program = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found: Option<PathBuf> = if shell.contains('/') {
        Path::new(shell).is_absolute().then(|| shell.into())
    } else {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(shell)).find(|path| is_program(path))
    };
    found.filter(|path| is_program(path))?.into_os_string().into_string().ok()
}

/// The folder that was asked for, which must be inside the project, wherever links lead.
pub(crate) fn folder(project: &Path, asked: Option<&str>) -> Result<String, TerminalRefusal> {
    let folder = match asked {
        None => Some(project.to_owned()),
        Some(asked) => project.join(asked).canonicalize().ok(),
    };
    let inside = folder.filter(|folder| folder.starts_with(project) && folder.is_dir());
    let text = inside.and_then(|folder| folder.into_os_string().into_string().ok());
    text.ok_or_else(|| TerminalRefusal::OutsideProject {
        folder: asked.unwrap_or(".").to_owned(),
        project: project.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shell_whose_language_is_known_is_one() {
        assert!(resolve(Some("sh")).unwrap().ends_with("/sh"));
        assert_eq!(resolve(Some("/bin/sh")).unwrap(), "/bin/sh");
        assert!(resolve(None).is_ok());
        for odd in ["python3", "/bin/cat", "", "bash -c true", "/no/such/bash", "../../bin/sh", "./sh"] {
            assert!(matches!(resolve(Some(odd)), Err(TerminalRefusal::NoSuchShell { .. })), "{odd}");
        }
    }

    #[test]
    fn a_folder_is_inside_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().canonicalize().unwrap();
        std::fs::create_dir(project.join("deep")).unwrap();
        std::fs::write(project.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", project.join("out")).unwrap();
        let shown = |path: &str| project.join(path).to_str().unwrap().to_owned();
        assert_eq!(folder(&project, None).unwrap(), project.to_str().unwrap());
        assert_eq!(folder(&project, Some("deep")).unwrap(), shown("deep"));
        assert_eq!(folder(&project, Some(&shown("deep"))).unwrap(), shown("deep"));
        for odd in ["..", "/", "out", "file", "no/such"] {
            assert!(folder(&project, Some(odd)).is_err(), "{odd}");
        }
    }
}
