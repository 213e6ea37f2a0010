//! Which folders are watched, whatever happens to them.

use std::fs;
use std::os::unix::fs::symlink;

use crate::bench::{ENTRY, Loop, rename};

#[actix_rt::test]
async fn a_module_outside_the_project_is_watched() {
    let files = [
        (ENTRY, "export * from '../../../shared/x';\n"),
        ("../shared/x.ts", "export * from './deep/y';\n"),
        ("../shared/deep/y.ts", "export const y = 'first';\n"),
    ];
    let mut looped = Loop::patient(&files).await;
    looped.project.write("../shared/deep/y.ts", "export const y = 'second';\n");
    let outside = looped.project.root.parent().unwrap().join("shared/deep/y.ts");
    assert_eq!(looped.built_with("second").await, [outside.to_str().unwrap()]);
    // The folder above it is replaced.
    let shared = looped.project.path("../shared");
    rename(&shared, &looped.project.path("../old"));
    looped.project.write("../shared/x.ts", "export * from './deep/y';\n");
    looped.project.write("../shared/deep/y.ts", "export const y = 'third';\n");
    looped.built_with("third").await;
    looped.project.write("../shared/deep/y.ts", "export const y = 'fourth';\n");
    looped.built_with("fourth").await;
}

#[actix_rt::test]
async fn what_is_ignored_is_ignored_unless_it_is_imported() {
    let mut looped = Loop::of(&[
        (ENTRY, "export * from './generated/used';\n"),
        (".gitignore", "generated\n*.log.ts\n"),
        ("src/midrun/generated/used.ts", "export const used = 'first';\n"),
        ("src/midrun/generated/deep/unused.ts", "export {};\n"),
        ("node_modules/pkg/index.js", "export {};\n"),
        ("dist/index.js", "export {};\n"),
    ])
    .await;
    looped.project.write("node_modules/pkg/index.js", "export const changed = 1;\n");
    looped.project.write("src/midrun/generated/deep/unused.ts", "export const changed = 1;\n");
    looped.project.write("src/midrun/generated/new.ts", "export const changed = 1;\n");
    looped.project.write("src/midrun/x.log.ts", "export const changed = 1;\n");
    looped.project.write("dist/index.js", "export const changed = 1;\n");
    looped.project.write(".midrun/build/mine.js", "export const changed = 1;\n");
    looped.project.write("src/midrun/generated/used.ts", "export const used = 'second';\n");
    assert_eq!(looped.built_with("second").await, ["src/midrun/generated/used.ts"]);
    looped.nothing_before_a_save_of(ENTRY).await;
}

#[actix_rt::test]
async fn a_folder_that_is_replaced_is_watched_again() {
    let files = [
        (ENTRY, "export * from '../lib/deep/x';\n"),
        ("src/lib/deep/x.ts", "export const x = 'first';\n"),
        ("src/new/deep/x.ts", "export const x = 'second';\n"),
    ];
    let mut looped = Loop::patient(&files).await;
    let path = |name: &str| looped.project.path(name);
    rename(&path("src/lib"), &path("src/old"));
    rename(&path("src/new"), &path("src/lib"));
    looped.built_with("second").await;
    looped.project.write("src/lib/deep/x.ts", "export const x = 'third';\n");
    looped.built_with("third").await;

    // And back: the same folder as at first, under the same name.
    let path = |name: &str| looped.project.path(name);
    rename(&path("src/lib"), &path("src/new"));
    rename(&path("src/old"), &path("src/lib"));
    looped.built_with("first").await;
    looped.project.write("src/lib/deep/x.ts", "export const x = 'fifth';\n");
    looped.built_with("fifth").await;

    let path = |name: &str| looped.project.path(name);
    rename(&path("src"), &path("away"));
    looped.failed().await;
    rename(&looped.project.path("away"), &looped.project.path("src"));
    looped.built_with("fifth").await;
    looped.project.write("src/lib/deep/x.ts", "export const x = 'sixth';\n");
    looped.built_with("sixth").await;
}

#[actix_rt::test]
async fn linked_modules_and_folders_are_followed() {
    let mut looped = Loop::of(&[
        (ENTRY, "export const early = 1;\n"),
        ("../shared/a.ts", "export const a = 'a1';\n"),
        ("../shared/b.ts", "export const a = 'b1';\n"),
        ("../one/x.ts", "export const x = 'x1';\n"),
        ("../two/x.ts", "export const x = 'x2';\n"),
    ])
    .await;
    let path = |name: &str| looped.project.path(name);
    symlink("../../../shared/a.ts", path("src/midrun/a.ts")).unwrap();
    symlink("../../../one", path("src/midrun/linked")).unwrap();
    looped.project.write(ENTRY, "export * from './a';\nexport * from './linked/x';\n");
    let (_, code) = looped.built().await;
    assert!(code.contains("a1") && code.contains("x1"), "{code}");
    looped.project.write("../shared/a.ts", "export const a = 'a2';\n");
    looped.built_with("a2").await;

    // Turned to another file, another folder.
    let path = |name: &str| looped.project.path(name);
    symlink("../../../shared/b.ts", path("src/midrun/new")).unwrap();
    rename(&path("src/midrun/new"), &path("src/midrun/a.ts"));
    looped.built_with("b1").await;
    let path = |name: &str| looped.project.path(name);
    symlink("../../../two", path("src/midrun/new")).unwrap();
    rename(&path("src/midrun/new"), &path("src/midrun/linked"));
    looped.built_with("x2").await;
    looped.project.write("../two/x.ts", "export const x = 'x3';\n");
    looped.built_with("x3").await;
}

#[actix_rt::test]
async fn a_new_folder_is_watched_as_soon_as_it_is_of_use() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    looped.project.write("src/midrun/new/deep/x.ts", "export const x = 'x1';\n");
    looped.project.write(ENTRY, "export * from './new/deep/x';\n");
    looped.built_with("x1").await;
    looped.project.write("src/midrun/new/deep/x.ts", "export const x = 'x2';\n");
    looped.built_with("x2").await;
    fs::remove_dir_all(looped.project.path("src/midrun/new")).unwrap();
    looped.failed().await;
    looped.project.write("src/midrun/new/deep/x.ts", "export const x = 'x3';\n");
    looped.built_with("x3").await;
}
