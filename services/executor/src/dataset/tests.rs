use serde_json::json;

use super::*;

fn source(value: Value) -> Source {
    Source::parse(&value).unwrap()
}

fn sums() -> Source {
    let lines: Vec<String> = (0..50).map(|a| format!("{a}+1={}", a + 1)).collect();
    source(json!({"type": "inline", "data": lines.join("\n"), "answerAfter": "="}))
}

fn load(source: &Source) -> Result<Corpus, DatasetError> {
    Corpus::load(source, None, None, 0)
}

fn examples(source: &Source) -> Result<Vec<(String, String)>, DatasetError> {
    let examples = source.examples(&source.text(None)?)?;
    Ok(examples.into_iter().map(|example| (example.prompt, example.completion)).collect())
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(prompt, completion)| ((*prompt).to_owned(), (*completion).to_owned())).collect()
}

#[test]
fn lines_are_learned_whole_or_from_after_the_mark() {
    let data = "1+1=2\n\n2+2=4\n";
    let whole = source(json!({"type": "inline", "data": data}));
    assert_eq!(examples(&whole).unwrap(), pairs(&[("", "1+1=2"), ("", "2+2=4")]));
    let answers = source(json!({"type": "inline", "data": data, "answerAfter": "="}));
    assert_eq!(examples(&answers).unwrap(), pairs(&[("1+1=", "2"), ("2+2=", "4")]));
}

#[test]
fn jsonl_has_prompts_and_completions_or_texts() {
    let data = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"text\":\"c\"}";
    let jsonl = source(json!({"type": "inline", "format": "jsonl", "data": data}));
    assert_eq!(examples(&jsonl).unwrap(), pairs(&[("a", "b"), ("", "c")]));
}

#[test]
fn a_line_that_makes_no_example_is_named() {
    let marked = source(json!({"type": "inline", "data": "1=1\nx", "answerAfter": "="}));
    let text = examples(&marked).unwrap_err().to_string();
    assert_eq!(text, "line 2 of the dataset: there is no \"=\" in \"x\", which answerAfter asks for");
    let jsonl = source(json!({"type": "inline", "format": "jsonl", "data": "{\"prompt\":\"a\"}"}));
    let text = examples(&jsonl).unwrap_err().to_string();
    assert!(text.starts_with("line 1 of the dataset: missing field `completion`"), "{text}");
}

#[test]
fn sources_that_make_no_sense_are_refused() {
    let refused = |value: Value| Source::parse(&value).unwrap_err();
    assert!(refused(json!({"type": "huggingface"})).contains("\"inline\" and \"blob\""));
    assert!(refused(json!({"type": "inline"})).contains("`data`"));
    assert!(refused(json!({"type": "blob", "data": "x"})).contains("`url`"));
    assert!(refused(json!({"type": "inline", "data": "x", "sha256": "0"})).contains("`sha256`"));
    assert!(refused(json!({"type": "inline", "data": "x", "split": "train"})).contains("split"));
    assert!(refused(json!({"type": "blob", "url": "https://example.org/x"})).contains("download it first"));
    assert!(refused(json!({"type": "blob", "url": "file://host/x"})).contains("another machine"));
    assert!(refused(json!({"type": "inline", "data": "x", "answerAfter": ""})).contains("answerAfter"));
    assert!(refused(json!("x")).contains("invalid type"));
}

#[test]
fn a_file_is_found_by_url_by_path_and_from_the_project() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a b.jsonl");
    std::fs::write(&file, "{\"text\":\"x\"}\n{\"text\":\"y\"}\n").unwrap();
    let path = file.to_str().unwrap();
    let text = |url: &str, project| source(json!({"type": "blob", "url": url})).text(project);
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text(&format!("file://{}", path.replace(' ', "%20")), None).unwrap(), expected);
    assert_eq!(text(path, None).unwrap(), expected);
    assert_eq!(text("a b.jsonl", Some(folder.path())).unwrap(), expected);
    assert!(matches!(text("a b.jsonl", None), Err(DatasetError::NoProjectFolder(_))));
    assert!(matches!(text("c.jsonl", Some(folder.path())), Err(DatasetError::Unreadable { .. })));
    assert_eq!(
        examples(&source(json!({"type": "blob", "url": path}))).unwrap(),
        pairs(&[("", "x"), ("", "y")])
    );
}

