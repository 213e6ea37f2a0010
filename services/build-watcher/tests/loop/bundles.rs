//! What is in a bundle.

use std::fs;
use std::process::Command;

use build_watcher::build_once;

use crate::bench::{ENTRY, Project};

fn build(project: &Project) -> String {
    let artifact = build_once(&project.root, &project.entry(ENTRY)).expect("it is good");
    fs::read_to_string(artifact.path).unwrap()
}

/// What node prints when it imports the bundle.
fn run(project: &Project) -> String {
    let artifact = build_once(&project.root, &project.entry(ENTRY)).expect("it is good");
    let output = Command::new("node").arg(&artifact.path).output().expect("node is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const EVERYTHING: [(&str, &str); 9] = [
    (
        ENTRY,
        "import fs from 'node:fs';\nimport path from 'path';\nimport data from './data.json' with { type: 'json' };\n\
         import { helper } from '#helper';\nimport { aliased } from '@/aliased';\nimport { pkg } from 'pkg';\n\
         import { linked } from '@scope/linked';\nimport cjs from './old.cjs';\n\
         enum Mode { Fast = 'fast' }\n\
         const lazy = await import('./lazy');\n\
         const here = import.meta.url.startsWith('file:');\n\
         console.log(JSON.stringify({ data, helper, aliased, pkg, linked, cjs, mode: Mode.Fast, lazy: lazy.lazy(),\n\
           here, fs: typeof fs.readFileSync, path: path.basename('/a/b') }));\n",
    ),
    ("src/midrun/data.json", r#"{"answer": 42}"#),
    (
        "src/midrun/lazy.ts",
        "import { helper } from '#helper';\nexport const lazy = (): string => `lazy ${helper}`;\n",
    ),
    ("src/midrun/old.cjs", "module.exports = { old: true };\n"),
    ("src/helper.ts", "export const helper: string = 'helped';\n"),
    ("src/lib/aliased.ts", "export const aliased = 'aliased';\n"),
    ("package.json", r##"{"type": "module", "imports": {"#helper": "./src/helper.ts"}}"##),
    (
        "tsconfig.json",
        "{\n  // comments are fine\n  \"compilerOptions\": {\"paths\": {\"@/*\": [\"./src/lib/*\"]}},\n}\n",
    ),
    ("node_modules/pkg/package.json", r#"{"name": "pkg", "type": "module", "exports": "./index.js"}"#),
];

fn everything() -> Project {
    let project = Project::of(&EVERYTHING);
    project.write("node_modules/pkg/index.js", "export const pkg = 'external';\n");
    project.write("packages/linked/index.js", "export const linked = 'linked';\n");
    project.write(
        "packages/linked/package.json",
        r#"{"name": "@scope/linked", "type": "module", "exports": "./index.js"}"#,
    );
    fs::create_dir_all(project.path("node_modules/@scope")).unwrap();
    std::os::unix::fs::symlink("../../packages/linked", project.path("node_modules/@scope/linked")).unwrap();
    project
}

#[test]
fn node_runs_the_bundle() {
    let printed = run(&everything());
    let expected = "{\"data\":{\"answer\":42},\"helper\":\"helped\",\"aliased\":\"aliased\",\"pkg\":\"external\",\
                    \"linked\":\"linked\",\"cjs\":{\"old\":true},\"mode\":\"fast\",\"lazy\":\"lazy helped\",\
                    \"here\":true,\"fs\":\"function\",\"path\":\"b\"}\n";
    assert_eq!(printed, expected);
}

#[test]
fn packages_stay_outside_and_everything_else_is_one_file() {
    let project = everything();
    let code = build(&project);
    for outside in ["\"pkg\"", "\"@scope/linked\"", "\"node:fs\""] {
        assert!(code.contains(&format!("from {outside}")), "{outside} in\n{code}");
    }
    for inside in ["helped", "aliased", "lazy ", "old: true", "answer"] {
        assert!(code.contains(inside), "{inside} in\n{code}");
    }
    assert!(code.contains("import.meta.url"), "{code}");
}

#[test]
fn the_bytes_do_not_tell_where_they_were_made() {
    let (here, there) = (everything(), everything());
    for project in [&here, &there] {
        project.write("../outside.cjs", "module.exports = 'outside';\n");
        project.write(ENTRY, &format!("{}import '../../../outside.cjs';\n", EVERYTHING[0].1));
    }
    let code = build(&here);
    assert_eq!(code, build(&there));
    assert!(!code.contains(here.root.to_str().unwrap()), "{code}");
    assert!(!code.contains("outside.cjs"), "{code}");
}

#[test]
fn a_linked_package_stays_outside_although_there_is_a_base_url() {
    let project = everything();
    let tsconfig = r#"{"compilerOptions": {"baseUrl": ".", "paths": {"@/*": ["./src/lib/*"]}}}"#;
    project.write("tsconfig.json", tsconfig);
    project.write(ENTRY, "import { linked } from '@scope/linked';\nimport { helper } from 'src/helper';\nconsole.log(linked, helper);\n");
    let code = build(&project);
    assert!(code.contains("from \"@scope/linked\"") && code.contains("helped"), "{code}");
}

#[test]
fn a_build_that_fails_says_where() {
    let project = Project::of(&[(ENTRY, "export const a = ;\n")]);
    let failure = build_once(&project.root, &project.entry(ENTRY)).expect_err("it is broken");
    assert_eq!(failure.diagnostics[0].line, Some(1));
    project.remove(ENTRY);
    let failure = build_once(&project.root, &project.entry(ENTRY)).expect_err("it is gone");
    assert!(failure.message.contains(ENTRY), "{}", failure.message);
}

#[test]
fn a_file_that_is_no_file_does_not_hang_the_build() {
    let project = Project::of(&[(ENTRY, "import './pipe';\n")]);
    let made =
        Command::new("mkfifo").arg(project.path("src/midrun/pipe.ts")).status().expect("mkfifo is installed");
    assert!(made.success());
    let failure = build_once(&project.root, &project.entry(ENTRY)).expect_err("it is a pipe");
    assert!(failure.message.contains("pipe"), "{}", failure.message);
}
