//! The ways in which programs save files.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::process::Command;

use crate::bench::{ENTRY, Loop, rename};
use build_watcher::build_once;

const TRAINER: &str = "import { rate } from './rate';\nexport const trainer = { rate };\n";

#[actix_rt::test]
async fn a_save_in_place_is_built() {
    let mut looped =
        Loop::of(&[(ENTRY, TRAINER), ("src/midrun/rate.ts", "export const rate = 125;\n")]).await;
    looped.project.write("src/midrun/rate.ts", "export const rate = 250;\n");
    assert_eq!(looped.built_with("250").await, ["src/midrun/rate.ts"]);
}

#[actix_rt::test]
async fn a_save_by_rename_is_built() {
    let mut looped =
        Loop::patient(&[(ENTRY, TRAINER), ("src/midrun/rate.ts", "export const rate = 125;\n")]).await;
    let file = looped.project.path("src/midrun/rate.ts");
    for rate in ["250", "500"] {
        let new = looped.project.path("src/midrun/rate.ts.tmp.4711");
        fs::write(&new, format!("export const rate = {rate};\n")).unwrap();
        rename(&new, &file);
        assert_eq!(looped.built_with(rate).await, ["src/midrun/rate.ts"]);
    }
    // The way of vim: the old file is moved away, the new one is written under its name.
    rename(&file, &looped.project.path("src/midrun/rate.ts~"));
    fs::write(&file, "export const rate = 750;\n").unwrap();
    looped.project.remove("src/midrun/rate.ts~");
    assert_eq!(looped.built_with("750").await, ["src/midrun/rate.ts"]);
}

#[actix_rt::test]
async fn a_half_written_file_is_never_published() {
    let mut looped =
        Loop::patient(&[(ENTRY, TRAINER), ("src/midrun/rate.ts", "export const rate = 125;\n")]).await;
    // The file is empty and open while another one is saved.
    let mut open = File::create(looped.project.path("src/midrun/rate.ts")).unwrap();
    looped.project.write(ENTRY, &format!("{TRAINER}export const more = 'more';\n"));
    open.write_all(b"export const rate = 250;\n").unwrap();
    drop(open);
    let (changed, code) = looped.built().await;
    assert_eq!(changed, [ENTRY, "src/midrun/rate.ts"]);
    assert!(code.contains("250") && code.contains("more"), "{code}");
}

#[actix_rt::test]
async fn a_file_written_in_many_steps_is_published_when_it_is_complete() {
    let mut looped =
        Loop::patient(&[(ENTRY, TRAINER), ("src/midrun/rate.ts", "export const rate = 125;\n")]).await;
    let mut open = File::create(looped.project.path("src/midrun/rate.ts")).unwrap();
    for step in 0..2000 {
        writeln!(open, "export const step{step} = {step};").unwrap();
        open.flush().unwrap();
    }
    write!(open, "export const rate = 250;").unwrap();
    drop(open);
    assert_eq!(looped.built_with("250").await, ["src/midrun/rate.ts"]);
}

#[actix_rt::test]
async fn a_writer_that_never_closes_its_file_is_not_waited_for_without_end() {
    let mut looped =
        Loop::of(&[(ENTRY, TRAINER), ("src/midrun/rate.ts", "export const rate = 125;\n")]).await;
    let path = looped.project.path("src/midrun/rate.ts");
    let mut open = OpenOptions::new().write(true).open(path).unwrap();
    open.write_all(b"export const rate = 875;\n").unwrap();
    assert_eq!(looped.built_with("875").await, ["src/midrun/rate.ts"]);
    drop(open);
}

#[actix_rt::test]
async fn the_same_bytes_are_not_published_again() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    for same in ["export const a = 1;\n", "// a comment\nexport const a   =   1;\n", "export const a = 1;\n"]
    {
        looped.project.write(ENTRY, same);
    }
    looped.nothing_before_a_save_of(ENTRY).await;
}

#[actix_rt::test]
async fn a_revert_is_published() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 'first';\n")]).await;
    looped.project.write(ENTRY, "export const a = 'second';\n");
    looped.built_with("second").await;
    looped.project.write(ENTRY, "export const a = 'first';\n");
    looped.built_with("first").await;
}

#[actix_rt::test]
async fn saves_faster_than_builds_end_in_the_last_one() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 'v0';\n")]).await;
    const LAST: u32 = 300;
    for n in 1..=LAST {
        looped.project.write(ENTRY, &format!("export const a = 'v{n}';\n"));
    }
    let mut published = 0;
    while published < LAST {
        let (_, code) = looped.built().await;
        let digits: String = code.chars().filter(char::is_ascii_digit).collect();
        let version: u32 = digits.parse().unwrap_or_else(|_| panic!("{code}"));
        assert!(version > published, "v{version} after v{published}");
        published = version;
    }
    looped.nothing_before_a_save_of(ENTRY).await;
}

fn git(looped: &Loop, arguments: &[&str]) {
    let output = Command::new("git")
        .current_dir(&looped.project.root)
        .args(["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[actix_rt::test]
async fn a_checkout_of_200_files_is_one_rebuild() {
    let module = |n: usize, branch: &str| format!("export const m{n} = '{branch} {n}';\n");
    let names: Vec<_> = (0..200).map(|n| format!("src/midrun/part{}/m{n}.ts", n % 7)).collect();
    let imports: String = (0..200).map(|n| format!("export * from './part{}/m{n}';\n", n % 7)).collect();
    let mut looped = Loop::of(&[(ENTRY, "export const early = 1;\n")]).await;
    git(&looped, &["init", "--quiet"]);
    for branch in ["one", "two"] {
        for (n, name) in names.iter().enumerate() {
            looped.project.write(name, &module(n, branch));
        }
        looped.project.write(ENTRY, &imports);
        if branch == "two" {
            git(&looped, &["checkout", "--quiet", "-b", "two"]);
        }
        git(&looped, &["add", "."]);
        git(&looped, &["commit", "--quiet", "-m", branch]);
    }
    // Whatever was published while the files were written, the last of it is branch two.
    while !looped.built().await.1.contains("two 199") {}

    for (branch, here, gone) in [("main", "one 0", "two 0"), ("two", "two 0", "one 0")] {
        git(&looped, &["checkout", "--quiet", branch]);
        let (changed, code) = looped.built().await;
        assert!(code.contains(here) && !code.contains(gone), "a mixture was published");
        assert_eq!(changed.len(), 100, "named up to a limit");
        let entry = looped.project.entry(ENTRY);
        let afresh = build_once(&looped.project.root, &entry).unwrap();
        assert_eq!(fs::read_to_string(afresh.path).unwrap(), code);
    }
    looped.nothing_before_a_save_of(ENTRY).await;
}
