//! What a person is told of code that throws, and of a machine without Node.

use std::path::Path;

use rolldown::{Bundler, BundlerOptions, InputItem, OutputFormat, Platform, SourceMapType};

use crate::bench::{Bench, trainer};

/// The bundle of `index.ts` in `dir`, and its source map, with paths relative to `dir`.
async fn bundled(dir: &Path) -> (String, String) {
    let options = BundlerOptions {
        input: Some(vec![InputItem {
            name: Some("index".into()),
            import: dir.join("index.ts").to_string_lossy().into(),
        }]),
        cwd: Some(dir.to_owned()),
        dir: Some(dir.to_string_lossy().into_owned()),
        platform: Some(Platform::Node),
        format: Some(OutputFormat::Esm),
        sourcemap: Some(SourceMapType::Hidden),
        ..BundlerOptions::default()
    };
    let output = bundler::generate(&mut Bundler::new(options).unwrap()).await.unwrap();
    let chunk = output.assets.iter().find_map(|asset| match asset {
        rolldown_common::Output::Chunk(chunk) => Some(chunk),
        rolldown_common::Output::Asset(_) => None,
    });
    let chunk = chunk.unwrap();
    (chunk.code.clone(), chunk.map.as_ref().unwrap().to_json_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throw_is_told_at_its_place_in_the_source() {
    let sources = tempfile::tempdir().unwrap();
    std::fs::create_dir(sources.path().join("lib")).unwrap();
    let index = "import { check } from './lib/check';\ninterface Config { rate: number }\nconst config: Config = { rate: -1 };\ncheck(config.rate);\n";
    let check = "// Comments and types are not in the bundle.\nexport function check(rate: number): void {\n  const 説明 = '😀'; if (rate < 0) throw new RangeError(`rate ${rate}`);\n}\n";
    std::fs::write(sources.path().join("index.ts"), index).unwrap();
    std::fs::write(sources.path().join("lib/check.ts"), check).unwrap();
    let (code, map) = bundled(sources.path()).await;
    let mut bench = Bench::with(
        |_| {},
        move |asked| {
            assert_eq!(asked.entry.as_str(), "index.ts");
            Ok(Some(map.clone()))
        },
    );
    let failure = bench.failure(&code).await;
    let [diagnostic] = failure.diagnostics.as_slice() else { panic!("{failure:?}") };
    assert_eq!(diagnostic.file.as_deref(), Some("lib/check.ts"));
    let column = check.lines().nth(2).unwrap().chars().collect::<String>().find("new Range").unwrap();
    let column = check.lines().nth(2).unwrap()[..column].chars().count() + 1;
    assert_eq!((diagnostic.line, diagnostic.column), (Some(3), u32::try_from(column).ok()), "{failure:?}");
    assert_eq!(diagnostic.message, "RangeError: rate -1");
    assert!(diagnostic.frame.as_deref().unwrap().contains("> 3 |   const 説明"), "{diagnostic:?}");
    assert!(
        failure.message.starts_with("RangeError: rate -1\n    at check (lib/check.ts:3:"),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("\n    at index.ts:4:1"), "{}", failure.message);
    assert!(!failure.message.contains("node:internal") && !failure.message.contains("inspector-worker"));
}

#[tokio::test]
async fn a_config_that_cannot_be_sent_is_told_in_the_words_of_json() {
    let mut bench = Bench::new();
    for (config, words) in [
        ("{ a: 1n }", "serialize a BigInt"),
        ("(() => { const c = {}; c.self = c; return c; })()", "circular structure"),
        ("{ toJSON() { throw new RangeError('from toJSON'); } }", "RangeError: from toJSON"),
        ("{ a: '\\ud800' }", "half of a surrogate pair"),
    ] {
        let failure = bench.failure(&trainer(config, "")).await;
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    bench.manifest(&trainer("{}", "")).await;
}

#[tokio::test]
async fn without_node_the_failure_says_how_to_get_it() {
    let mut bench = Bench::with(|settings| settings.node = "no-such-node-here".into(), |_| Ok(None));
    for _ in 0..2 {
        let failure = bench.failure(&trainer("{}", "")).await;
        assert!(
            failure.message.contains("node was not found as \"no-such-node-here\""),
            "{}",
            failure.message
        );
        assert!(failure.message.contains("install Node.js 20.3 or newer"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_program_that_is_no_node_or_an_old_one_is_told_by_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = dir.path().join(name);
        testkit::program(&path, text);
        path
    };
    let other = program("other", "echo 'bad option: --experimental-vm-modules' >&2; exit 9");
    let old = program("old", r#"echo '{"hello":true,"node":"v18.19.1"}' >&3; read x <&3"#);
    for (node, words) in
        [(other, "ended with exit status 9: bad option"), (old, "is v18.19.1, and midrun needs 20.3")]
    {
        let mut bench = Bench::with(|settings| settings.node = node, |_| Ok(None));
        let failure = bench.failure(&trainer("{}", "")).await;
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}
