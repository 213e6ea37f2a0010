//! Commands against a server that answers as the contract says.

use serde_json::{Value, json};

use super::screen::Screen;
use super::*;
use crate::cli::{Listing, ListingAction};
use crate::client::scripted::{Answer, Scripted};

struct Said {
    out: Vec<u8>,
    err: String,
    result: Result<Outcome, Failure>,
    server: Scripted,
}

impl Said {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.server.asked().into_iter().map(|asked| asked.line).collect()
    }
}

/// What `command` says to a client of a server with these answers.
async fn said(
    answers: impl IntoIterator<Item = Answer>,
    command: impl AsyncFnOnce(&Client, &mut Screen<'_>) -> Result<Outcome, Failure>,
) -> Said {
    let dir = tempfile::tempdir().unwrap();
    let server = Scripted::serve(answers).await;
    let client = server.client(dir.path());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = command(&client, &mut Screen { out: &mut out, err: &mut err, colours: false }).await;
    Said { out, err: String::from_utf8(err).unwrap(), result, server }
}

fn listing(action: Option<ListingAction>, json: bool) -> Listing {
    Listing { action, json }
}

fn a_run(id: &str, status: &str) -> Value {
    json!({
        "id": id, "pid": 7, "status": status, "entry": "src/midrun/index.ts", "trainer": "adder\u{1b}[2J",
        "contentHash": "aa", "configHash": null, "jobId": "j1", "startedAt": "2026-01-02T03:04:05.000Z",
        "endedAt": null, "exitCode": if status == "exited" { json!(3) } else { Value::Null },
        "endedBy": if status == "exited" { json!("failed") } else { Value::Null }, "replaces": null,
        "replacedBy": null, "reason": "line one\nline two", "somethingNew": true
    })
}

fn two_runs() -> Answer {
    Answer::Json(200, json!({"runs": [a_run("ra2", "running"), a_run("rb1", "exited")]}).to_string())
}

fn record(data: &Value) -> String {
    format!("id: {}\nevent: x\ndata: {data}\n\n", data["seq"])
}

fn output(seq: u64, text: &str) -> String {
    let ts = "2026-01-02T03:04:05.678Z";
    record(&json!({"seq": seq, "ts": ts, "type": "output", "stream": "stdout", "text": text}))
}

fn exit(seq: u64, code: i32) -> String {
    let ts = "2026-01-02T03:04:05.678Z";
    record(&json!({"seq": seq, "ts": ts, "type": "exit", "code": code, "exitCode": code}))
}

#[tokio::test]
async fn runs_are_listed_for_people_and_for_programs() {
    let said_to_people =
        said([two_runs()], async |client, screen| runs::act(client, listing(None, false), screen).await)
            .await;
    let lines: Vec<_> = said_to_people.text().lines().collect();
    assert!(lines[0].starts_with("ID   STATUS   TRAINER    ENTRY"), "{lines:?}");
    assert!(lines[1].starts_with("ra2  running  adder [2J  src/midrun/index.ts"), "{lines:?}");
    assert!(lines[2].contains("3 failed") && lines[2].ends_with("line one line two"), "{lines:?}");
    assert_eq!(lines.len(), 3);
    let said_to_programs = said([two_runs()], async |client, screen| {
        runs::act(client, listing(Some(ListingAction::Ls), true), screen).await
    })
    .await;
    let objects: Vec<Value> =
        said_to_programs.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects, [a_run("ra2", "running"), a_run("rb1", "exited")]);
}

#[tokio::test]
async fn a_run_is_named_by_the_beginning_of_its_id() {
    let show = |id: &str| listing(Some(ListingAction::Show { id: id.to_owned() }), true);
    let one = said([two_runs()], async |client, screen| runs::act(client, show("ra"), screen).await).await;
    assert_eq!(serde_json::from_str::<Value>(one.text()).unwrap()["run"]["id"], "ra2");
    for (asked, word) in [("r", "ra2, rb1"), ("x", "there is no run x")] {
        let none =
            said([two_runs()], async |client, screen| runs::act(client, show(asked), screen).await).await;
        let words = none.result.unwrap_err().words().unwrap();
        assert!(words.contains(word), "{words}");
        assert!(none.out.is_empty());
    }
}

#[tokio::test]
async fn a_log_comes_whole_over_broken_connections() {
    let logs = ListingAction::Logs { id: "rb1".to_owned(), follow: false };
    let answers = [
        two_runs(),
        Answer::Broken(vec![output(1, "one\n"), output(2, "tw")]),
        // A server that repeats itself is not believed.
        Answer::Events(vec![output(2, "tw"), output(3, "o\n"), exit(4, 3)]),
    ];
    let said =
        said(answers, async |client, screen| runs::act(client, listing(Some(logs), false), screen).await)
            .await;
    assert_eq!(said.text(), "one\ntwo\n");
    assert_eq!(said.result.unwrap(), Outcome::DONE, "that the run failed is no failure of reading its log");
    assert_eq!(said.server.asked()[2].header("last-event-id"), Some("2"));
}

