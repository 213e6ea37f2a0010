//! What a run writes: complete, in order, byte for byte, with its end where it belongs.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::{Dev, Layout, Sse, Stage, Ticker};

use super::frames::status;
use super::records::records;

/// Prints 50 MB, text and binary, and writes down the digest of what it printed.
const LOUD: &str = r#"
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { writeFileSync } from "node:fs";

export const trainer = {
  name: "loud",
  start: async () => ({ jobId: "loud" }),
  wait: async () => {
    const hash = createHash("sha256");
    let left = 50 * 1024 * 1024;
    for (let piece = 0; left > 0; piece++) {
      const text = "line " + piece + " of the output, with an é and a 😀\n";
      const bytes = piece % 16 === 0 ? randomBytes(1 + (piece % 5000)) : Buffer.from(text.repeat(1 + (piece % 300)));
      const part = bytes.subarray(0, left);
      left -= part.length;
      hash.update(part);
      if (!process.stdout.write(part)) await once(process.stdout, "drain");
    }
    writeFileSync(DIGEST, hash.digest("hex"));
    return { job: { id: "loud", status: "completed" }, artifacts: [] };
  },
  cancel: async () => {},
};
"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the records say was written.
fn written(records: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records.iter().filter(|record| record["type"] == "output") {
        match (record["text"].as_str(), record["base64"].as_str()) {
            (Some(text), None) => bytes.extend_from_slice(text.as_bytes()),
            (None, Some(text)) => bytes.extend(BASE64_STANDARD.decode(text).expect("it is base 64")),
            _ => panic!("exactly one of text and base64: {record}"),
        }
    }
    bytes
}

#[tokio::test]
async fn fifty_megabytes_of_output_lose_not_one_byte() {
    let stage = Stage::bare(Layout::Midrun);
    let digest = stage.flag("digest");
    stage.project.write("index.ts", &LOUD.replace("DIGEST", &json!(digest.path()).to_string()));
    let (dev, mut events) = Dev::ready(&stage).await;
    let train = dev.train().await;
    let run = train.run.clone();
    let (output, trailer) = train.to_the_end(Duration::from_secs(120)).await;
    assert_eq!((trailer.as_str(), output.len()), ("exit=0", 50 * 1024 * 1024));
    let want = std::fs::read_to_string(digest.path()).expect("the trainer wrote it");
    assert_eq!(hex(&Sha256::digest(&output)), want, "the body of /api/train");
    status(&mut events, &run, "exited").await;
    let records = records(&stage, &run);
    assert!(written(&records) == output, "the run's log");
    assert_eq!(records.last().map(|record| &record["type"]), Some(&"exit".into()));
    dev.finish().await;
}

#[tokio::test]
async fn a_reader_of_a_run_s_events_goes_on_where_it_was() {
    let stage = Stage::ticker(&Ticker { steps: 120, ..Ticker::default() });
    let (dev, _events) = Dev::ready(&stage).await;
    let run = dev.start_run(&json!({})).await["id"].as_str().expect("a run has an id").to_owned();
    let target = format!("/api/runs/{run}/events");
    let mut seen = Vec::new();
    let mut place: Option<String> = None;
    for _ in 0..3 {
        let mut reader = Sse::open(&dev.client, &target, place.as_deref()).await;
        for _ in 0..10 {
            reader.wait_for("record", |_| true).await;
        }
        let read = reader.events();
        place = read.last().map(|event| event.id.clone());
        seen.extend(read);
    }
    let rest = Sse::open(&dev.client, &target, place.as_deref()).await;
    seen.extend(rest.to_the_end(testkit::LIMIT).await);
    let ids: Vec<u64> =
        seen.iter().map(|event| event.id.parse().expect("the id is a record's number")).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "every record once and in order");
    let whole = Sse::open(&dev.client, &target, None).await.to_the_end(testkit::LIMIT).await;
    let data = |events: &[testkit::Event]| events.iter().map(|event| event.data.clone()).collect::<Vec<_>>();
    assert_eq!(data(&whole), data(&seen));
    assert_eq!(whole.last().map(|event| event.name.as_str()), Some("exit"));
    let behind = Sse::open(&dev.client, &target, whole.last().map(|event| event.id.as_str())).await;
    assert_eq!(behind.status, 204, "behind the end there is nothing to come back for");
    dev.finish().await;
}

#[tokio::test]
async fn both_streams_and_a_failure_are_in_the_output() {
    let stage = Stage::ticker(&Ticker {
        start_code: "console.error(\"to standard error\"); process.stdout.write(\"no newline\"); throw new Error(\"cannot start\");"
            .to_owned(),
        ..Ticker::default()
    });
    let (dev, _events) = Dev::ready(&stage).await;
    let (output, trailer) = dev.train().await.to_the_end(testkit::LIMIT).await;
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(trailer, "exit=1");
    for text in ["to standard error\n", "no newline", "Error: cannot start"] {
        assert!(output.contains(text), "{text:?} in {output}");
    }
    dev.finish().await;
}

#[tokio::test]
async fn what_children_write_after_the_runner_is_in_the_log_before_its_end() {
    let code = "(await import(\"node:child_process\")).spawn(\"sh\", [\"-c\", \"sleep 0.3; echo from a child\"], { stdio: \"inherit\" });";
    let stage = Stage::ticker(&Ticker { start_code: code.to_owned(), steps: 1, ..Ticker::default() });
    let dev = Dev::options(&stage, &[]).env("MIDRUN_RUN__DRAIN_MS", "20000").start().await;
    dev.events().await.next_named("ready").await;
    let (output, trailer) = dev.train().await.to_the_end(testkit::LIMIT).await;
    assert_eq!(trailer, "exit=0");
    assert!(String::from_utf8_lossy(&output).contains("from a child\n"));
    dev.finish().await;
}
