//! The artifacts on disk.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use build_watcher::Keep;

use wire::build::{Retain, SourceMap};
use wire::{Artifact, BuildOutcome, ContentHash};

use crate::bench::{ENTRY, Loop, Project};

async fn publish(looped: &mut Loop, name: &str) -> Artifact {
    looped.project.write(ENTRY, &format!("export const name = '{name}';\n"));
    match looped.next().await.outcome {
        BuildOutcome::Built(artifact) => artifact,
        BuildOutcome::Failed(failure) => panic!("{failure:#?}"),
    }
}

async fn retain(looped: &Loop, hashes: &[&ContentHash]) {
    let hashes = hashes.iter().map(|hash| (*hash).clone()).collect();
    looped.handle.retain.peer().ask(Retain { hashes }).await.expect("never refused");
}

fn stored(looped: &Loop) -> BTreeSet<String> {
    let entries = fs::read_dir(looped.project.path(".midrun/build")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() == 64).collect()
}

#[actix_rt::test]
async fn the_newest_and_the_retained_artifacts_are_kept() {
    let project = Project::of(&[(ENTRY, "export const name = 'zero';\n")]);
    let mut looped =
        Loop::idle(project, |settings| settings.keep = Keep { newest: 2, fresh: Duration::ZERO });
    looped.watch(ENTRY).await;
    looped.built().await;
    let first = publish(&mut looped, "first").await;
    assert_eq!(
        first.path,
        looped.project.path(&format!(".midrun/build/{}/index.mjs", first.content_hash)).to_str().unwrap()
    );
    retain(&looped, &[&first.content_hash]).await;
    for name in ["second", "third", "fourth"] {
        publish(&mut looped, name).await;
    }
    let last = publish(&mut looped, "last").await;
    retain(&looped, &[&first.content_hash]).await;
    let kept = stored(&looped);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.contains(first.content_hash.as_str()) && kept.contains(last.content_hash.as_str()));
    retain(&looped, &[]).await;
    let kept = stored(&looped);
    assert!(kept.len() == 2 && kept.contains(last.content_hash.as_str()), "{kept:?}");
    let shown = fs::read_to_string(looped.project.path(".midrun/build/index.mjs")).unwrap();
    assert!(shown.contains("last"));
    assert_eq!(fs::read_to_string(looped.project.path(".midrun/.gitignore")).unwrap(), "*\n");
}

#[actix_rt::test]
async fn artifacts_of_an_earlier_server_are_kept_until_the_registry_has_said_what_is_in_use() {
    let project = Project::of(&[(ENTRY, "export const name = 'zero';\n")]);
    let earlier = ["one", "two", "three"].map(|code| ContentHash::of(code.as_bytes()));
    for (hash, code) in earlier.iter().zip(["one", "two", "three"]) {
        project.write(&format!(".midrun/build/{hash}/index.mjs"), code);
    }
    let mut looped =
        Loop::idle(project, |settings| settings.keep = Keep { newest: 1, fresh: Duration::ZERO });
    looped.watch(ENTRY).await;
    looped.built().await;
    publish(&mut looped, "first").await;
    let last = publish(&mut looped, "last").await;
    // A word to the build thread, so that what follows the publication is done.
    looped.unwatch("src/midrun/none.ts").await;
    let kept = stored(&looped);
    assert!(earlier.iter().all(|hash| kept.contains(hash.as_str())), "{kept:?}");
    retain(&looped, &[&earlier[0]]).await;
    assert_eq!(stored(&looped), [&earlier[0], &last.content_hash].map(ToString::to_string).into());
}

#[actix_rt::test]
async fn a_store_that_was_removed_is_made_again() {
    let mut looped = Loop::of(&[(ENTRY, "export const name = 'zero';\n")]).await;
    fs::remove_dir_all(looped.project.path(".midrun")).unwrap();
    let artifact = publish(&mut looped, "next").await;
    assert!(fs::read_to_string(artifact.path).unwrap().contains("next"));
}

#[actix_rt::test]
async fn a_source_map_belongs_to_its_bytes() {
    let entry = "import { fail } from './fail';\nexport const trainer = { start: () => fail(1) };\n";
    let fail = "\n\nexport function fail(n: number): never {\n  throw new Error(`no ${n}`);\n}\n";
    let mut looped = Loop::of(&[(ENTRY, entry), ("src/midrun/fail.ts", fail)]).await;
    looped.project.write("src/midrun/fail.ts", &fail.replace("no ", "never "));
    let BuildOutcome::Built(artifact) = looped.next().await.outcome else { panic!("it is good") };
    let entry = looped.project.entry(ENTRY);
    let peer = looped.handle.source_map.peer();
    let message = SourceMap { entry: entry.clone(), content_hash: artifact.content_hash.clone() };
    let map = peer.ask(message).await.expect("answered").expect("the sources are the same");
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    assert_eq!(map["version"], 3);
    let mut sources: Vec<_> =
        map["sources"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["src/midrun/fail.ts", ENTRY]);

    let other = SourceMap { entry, content_hash: ContentHash::of(b"other") };
    assert_eq!(peer.ask(other).await.expect("answered"), None);
}