#[tokio::test]
async fn a_live_log_is_read_up_to_now_unless_it_is_followed() {
    let logs = |follow| ListingAction::Logs { id: "ra2".to_owned(), follow };
    let quiet = [two_runs(), Answer::Open(vec![output(1, "one\n")])];
    let told = said(quiet, async |client, screen| {
        runs::act(client, listing(Some(logs(false)), false), screen).await
    })
    .await;
    assert_eq!(told.text(), "one\n");
    let later = json!({"seq": 2, "ts": "2999-01-01T00:00:00.000Z", "type": "output", "stream": "stdout", "text": "x"});
    let busy = || [two_runs(), Answer::Open(vec![output(1, "one\n"), record(&later), exit(3, 0)])];
    let told = said(busy(), async |client, screen| {
        runs::act(client, listing(Some(logs(false)), false), screen).await
    })
    .await;
    assert_eq!(told.text(), "one\n");
    let told = said(busy(), async |client, screen| {
        runs::act(client, listing(Some(logs(true)), false), screen).await
    })
    .await;
    assert_eq!(told.text(), "one\nx");
}

#[tokio::test]
async fn a_stop_says_how() {
    for (now, mode, word) in [(false, "checkpoint", "next checkpoint"), (true, "now", "being stopped")] {
        let stop = ListingAction::Stop { id: "ra2".to_owned(), now };
        let answer = Answer::Json(202, json!({"run": a_run("ra2", "stopping")}).to_string());
        let said = said([two_runs(), answer], async |client, screen| {
            runs::act(client, listing(Some(stop), false), screen).await
        })
        .await;
        assert!(said.text().contains(word), "{}", said.text());
        let asked = said.server.asked();
        assert_eq!(asked[1].line, "POST /api/runs/ra2/stop");
        assert_eq!(serde_json::from_str::<Value>(&asked[1].body).unwrap()["mode"], mode);
    }
}

#[tokio::test]
async fn jobs_are_found_on_later_pages_and_their_events_are_lines() {
    let page = |ids: &[&str], next: Option<&str>| {
        let jobs: Vec<_> = ids
            .iter()
            .map(|id| json!({"id": id, "name": "adder", "status": "completed", "createdAt": "2026-01-02T03:04:05Z"}))
            .collect();
        Answer::Json(200, json!({"jobs": jobs, "nextCursor": next}).to_string())
    };
    let event = |id: &str, name: &str, data: Value| format!("{id}event: {name}\ndata: {data}\n\n");
    let logs = ListingAction::Logs { id: "job-1".to_owned(), follow: false };
    let answers = [
        page(&["job-3", "job-2"], Some("job-2")),
        page(&["job-1"], None),
        Answer::Events(vec![
            event("id: 1\n", "training.started", json!({"type": "training.started"})),
            event("id: 2\n", "training.log", json!({"step": 20, "loss": 1.25})),
            event("", "ping", json!({"type": "ping"})),
            event("id: 3\n", "training.completed", json!({"artifacts": [], "metrics": {"accuracy": 0.5}})),
            event("", "end", json!({"type": "end"})),
        ]),
    ];
    let said =
        said(answers, async |client, screen| jobs::act(client, listing(Some(logs), false), screen).await)
            .await;
    assert_eq!(said.text(), "started\nstep 20  loss 1.25\ncompleted  accuracy 0.5\n");
    let expected =
        ["GET /api/jobs?limit=500", "GET /api/jobs?limit=500&cursor=job-2", "GET /api/jobs/job-1/events"];
    assert_eq!(said.lines(), expected);
}

#[tokio::test]
async fn a_job_that_is_over_is_not_stopped() {
    let job = json!({"id": "job-1", "name": "adder", "status": "completed"});
    let answers = [
        Answer::Json(200, json!({"jobs": [job], "nextCursor": null}).to_string()),
        Answer::Json(409, json!({"error": "job job-1 is over: it is completed"}).to_string()),
    ];
    let stop = ListingAction::Stop { id: "job".to_owned(), now: true };
    let said =
        said(answers, async |client, screen| jobs::act(client, listing(Some(stop), false), screen).await)
            .await;
    assert_eq!(
        said.result.as_ref().unwrap_err().words().unwrap(),
        "error: job job-1 is over: it is completed"
    );
    assert_eq!(said.lines()[1], "POST /api/jobs/job-1/cancel");
}

fn started() -> Answer {
    Answer::Json(201, json!({"run": a_run("ra2", "starting")}).to_string())
}

#[tokio::test]
async fn a_run_that_is_waited_for_gives_its_output_and_its_exit_status() {
    let ended = || Answer::Json(200, json!({"run": a_run("ra2", "exited")}).to_string());
    let answers = || [started(), Answer::Events(vec![output(1, "hello\n"), exit(2, 3)]), ended()];
    let wanted = |json| run::Wanted { file: Some("/p/a.ts".to_owned()), wait: true, limit: None, json };
    let told = said(answers(), async |client, screen| run::act(client, wanted(false), screen).await).await;
    assert_eq!((told.text(), told.err.as_str()), ("hello\n", ""));
    assert_eq!(told.result.unwrap(), Outcome::of_run(3));
    let told = said(answers(), async |client, screen| run::act(client, wanted(true), screen).await).await;
    let result: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(told.result.unwrap(), Outcome::of_run(3));
    assert_eq!(result["run"]["id"], "ra2");
    let keys: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["run", "completed", "timedOut", "exitCode", "durationMs"]);
    assert_eq!(
        [&result["completed"], &result["timedOut"], &result["exitCode"]],
        [&json!(true), &json!(false), &json!(3)]
    );
}

