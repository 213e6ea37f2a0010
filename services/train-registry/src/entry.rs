//! Which source file a client means, and whether it may.
//!
//! What must hold: a run is started only on a file inside the project, after every symbolic link is followed.

use std::path::Path;

use wire::EntryPath;
use wire::run::RunRefusal;

/// The entry that `file` names, relative to `project` or absolute. `project` is canonical. Blocks on the disk.
pub(crate) fn resolve(project: &Path, file: &str) -> Result<EntryPath, RunRefusal> {
    let no_such = |why: String| RunRefusal::NoSuchFile { file: file.to_owned(), why };
    let outside =
        || RunRefusal::OutsideProject { file: file.to_owned(), project: project.display().to_string() };
    let path = std::fs::canonicalize(project.join(file)).map_err(|error| {
        // Whether a file outside exists is nobody's business.
        if lexically_inside(project, file) { no_such(error.to_string()) } else { outside() }
    })?;
    if !path.starts_with(project) {
        return Err(outside());
    }
    if !path.is_file() {
        return Err(no_such("it is not a file".into()));
    }
    let text = path.to_str().ok_or_else(|| no_such("its path is not UTF-8".into()))?;
    Ok(EntryPath::from(text))
}

/// Whether `file` stays inside `project` by its text alone.
fn lexically_inside(project: &Path, file: &str) -> bool {
    use std::path::Component;
    let path = project.join(file);
    let Ok(rest) = path.strip_prefix(project) else { return false };
    let mut depth = 0_i32;
    rest.components().all(|component| {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            _ => {}
        }
        depth >= 0
    })
}

/// `path` as people want to read it: relative to the project where that is possible.
pub(crate) fn shown(project: &Path, path: &str) -> String {
    Path::new(path).strip_prefix(project).map_or(path, |rest| rest.to_str().unwrap_or(path)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("project");
        std::fs::create_dir_all(root.join("src")).unwrap();
        std::fs::write(root.join("src/a.ts"), "").unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_inside_is_found_however_it_is_written() {
        let (_dir, root) = project();
        let want = root.join("src/a.ts");
        for file in ["src/a.ts", "./src/../src/a.ts", want.to_str().unwrap()] {
            assert_eq!(resolve(&root, file).unwrap().as_str(), want.to_str().unwrap(), "{file}");
        }
        assert_eq!(shown(&root, want.to_str().unwrap()), "src/a.ts");
    }

    #[test]
    fn a_file_outside_is_refused_even_through_a_link() {
        let (_dir, root) = project();
        std::os::unix::fs::symlink("/etc/passwd", root.join("src/link.ts")).unwrap();
        for file in ["/etc/passwd", "../x.ts", "src/../../x.ts", "src/link.ts", "/no/such/file"] {
            let refusal = resolve(&root, file).unwrap_err();
            assert!(matches!(refusal, RunRefusal::OutsideProject { .. }), "{file}: {refusal:?}");
        }
        for file in ["src/missing.ts", "src"] {
            let refusal = resolve(&root, file).unwrap_err();
            assert!(matches!(refusal, RunRefusal::NoSuchFile { .. }), "{file}: {refusal:?}");
        }
    }
}