#[test]
fn a_digest_ties_the_config_to_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.txt");
    std::fs::write(&file, "abc").unwrap();
    let text = |sha256: &str| source(json!({"type": "blob", "url": file, "sha256": sha256})).text(None);
    assert_eq!(text("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD").unwrap(), "abc");
    assert!(text("00").unwrap_err().to_string().contains("the file has changed"));
}

#[test]
fn held_out_examples_are_never_trained_on_also_when_they_occur_twice() {
    let lines: Vec<String> = (0..40).map(|index| format!("{}={}", index % 20, index % 20)).collect();
    let corpus = load(&source(json!({"type": "inline", "data": lines.join("\n")}))).unwrap();
    assert_eq!((corpus.trained(), corpus.held_out()), (36, 2));
    for held_out in &corpus.held_out {
        assert!(corpus.train.iter().all(|trained| trained.ids != held_out.ids));
    }
}

#[test]
fn an_epoch_has_every_example_once_whatever_the_batch() {
    let corpus = load(&sums()).unwrap();
    let count = corpus.trained() as u64;
    for start in [0, count, 7 * count] {
        let mut order = corpus.order();
        let mut seen: Vec<usize> = (start..start + count).map(|index| order.example(index)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..corpus.trained()).collect::<Vec<_>>());
    }
    let batches = |order: &mut Order| -> Vec<Vec<u32>> {
        (0..10).map(|step| corpus.batch(order, step * 8, 8).ids).collect()
    };
    let (all, mut resumed) = (batches(&mut corpus.order()), corpus.order());
    assert_eq!(corpus.batch(&mut resumed, 7 * 8, 8).ids, all[7], "a batch is found from its place alone");
}

#[test]
fn a_batch_learns_the_answer_and_the_end_only() {
    let data = "1+1=2\n9+9=18";
    let corpus = load(&source(json!({"type": "inline", "data": data, "answerAfter": "="}))).unwrap();
    let tokenizer = &corpus.tokenizer;
    let sequence = |prompt: &str, completion: &str| {
        Sequence::of(tokenizer, &Example { prompt: prompt.to_owned(), completion: completion.to_owned() })
    };
    let sequences = [sequence("1+1=", "2"), sequence("9+9=", "18")];
    let batch = Batch::of(sequences.iter());
    let id = |text| tokenizer.encode(text).unwrap()[0];
    assert_eq!((batch.length, batch.first), (7, 4));
    assert_eq!(batch.ids[..7], [END, id("1"), id("+"), id("1"), id("="), id("2"), END]);
    assert_eq!(batch.ids[7..], [END, id("9"), id("+"), id("9"), id("="), id("1"), id("8")]);
    assert_eq!(batch.targets, [id("2"), END, IGNORED, id("1"), id("8"), END]);
    assert_eq!(corpus.longest, 7);
}

#[test]
fn too_little_and_too_long() {
    let text = |data: &str, limit| {
        Corpus::load(&source(json!({"type": "inline", "data": data})), None, limit, 0)
            .err()
            .map(|error| error.to_string())
    };
    assert!(text("", None).unwrap().contains("0 different examples"));
    assert!(text("a\na", None).unwrap().contains("1 different examples"));
    assert_eq!(text("abcd\nb", Some(5)), None);
    assert!(text("abcd\nb", Some(4)).unwrap().contains("needs 5 positions"));
}

#[test]
fn the_digest_is_of_the_examples_not_of_their_spelling() {
    let digest = |value| load(&source(value)).unwrap().digest;
    let lines = digest(json!({"type": "inline", "data": "1=1\n2=2", "answerAfter": "="}));
    let jsonl = "{\"prompt\":\"1=\",\"completion\":\"1\"}\n\n{\"prompt\":\"2=\",\"completion\":\"2\"}\n";
    assert_eq!(lines, digest(json!({"type": "inline", "format": "jsonl", "data": jsonl})));
    assert_ne!(lines, digest(json!({"type": "inline", "data": "1=1\n2=2"})));
}