#[tokio::test]
async fn a_run_that_takes_longer_is_left_alone() {
    let running = Answer::Json(200, json!({"run": a_run("ra2", "running")}).to_string());
    let answers = [started(), Answer::Open(vec![output(1, "hello\n")]), running];
    let wanted =
        run::Wanted { file: None, wait: true, limit: Some(std::time::Duration::from_secs(3)), json: true };
    let told = said(answers, async |client, screen| run::act(client, wanted, screen).await).await;
    let result: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(
        [&result["completed"], &result["timedOut"], &result["exitCode"]],
        [&json!(false), &json!(true), &Value::Null]
    );
    let words = told.result.as_ref().unwrap_err().words().unwrap();
    assert!(words.contains("midrun runs stop ra2"), "{words}");
    assert!(told.server.asked().iter().all(|asked| !asked.line.contains("stop")));
}

#[tokio::test]
async fn a_run_that_is_not_waited_for_is_named() {
    let wanted = run::Wanted { file: None, wait: false, limit: None, json: false };
    let told = said([started()], async |client, screen| run::act(client, wanted, screen).await).await;
    assert_eq!(told.text(), "ra2\n");
    assert!(
        told.err.contains(&told.server.url) && told.err.contains("midrun runs logs -f ra2"),
        "{}",
        told.err
    );
    assert_eq!(told.server.asked()[0].body, r#"{"file":null}"#);
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_a_failure() {
    let lost =
        record(&json!({"type": "exit", "code": null, "exitCode": null, "reason": "its host was killed"}));
    let mut gone = a_run("ra2", "lost");
    gone["exitCode"] = Value::Null;
    let answers =
        [started(), Answer::Events(vec![lost]), Answer::Json(200, json!({"run": gone}).to_string())];
    let wanted = run::Wanted { file: None, wait: true, limit: None, json: false };
    let told = said(answers, async |client, screen| run::act(client, wanted, screen).await).await;
    assert_eq!(
        told.result.as_ref().unwrap_err().words().unwrap(),
        "error: run ra2 is lost: its host was killed"
    );
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let code = |failure: Failure| failure.outcome();
    assert_eq!(code(Failure::Usage("x".into())), Outcome(2));
    assert_eq!(code(Failure::plain("x")), Outcome(1));
    assert_eq!(code(io::Error::from(io::ErrorKind::BrokenPipe).into()), Outcome(141));
    assert_eq!(Outcome::of_run(143), Outcome(143));
    assert_eq!([Outcome::of_run(-1), Outcome::of_run(256)], [Outcome::FAILED; 2]);
}

fn place(line: u32, message: &str) -> Diagnostic {
    Diagnostic {
        file: Some("src/a.ts".to_owned()),
        line: Some(line),
        column: Some(7),
        message: message.to_owned(),
        frame: Some(format!("{line} | }}\n  | ^\n")),
    }
}

#[test]
fn a_refusal_shows_its_code_frames() {
    let refusal = crate::client::Refusal {
        status: 400,
        message: "the build is failing".to_owned(),
        diagnostics: vec![place(3, "unexpected }")],
    };
    let failure = Failure::from(ClientError::Refused(refusal));
    let expected = "error: the build is failing\n\nsrc/a.ts:3:7: unexpected }\n3 | }\n  | ^";
    assert_eq!(failure.words().as_deref(), Some(expected));
}

#[test]
fn what_the_message_says_is_not_said_again() {
    let one = [place(3, "unexpected }")];
    let message = "src/a.ts:3:7: unexpected }";
    assert_eq!(with_frames(message, &one), format!("{message}\n\n3 | }}\n  | ^"));
    let two = [place(3, "unexpected }"), place(9, "unexpected )")];
    let message = "src/a.ts:3:7: unexpected }\nsrc/a.ts:9:7: unexpected )";
    let expected = format!("{message}\n\nsrc/a.ts:3:7\n3 | }}\n  | ^\n\nsrc/a.ts:9:7\n9 | }}\n  | ^");
    assert_eq!(with_frames(message, &two), expected);
    assert_eq!(with_frames("boom", &[]), "boom");
}

#[test]
fn without_a_project_or_a_server_the_way_on_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let words = |error: Failure| error.words().unwrap();
    assert!(words(connect(dir.path()).unwrap_err()).contains("midrun init"));
    std::fs::create_dir_all(dir.path().join("src/midrun")).unwrap();
    std::fs::write(dir.path().join("src/midrun/index.ts"), "").unwrap();
    let expected = format!(
        "error: no midrun server is running for {}; start one with `midrun dev`",
        dir.path().display()
    );
    assert_eq!(words(connect(dir.path()).unwrap_err()), expected);
}
