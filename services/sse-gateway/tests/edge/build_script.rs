//! What of Studio goes into the crate when it is built.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

#[path = "../../build.rs"]
#[expect(dead_code, reason = "cargo calls `main`")]
mod script;

use script::{Dist, files, provide};

fn write(path: &Path, age: Duration) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "content").unwrap();
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn a_studio_that_is_older_than_its_sources_goes_into_no_crate() {
    const HOUR: Duration = Duration::from_secs(3600);
    let dir = std::env::temp_dir().join(format!("midrun-studio-{}", std::process::id()));
    let (studio, dist) = (dir.as_path(), dir.join("dist"));
    write(&studio.join("package.json"), 3 * HOUR);
    write(&dist.join("index.html"), 2 * HOUR);
    write(&dist.join("index-1.js"), 2 * HOUR);
    // A source that changed after the build. Folders are sources too: their times are those of this test.
    write(&studio.join("src/main.tsx"), HOUR);
    let provide = |npm, skip| provide(studio, &dist, npm, skip);

    let without_node = provide("/no/such/npm", false);
    assert_eq!(without_node, Dist::Missing);
    assert_eq!(
        files(&dist, &without_node),
        Vec::<std::path::PathBuf>::new(),
        "an old page is worse than none"
    );
    assert_eq!(provide("false", false), Dist::Missing, "a build that fails leaves nothing behind");
    assert_eq!(files(&dist, &provide("true", false)), [dist.join("index-1.js"), dist.join("index.html")]);
    assert_eq!(files(&dist, &provide("/no/such/npm", true)).len(), 2, "whoever asks for it as it is gets it");

    write(&dist.join("index.html"), Duration::ZERO);
    assert_eq!(provide("/no/such/npm", false), Dist::AsFound, "what somebody built needs no node");
    fs::remove_dir_all(&dir).unwrap();
}
