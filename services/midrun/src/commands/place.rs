//! Where things are: the project that a folder belongs to.

use std::path::{Path, PathBuf};

use crate::state;

/// The nearest folder from `dir` upwards that is a project: it has an entry, or a server was started in it.
pub(crate) fn project_of(dir: &Path) -> Option<PathBuf> {
    let is_project =
        |dir: &&Path| entry_of(dir).is_some() || state::state_dir(dir).join("server.json").is_file();
    dir.ancestors().find(is_project).map(Path::to_path_buf)
}

/// The project's own entry.
pub(crate) fn entry_of(project: &Path) -> Option<PathBuf> {
    build_watcher::find_entry(project).map(|(_, entry)| PathBuf::from(entry.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_project_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().join("outer");
        let inner = outer.join("packages/inner");
        for (project, folder, name) in
            [(&outer, ".midrun", "server.json"), (&inner, "src/arkor", "index.mts")]
        {
            std::fs::create_dir_all(project.join(folder)).unwrap();
            std::fs::write(project.join(folder).join(name), "").unwrap();
        }
        assert_eq!(project_of(&inner.join("src/arkor")), Some(inner.clone()));
        assert_eq!(project_of(&outer.join("packages")), Some(outer));
        assert_eq!(project_of(dir.path()), None);
        assert_eq!(entry_of(&inner), Some(inner.join("src/arkor/index.mts")));
    }
}
