//! A rebuild gives the bytes of a fresh build, whatever is edited.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::threads::Threads;
use super::{Built, Changed, EntryBundler};

const MODULES: usize = 8;

/// One module: what it imports and how, and what it says.
#[derive(Debug, Clone)]
struct Module {
    imports: BTreeSet<(usize, Import)>,
    says: u8,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Import {
    Named,
    Default,
    Star,
    Reexport,
    Effect,
    Dynamic,
    TypeOnly,
    Package,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Plain,
    /// With a name that others use too.
    Clashing,
    /// Awaits at the top level.
    Awaiting,
    /// Constants that are inlined where they are used.
    Constant,
    CommonJs,
    Broken,
    Empty,
}

fn any_module() -> impl Strategy<Value = Module> {
    let import = prop_oneof![
        12 => Just(Import::Named),
        3 => Just(Import::Default),
        3 => Just(Import::Star),
        3 => Just(Import::Reexport),
        3 => Just(Import::Effect),
        1 => Just(Import::Dynamic),
        3 => Just(Import::TypeOnly),
        3 => Just(Import::Package),
    ];
    let shape = prop_oneof![
        30 => Just(Shape::Plain),
        12 => Just(Shape::Clashing),
        4 => Just(Shape::Awaiting),
        12 => Just(Shape::Constant),
        1 => Just(Shape::CommonJs),
        1 => Just(Shape::Broken),
        1 => Just(Shape::Empty),
    ];
    let imports = prop::collection::btree_set((0..MODULES, import), 1..5);
    (imports, any::<u8>(), shape).prop_map(|(imports, says, shape)| Module { imports, says, shape })
}

fn text(own: usize, module: &Module) -> String {
    let Module { imports, says, shape } = module;
    if *shape == Shape::Empty {
        return String::new();
    }
    if *shape == Shape::CommonJs {
        return format!("module.exports = {{ value{own}: {says}, default: 'cjs {says}' }};\n");
    }
    let mut text = String::new();
    let mut used = vec![format!("{says}")];
    for (n, (other, import)) in imports.iter().enumerate() {
        match import {
            Import::Named => {
                text += &format!("import {{ value{other} as named{n} }} from './m{other}';\n");
                used.push(format!("named{n}"));
            }
            Import::Default => {
                text += &format!("import default{n} from './m{other}';\n");
                used.push(format!("default{n}"));
            }
            Import::Star => {
                text += &format!("import * as star{n} from './m{other}';\n");
                used.push(format!("star{n}.value{other}"));
            }
            Import::Reexport => {
                text += &format!("export {{ value{other} as re{n}_{own} }} from './m{other}';\n")
            }
            Import::Effect => text += &format!("import './m{other}';\n"),
            Import::Dynamic => used.push(format!("() => import('./m{other}').then((m) => m.value{other})")),
            Import::TypeOnly => text += &format!("import type {{ Kind as Kind{n} }} from './m{other}';\n"),
            Import::Package => {
                text += &format!("import {{ pkg{other} }} from 'pkg';\n");
                used.push(format!("pkg{other}"));
            }
        }
    }
    match shape {
        Shape::Clashing => text += &format!("const helper = (x: number) => x + {says};\nhelper({own});\n"),
        Shape::Awaiting => text += &format!("await Promise.resolve({says});\n"),
        Shape::Constant => text += &format!("export const constant = {says};\nconsole.log(constant);\n"),
        Shape::Broken => text += &format!("const broken = = {says};\n"),
        Shape::Plain | Shape::CommonJs | Shape::Empty => {}
    }
    text += &format!("export const value{own} = [{}];\n", used.join(", "));
    text += &format!("export default function (step: number): number {{ return step * {says}; }}\n");
    text + &format!("export const unused{own} = 'nobody uses {says}';\n")
}

#[derive(Debug, Clone)]
enum Edit {
    /// Another content.
    Write(usize, Module),
    /// The same imports, other content: the usual edit.
    Says(usize, u8),
    Remove(usize),
    /// `.ts` becomes `.tsx` or the other way round.
    Rename(usize),
}

fn any_edit() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (0..MODULES, any_module()).prop_map(|(n, module)| Edit::Write(n, module)),
        30 => (0..MODULES, any::<u8>()).prop_map(|(n, says)| Edit::Says(n, says)),
        1 => (1..MODULES).prop_map(Edit::Remove),
        1 => (1..MODULES).prop_map(Edit::Rename),
    ];
    prop::collection::vec(edit, 1..4)
}

struct Project {
    root: PathBuf,
    modules: Vec<Option<(Module, &'static str)>>,
}

impl Project {
    fn path(&self, n: usize, extension: &str) -> PathBuf {
        self.root.join(format!("m{n}.{extension}"))
    }

    fn put(&mut self, n: usize, module: Module, extension: &'static str) -> PathBuf {
        let path = self.path(n, extension);
        fs::write(&path, text(n, &module)).unwrap();
        self.modules[n] = Some((module, extension));
        path
    }

