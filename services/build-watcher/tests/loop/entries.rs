//! Which entries are built, and when.

use std::fs;

use build_watcher::find_entry;
use peer::Start;
use wire::{BuildOutcome, Profile};

use crate::bench::{ENTRY, LONG, Loop, Project, rename};

#[actix_rt::test]
async fn a_missing_entry_is_told_once_and_starts_by_itself() {
    let mut looped = Loop::watching(Project::of(&[("package.json", "{}")])).await;
    let failure = looped.failed().await;
    assert_eq!(
        failure.message,
        "there is no src/midrun/index.ts: create it, or run `midrun init`; it is built as soon as it appears"
    );
    looped.project.write("src/other.ts", "export {};\n");
    looped.project.write("src/midrun/helper.ts", "export {};\n");
    looped.project.write(ENTRY, "export const a = 'appeared';\n");
    looped.built_with("appeared").await;

    looped.project.remove(ENTRY);
    looped.failed().await;
    looped.project.write(ENTRY, "export const a = 'appeared';\n");
    looped.built_with("appeared").await;

    fs::remove_dir_all(looped.project.path("src")).unwrap();
    looped.failed().await;
    looped.project.write(ENTRY, "export const a = 'again';\n");
    looped.built_with("again").await;
    looped.nothing_before_a_save_of(ENTRY).await;
}

#[actix_rt::test]
async fn an_entry_with_another_extension_stands_in() {
    let mut looped = Loop::watching(Project::of(&[])).await;
    looped.failed().await;
    looped.project.write("src/midrun/index.mts", "export const a = 'mts';\n");
    looped.built_with("mts").await;
    looped.project.write(ENTRY, "export const a = 'ts';\n");
    looped.built_with("\"ts\"").await;
    let found = find_entry(&looped.project.root);
    assert_eq!(found, Some((Profile::Midrun, looped.project.entry(ENTRY))));
}

#[actix_rt::test]
async fn the_bundle_of_an_arkor_project_is_shown_where_its_tools_look() {
    let entry = "src/arkor/index.ts";
    let mut looped = Loop::idle(Project::of(&[(entry, "export const a = 'arkor';\n")]), |_| {});
    assert_eq!(find_entry(&looped.project.root), Some((Profile::Arkor, looped.project.entry(entry))));
    looped.watch(entry).await;
    let (_, code) = looped.built().await;
    for place in [".arkor/build/index.mjs", ".midrun/build/index.mjs"] {
        assert_eq!(fs::read_to_string(looped.project.path(place)).unwrap(), code, "{place}");
    }
}

#[actix_rt::test]
async fn several_entries_are_built_each_for_itself() {
    let shared = "export const shared = 'one';\n";
    let mut looped = Loop::of(&[
        (ENTRY, "export * from '../shared';\n"),
        ("src/shared.ts", shared),
        ("experiments/two.ts", "export * from '../src/shared';\nexport const two = 2;\n"),
    ])
    .await;
    let own = fs::read_to_string(looped.project.path(".midrun/build/index.mjs")).unwrap();
    looped.watch("experiments/two.ts").await;
    let (changed, _) = looped.built().await;
    assert!(changed.is_empty(), "the first build has no cause");
    let shown = fs::read_to_string(looped.project.path(".midrun/build/index.mjs")).unwrap();
    assert_eq!(shown, own, "only the project's own entry is shown");

    looped.project.write("src/shared.ts", "export const shared = 'both';\n");
    let mut entries = [looped.next().await.entry, looped.next().await.entry];
    entries.sort();
    assert_eq!(entries, [looped.project.entry("experiments/two.ts"), looped.project.entry(ENTRY)]);

    looped.project.write("experiments/two.ts", "export const two = 'alone';\n");
    looped.built_with("alone").await;
}

#[actix_rt::test]
async fn an_entry_is_watched_until_it_is_given_back_however_often_it_was_asked_for() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    looped.project.write("x.ts", "export const x = 'x1';\n");
    looped.watch("x.ts").await;
    looped.built_with("x1").await;
    looped.watch("x.ts").await;
    looped.project.write("x.ts", "export const x = 'x2';\n");
    looped.built_with("x2").await;

    looped.unwatch("x.ts").await;
    looped.unwatch("never-watched.ts").await;
    looped.project.write("x.ts", "export const x = 'x3';\n");
    looped.nothing_before_a_save_of(ENTRY).await;
    let mut fresh = looped.handle.feed.read(Start::Snapshot);
    let kept = std::iter::from_fn(|| fresh.try_next()).map(|got| got.event.entry.clone());
    assert_eq!(kept.collect::<Vec<_>>(), [looped.project.entry(ENTRY)]);

    looped.watch("x.ts").await;
    looped.built_with("x3").await;
}

#[actix_rt::test]
async fn a_watch_is_answered_after_the_first_build() {
    let mut looped = Loop::idle(Project::of(&[(ENTRY, "export const a = 1;\n")]), |_| {});
    looped.watch(ENTRY).await;
    let first = looped.reader.try_next().expect("it is there already");
    assert!(matches!(first.event.outcome, BuildOutcome::Built(_)));
}

#[actix_rt::test]
async fn an_entry_that_is_a_link_is_followed_and_can_be_turned() {
    let project = Project::of(&[
        ("trainers/one.ts", "export const a = 'one';\n"),
        ("trainers/two.ts", "export const a = 'two';\n"),
        ("src/midrun/other.ts", ""),
    ]);
    std::os::unix::fs::symlink("../../trainers/one.ts", project.path(ENTRY)).unwrap();
    let mut looped = Loop::watching(project).await;
    looped.built_with("one").await;
    looped.project.write("trainers/one.ts", "export const a = 'uno';\n");
    looped.built_with("uno").await;
    let new = looped.project.path("src/midrun/new");
    std::os::unix::fs::symlink("../../trainers/two.ts", &new).unwrap();
    rename(&new, &looped.project.path(ENTRY));
    looped.built_with("two").await;
    looped.project.write("trainers/two.ts", "export const a = 'due';\n");
    looped.built_with("due").await;
}

#[actix_rt::test]
async fn the_end_is_orderly() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    looped.handle.stop(LONG).await.expect("it ends");
    looped.handle.stop(LONG).await.expect("it has ended");
    assert!(looped.reader.next().await.is_none(), "the feed ends");
    let entry = looped.project.entry(ENTRY);
    let refused = looped.handle.watch.peer().ask(wire::build::Watch { entry }).await;
    assert!(matches!(refused, Err(peer::AskError::NotDelivered { .. })), "{refused:?}");
}
