//! Builds that fail, and how they are mended.

use std::fs;

use crate::bench::{ENTRY, Loop, Project};

#[actix_rt::test]
async fn a_syntax_error_has_a_place_and_is_mended_by_the_same_bytes() {
    let good = "export const a = 1;\nexport const b = 2;\n";
    let mut looped = Loop::of(&[(ENTRY, good)]).await;
    looped.project.write(ENTRY, "export const a = 1;\nexport const 日本 = = 2;\n");
    let failure = looped.failed().await;
    let [found] = failure.diagnostics.as_slice() else { panic!("{failure:#?}") };
    assert_eq!(found.file.as_deref(), Some(ENTRY));
    assert_eq!((found.line, found.column), (Some(2), Some(19)));
    let frame = "  1 | export const a = 1;\n> 2 | export const 日本 = = 2;\n    |                   ^\n";
    assert_eq!(found.frame.as_deref(), Some(frame));
    assert!(failure.message.starts_with("src/midrun/index.ts:2:19: "), "{}", failure.message);

    looped.project.write(ENTRY, good);
    assert_eq!(looped.built_with("const b = 2").await, [ENTRY]);
}

#[actix_rt::test]
async fn the_same_failure_is_told_once() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    looped.project.write(ENTRY, "export const a = ;\n");
    looped.failed().await;
    looped.project.write(ENTRY, "export const a = ; \n");
    looped.project.write("src/midrun/new.ts", "export const unrelated = 1;\n");
    looped.project.write(ENTRY, "export const a = ;\n");
    looped.nothing_before_a_save_of(ENTRY).await;
}

#[actix_rt::test]
async fn a_missing_export_has_a_place() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n"), ("src/midrun/x.ts", "export {};\n")]).await;
    looped.project.write(ENTRY, "import { nothing } from './x';\nexport const a = nothing;\n");
    let failure = looped.failed().await;
    let [found] = failure.diagnostics.as_slice() else { panic!("{failure:#?}") };
    assert_eq!((found.file.as_deref(), found.line, found.column), (Some(ENTRY), Some(1), Some(10)));
    assert!(
        found.message.contains("nothing") && found.message.contains("src/midrun/x.ts"),
        "{}",
        found.message
    );
}

#[actix_rt::test]
async fn an_import_is_waited_for_wherever_its_file_appears() {
    let mut looped = Loop::of(&[(ENTRY, "export const a = 1;\n")]).await;
    for (specifier, file) in [
        ("./soon", "src/midrun/soon.ts"),
        ("./deep/er/still", "src/midrun/deep/er/still.tsx"),
        ("./folder", "src/midrun/folder/index.ts"),
        ("../../lib/outside.mjs", "lib/outside.mts"),
        ("../../../beside/outside.js", "../beside/outside.ts"),
        ("./data.json", "src/midrun/data.json"),
    ] {
        looped.project.write(ENTRY, &format!("import * as got from '{specifier}';\nexport {{ got }};\n"));
        let failure = looped.failed().await;
        assert!(failure.message.contains(specifier), "{}", failure.message);
        assert_eq!(failure.diagnostics[0].line, Some(1), "{failure:#?}");
        let json = file.ends_with("json");
        let text =
            if json { format!(r#"{{"here":"{file}"}}"#) } else { format!("export const here = '{file}';") };
        looped.project.write(file, &text);
        looped.built_with(file).await;
    }
}

#[actix_rt::test]
async fn a_module_that_vanishes_fails_and_mends() {
    let files =
        [(ENTRY, "export * from './lib/x';\n"), ("src/midrun/lib/x.ts", "export const x = 'here';\n")];
    let mut looped = Loop::of(&files).await;
    looped.project.remove("src/midrun/lib/x.ts");
    assert!(looped.failed().await.message.contains("./lib/x"));
    looped.project.write("src/midrun/lib/x.ts", "export const x = 'here';\n");
    looped.built_with("here").await;
    fs::remove_dir_all(looped.project.path("src/midrun/lib")).unwrap();
    assert!(looped.failed().await.message.contains("./lib/x"));
    looped.project.write("src/midrun/lib/x.js", "export const x = 'elsewhere';\n");
    looped.built_with("elsewhere").await;
}

#[actix_rt::test]
async fn a_better_match_takes_over() {
    let files = [(ENTRY, "export * from './x';\n"), ("src/midrun/x.js", "export const x = 'js';\n")];
    let mut looped = Loop::of(&files).await;
    looped.project.write("src/midrun/x.ts", "export const x = 'ts';\n");
    looped.built_with("\"ts\"").await;
    looped.project.remove("src/midrun/x.ts");
    looped.built_with("\"js\"").await;
}

#[actix_rt::test]
async fn a_project_that_is_failing_from_the_start_is_mended() {
    let project = Project::of(&[(ENTRY, "import './missing';\n")]);
    let mut looped = Loop::watching(project).await;
    looped.failed().await;
    looped.project.write("src/midrun/missing.ts", "globalThis.here = 'it is';\n");
    looped.built_with("it is").await;
}

#[actix_rt::test]
async fn what_tells_the_resolver_is_watched() {
    let entry = "import { x } from '#own';\nimport { y } from '@/y';\nexport const both = [x, y];\n";
    let mut looped = Loop::of(&[
        (ENTRY, entry),
        ("package.json", r##"{"imports": {"#own": "./src/own1.ts"}}"##),
        ("tsconfig.json", r#"{"compilerOptions": {"paths": {"@/*": ["./src/a/*"]}}}"#),
        ("src/own1.ts", "export const x = 'own1';\n"),
        ("src/own2.ts", "export const x = 'own2';\n"),
        ("src/a/y.ts", "export const y = 'in a';\n"),
        ("src/b/y.ts", "export const y = 'in b';\n"),
    ])
    .await;
    looped.project.write("package.json", r##"{"imports": {"#own": "./src/own2.ts"}}"##);
    assert_eq!(looped.built_with("own2").await, ["package.json"]);
    looped.project.write("tsconfig.json", r#"{"compilerOptions": {"paths": {"@/*": ["./src/b/*"]}}}"#);
    // The system may tell of the write before once more.
    assert!(looped.built_with("in b").await.iter().any(|file| file == "tsconfig.json"));
    looped.project.write(ENTRY, &entry.replace("@/y", "@/z"));
    assert!(looped.failed().await.message.contains("index.ts:2:"));
    looped.project.write("src/b/z.ts", "export const y = 'in z';\n");
    looped.built_with("in z").await;
}