    /// Carries out `edit` and gives the paths that a watcher would tell of.
    fn carry_out(&mut self, edit: Edit) -> Vec<PathBuf> {
        match edit {
            Edit::Write(n, module) => {
                let extension = self.modules[n].as_ref().map_or("ts", |(_, extension)| extension);
                vec![self.put(n, module, extension)]
            }
            Edit::Says(n, says) => match self.modules[n].clone() {
                Some((module, extension)) => vec![self.put(n, Module { says, ..module }, extension)],
                None => Vec::new(),
            },
            Edit::Remove(n) => match self.modules[n].take() {
                Some((_, extension)) => {
                    let path = self.path(n, extension);
                    fs::remove_file(&path).unwrap();
                    vec![path]
                }
                None => Vec::new(),
            },
            Edit::Rename(n) => match self.modules[n].take() {
                Some((module, extension)) => {
                    let old = self.path(n, extension);
                    fs::remove_file(&old).unwrap();
                    vec![old, self.put(n, module, if extension == "ts" { "tsx" } else { "ts" })]
                }
                None => Vec::new(),
            },
        }
    }
}

fn outcome(built: Built) -> Result<String, String> {
    built.code.map_err(|complaint| format!("{:#?}", complaint.failure))
}

fn afresh(root: &Path, entry: &Path, threads: &Threads) -> Result<String, String> {
    let mut bundler = EntryBundler::new(root.to_owned(), entry.to_owned());
    outcome(bundler.build(threads, &Changed::Anything))
}

/// Enough for every day; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_rebuild_equals_a_fresh_build(
        start in prop::collection::vec(any_module(), MODULES),
        edits in prop::collection::vec(any_edit(), 1..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let threads = Threads::for_tests();
        let mut project = Project { root: root.clone(), modules: vec![None; MODULES] };
        for (n, module) in start.into_iter().enumerate() {
            let odd = matches!(module.shape, Shape::Broken | Shape::CommonJs | Shape::Empty);
            let shape = if odd { Shape::Plain } else { module.shape };
            project.put(n, Module { shape, ..module }, "ts");
        }
        let entry = root.join("m0.ts");
        let mut bundler = EntryBundler::new(root.clone(), entry.clone());
        let first = outcome(bundler.build(&threads, &Changed::Anything));
        prop_assert_eq!(first, afresh(&root, &entry, &threads));
        for edit in edits {
            let paths: BTreeSet<_> = edit.into_iter().flat_map(|edit| project.carry_out(edit)).collect();
            let rebuilt = outcome(bundler.build(&threads, &Changed::Paths(&paths)));
            prop_assert_eq!(rebuilt, afresh(&root, &entry, &threads), "after {:?}", paths);
        }
    }
}

/// The way that matters is taken: without it the property above says nothing.
#[test]
fn an_edit_of_content_reads_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let threads = Threads::for_tests();
    let (entry, leaf) = (root.join("m0.ts"), root.join("m1.ts"));
    fs::write(&entry, "export * from './m1';\n").unwrap();
    fs::write(&leaf, "export const x = 'first';\n").unwrap();
    let mut bundler = EntryBundler::new(root.clone(), entry);
    outcome(bundler.build(&threads, &Changed::Anything)).unwrap();
    for n in 0..3 {
        fs::write(&leaf, format!("export const x = 'edit {n}';\n")).unwrap();
        let code =
            outcome(bundler.build(&threads, &Changed::Paths(&BTreeSet::from([leaf.clone()])))).unwrap();
        assert!(code.contains(&format!("edit {n}")), "{code}");
        assert_eq!(bundler.warm.as_ref().map(|warm| warm.builds), Some(n + 1));
    }
}

/// Large graphs are built on several threads.
#[test]
fn a_large_graph_is_the_same_on_several_threads() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let threads = Threads::for_tests();
    let path = |n: usize| root.join(format!("m{n}.ts"));
    let write = |n: usize, says: usize| {
        let text = format!(
            "import {{ helper as next }} from './m{}';\nconst local = {says};\n\
             export const helper = (): number => local + next();\n",
            n + 1
        );
        fs::write(path(n), text).unwrap();
    };
    const LAST: usize = 80;
    (0..LAST).for_each(|n| write(n, n));
    fs::write(path(LAST), "export const helper = () => 0;\n").unwrap();
    let mut bundler = EntryBundler::new(root.clone(), path(0));
    outcome(bundler.build(&threads, &Changed::Anything)).unwrap();
    for n in (0..LAST).step_by(7) {
        write(n, n + 1000);
        let changed = BTreeSet::from([path(n)]);
        let changed = if n % 2 == 0 { Changed::Paths(&changed) } else { Changed::Anything };
        let rebuilt = outcome(bundler.build(&threads, &changed));
        assert_eq!(rebuilt, afresh(&root, &path(0), &threads));
    }
}
