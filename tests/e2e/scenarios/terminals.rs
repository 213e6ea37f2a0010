//! Terminal sessions: for people by typing, for programs by commands whose end is waited for.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{Dev, LIMIT, Midrun, Sse, Stage, Ticker, eventually, gone};

/// What nobody is ever shown.
const HIDDEN: [&str; 2] = ["7771;", "__midrun"];

async fn term(stage: &Stage, args: &[&str]) -> testkit::Ended {
    Midrun::new(stage, ["term"].iter().chain(args).copied()).run().await
}

/// Opens a terminal with this shell; its id.
async fn open(stage: &Stage, shell: &str) -> String {
    let opened = term(stage, &["new", "--shell", shell, "--json"]).await.expect(0);
    opened.json()[0]["terminal"]["id"].as_str().expect("it has an id").to_owned()
}

async fn show(dev: &Dev, id: &str) -> Value {
    dev.client.get(format!("/api/terminals/{id}")).await.expect(200).json()["terminal"].clone()
}

async fn events(dev: &Dev, id: &str, after: Option<&str>) -> Sse {
    Sse::open(&dev.client, &format!("/api/terminals/{id}/events"), after).await
}

async fn run(dev: &Dev, id: &str, body: &Value) -> Value {
    dev.client.post(format!("/api/terminals/{id}/run"), body).await.expect(200).json()
}

fn output(events: &[testkit::Event]) -> String {
    events.iter().filter(|event| event.name == "output").map(|event| event.text("text")).collect()
}

/// Checks that records follow each other without a gap, and that nobody sees what is hidden.
fn is_whole(events: &[testkit::Event], after: u64) {
    for (event, seq) in events.iter().zip(after + 1..) {
        assert_eq!(event.id, seq.to_string(), "each record once, in order");
    }
    let screen = output(events);
    for hidden in HIDDEN {
        assert!(!screen.contains(hidden), "{hidden} is shown in {screen:?}");
    }
}

#[tokio::test]
async fn commands_end_as_they_do_in_a_shell() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::start(&stage).await;
    for shell in ["bash", "dash"] {
        let id = open(&stage, shell).await;
        let said = term(&stage, &["run", &id, "--", "echo", "hello;", "(exit 3)"]).await.expect(3);
        assert_eq!(said.stdout, "hello\r\n", "{shell}");
        let said = term(&stage, &["run", &id, "--json", "--", "cd /; pwd"]).await.expect(0);
        let result = &said.json()[0];
        assert_eq!(
            (&result["completed"], &result["timedOut"], &result["exitCode"]),
            (&json!(true), &json!(false), &json!(0))
        );
        assert_eq!(result["output"], "/\r\n");
        assert!(
            result["completeSeq"].as_u64() > result["inputSeq"].as_u64() && result["durationMs"].is_u64()
        );
        let gate = stage.root().join(format!("late-{shell}"));
        let command = format!("mkfifo {0}; read go <{0}; echo late; (exit 5)", gate.display());
        let late = term(&stage, &["run", &id, "--timeout", "5", "--json", "--", &command]).await;
        let late = late.expect(124).json().remove(0);
        assert_eq!((&late["timedOut"], &late["completed"]), (&json!(true), &json!(false)), "{late}");
        // Its end is recorded all the same.
        let opened = tokio::time::timeout(LIMIT, tokio::fs::write(&gate, "go\n")).await;
        opened.expect("somebody reads it").expect("it can be written");
        let mut log = events(&dev, &id, None).await;
        let ended = log
            .wait_for("late end", |event| {
                event.name == "completed" && event.data["command"] == late["command"]
            })
            .await;
        assert_eq!((&ended.data["exitCode"], &ended.data["inputSeq"]), (&json!(5), &late["inputSeq"]));
        is_whole(&log.events(), 0);
        // A command that nobody waits for.
        let handed = term(&stage, &["run", &id, "--no-wait", "--", "echo handed over"]).await.expect(0);
        let command = handed.stdout.trim().to_owned();
        log.wait_for("its end", |event| event.name == "completed" && event.text("command") == command).await;
        let shown = term(&stage, &["log", &id]).await.expect(0).stdout;
        assert!(shown.contains("handed over\r\n") && shown.contains("late\r\n"), "{shown:?}");
        let exited = term(&stage, &["run", &id, "--json", "--", "exit 9"]).await.expect(9).json().remove(0);
        assert_eq!(
            (&exited["exited"], &exited["completed"], &exited["timedOut"]),
            (&json!(true), &json!(false), &json!(false))
        );
        is_whole(&log.to_the_end(LIMIT).await, 0);
        let over = term(&stage, &["run", &id, "--", "true"]).await.expect(1);
        assert!(over.stderr.contains("has ended"), "{}", over.stderr);
    }
    let listed = term(&stage, &["ls", "--json"]).await.expect(0).json();
    assert!(
        listed.iter().all(|terminal| terminal["status"] == "exited" && terminal["exitCode"] == 9),
        "{listed:?}"
    );
    let none = term(&stage, &["kill", "tnone"]).await.expect(1);
    assert!(none.stderr.contains("midrun term ls"), "{}", none.stderr);
    dev.finish().await;
}

#[tokio::test]
async fn a_command_that_could_not_begin_in_time_never_does() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::start(&stage).await;
    let id = open(&stage, "bash").await;
    let body = json!({"command": "mkfifo gate; read go <gate; echo $go", "wait": false});
    let _ = dev.client.post(format!("/api/terminals/{id}/run"), &body).await.expect(202);
    let mut log = events(&dev, &id, None).await;
    log.next_named("input").await;
    let late = run(&dev, &id, &json!({"command": "echo never", "timeoutMs": 200})).await;
    assert_eq!(
        (&late["timedOut"], &late["withdrawn"], &late["inputSeq"]),
        (&json!(true), &json!(true), &Value::Null)
    );
    std::fs::write(stage.project.dir().join("gate"), "gone\n").expect("somebody reads it");
    log.next_named("completed").await;
    let next = run(&dev, &id, &json!({"command": "true"})).await;
    assert_eq!(next["exitCode"], 0);
    assert!(!output(&log.events()).contains("never"));
    // At the same time, each its own.
    let waits = (0..8).map(|number| {
        let (client, id) = (dev.client.clone(), id.clone());
        tokio::spawn(async move {
            let body = json!({"command": format!("echo {number}; (exit {number})")});
            let answer = client.post(format!("/api/terminals/{id}/run"), &body).await.expect(200).json();
            assert_eq!(
                (&answer["completed"], &answer["exitCode"]),
                (&json!(true), &json!(number)),
                "{answer}"
            );
            answer["completeSeq"].as_u64().expect("it ended")
        })
    });
    let mut ends = Vec::new();
    for wait in waits.collect::<Vec<_>>() {
        ends.push(wait.await.expect("it was answered"));
    }
    ends.sort_unstable();
    ends.dedup();
    assert_eq!(ends.len(), 8, "no two share an end");
    dev.finish().await;
}

#[tokio::test]
async fn a_person_types_and_nobody_without_the_token_does() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::options(&stage, &[]).env("MIDRUN_TERMINAL__MAX_SESSIONS", "2").start().await;
    let opened =
        dev.client.post("/api/terminals", &json!({"name": "mine", "rows": 10, "columns": 100})).await;
    let id = opened.expect(201).json()["terminal"]["id"].as_str().expect("it has an id").to_owned();
    let mut log = events(&dev, &id, None).await;
    log.next_named("output").await;
    let at = |what: &str| format!("/api/terminals/{id}/{what}");
    let _ = dev.client.post(at("resize"), &json!({"rows": 12, "columns": 90})).await.expect(204);
    let keys = "stty size; printf 'caf\\303\\251\\n'\r";
    let _ = dev.client.ask("POST", at("input")).body(keys).send().await.expect(204);
    let mut seen = String::new();
    while !(seen.contains("12 90\r\n") && seen.contains("café\r\n")) {
        seen.push_str(log.next_named("output").await.text("text"));
    }
    assert_eq!(show(&dev, &id).await["columns"], 90);
    // From where a reader was, each record once.
    let last = log.last_id().expect("there were records");
    let _ = dev.client.ask("POST", at("input")).body("echo more\r").send().await.expect(204);
    let mut rest = events(&dev, &id, Some(&last)).await;
    rest.wait_for("more", |event| event.text("text").contains("more")).await;
    is_whole(&rest.events(), last.parse().expect("a number"));

    for (method, path) in [
        ("GET", "/api/terminals".to_owned()),
        ("POST", "/api/terminals".to_owned()),
        ("POST", at("input")),
        ("POST", at("run")),
        ("GET", at("events")),
        ("DELETE", format!("/api/terminals/{id}")),
    ] {
        let _ = dev.client.ask(method, path).without_token().send().await.expect(401);
    }
    let second = dev.client.post("/api/terminals", &json!({})).await.expect(201).json();
    let full = dev.client.post("/api/terminals", &json!({})).await.expect(429).json();
    assert_eq!(full["code"], "too-many");
    let second = second["terminal"]["id"].as_str().expect("it has an id").to_owned();
    let _ = term(&stage, &["kill", &second]).await.expect(0);
    let mut ended = events(&dev, &second, None).await;
    ended.next_named("exit").await;
    // Its place is free when its host has gone, a moment after its last word.
    let until = tokio::time::Instant::now() + LIMIT;
    while dev.client.post("/api/terminals", &json!({"shell": "sh"})).await.status != 201 {
        assert!(tokio::time::Instant::now() < until, "its place is not free");
        testkit::pause().await;
    }
    for (body, code) in [
        (json!({"cwd": "/"}), "outside-project"),
        (json!({"shell": "python3"}), "no-such-shell"),
        (json!({"rows": 0}), "nonsense"),
    ] {
        let no = dev.client.post("/api/terminals", &body).await.expect(400).json();
        assert_eq!(no["code"], code, "{no}");
    }
    for path in ["/api/terminals/t0", "/api/terminals/..%2f..%2fetc", "/api/terminals/t00000000000000"] {
        let _ = dev.client.get(path).await.expect(404);
    }
    let _ = dev.client.post(at("resize"), &json!({"rows": 5000, "columns": 1})).await.expect(400);
    let over = dev.client.ask("POST", at("input")).body(vec![b'x'; 65 * 1024]).send().await;
    let _ = over.expect(400);
    dev.finish().await;
}

#[tokio::test]
async fn a_killed_server_costs_no_terminal_and_the_next_one_takes_it_up() {
    let stage = Stage::ticker(&Ticker::default());
    let first = Dev::start(&stage).await;
    let mut ids = Vec::new();
    for shell in ["bash", "dash"] {
        let id = open(&stage, shell).await;
        let _ = term(&stage, &["run", &id, "--", "cd src; kept=yes"]).await.expect(0);
        let body = json!({"command": format!("mkfifo gate-{shell}; read go <gate-{shell}; echo went $go; (exit 6)"), "wait": false});
        let handed = first.client.post(format!("/api/terminals/{id}/run"), &body).await.expect(202).json();
        let command = handed["command"].as_str().expect("it has an id").to_owned();
        let mut log = events(&first, &id, None).await;
        let begun = log
            .wait_for("beginning", |event| event.name == "input" && event.text("command") == command)
            .await;
        ids.push((id, shell, command, begun.data["seq"].clone()));
    }
    // One that ends while there is no server.
    let ends = open(&stage, "bash").await;
    let body = json!({"command": "mkfifo end; read go <end; exit 8", "wait": false});
    let _ = first.client.post(format!("/api/terminals/{ends}/run"), &body).await.expect(202);
    events(&first, &ends, None).await.next_named("input").await;
    let shell = u32::try_from(show(&first, &ends).await["pid"].as_u64().expect("a pid")).expect("a pid");

    first.kill().await;
    std::fs::write(stage.project.dir().join("src/gate-bash"), "on\n").expect("somebody reads it");
    std::fs::write(stage.project.dir().join("end"), "on\n").expect("somebody reads it");
    gone(shell, LIMIT).await;

    let second = Dev::start(&stage).await;
    std::fs::write(stage.project.dir().join("src/gate-dash"), "on\n").expect("somebody reads it");
    for (id, shell, command, input) in &ids {
        let mut log = events(&second, id, None).await;
        let ended =
            log.wait_for("end", |event| event.name == "completed" && event.text("command") == *command).await;
        assert_eq!((&ended.data["exitCode"], &ended.data["inputSeq"]), (&json!(6), input), "{shell}");
        assert!(output(&log.events()).contains("went on\r\n"));
        assert_eq!(show(&second, id).await["status"], "running");
        let still = term(&stage, &["run", id, "--", "echo $kept ${PWD##*/}"]).await.expect(0);
        assert_eq!(still.stdout, "yes src\r\n", "it is the same shell");
        is_whole(&log.events(), 0);
    }
    let over = show(&second, &ends).await;
    assert_eq!((&over["status"], &over["exitCode"]), (&json!("exited"), &json!(8)));
    let again = events(&second, &ends, None).await.to_the_end(LIMIT).await;
    assert_eq!(again.last().expect("there are records").name, "exit");
    let nothing = second
        .client
        .ask("GET", format!("/api/terminals/{ends}/events"))
        .header("last-event-id", &again.last().expect("there are records").id)
        .send()
        .await;
    assert_eq!(nothing.status, 204);
    // It ends all terminals, and leaves no process.
    second.finish().await;
}

#[tokio::test]
async fn a_killed_host_leaves_nothing_behind() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::start(&stage).await;
    let id = open(&stage, "bash").await;
    let _ = term(&stage, &["run", &id, "--", "setsid sleep 1000 & sleep 1000 &"]).await.expect(0);
    let waiting = tokio::spawn({
        let (client, id) = (dev.client.clone(), id.clone());
        async move { client.post(format!("/api/terminals/{id}/run"), &json!({"command": "sleep 1000"})).await }
    });
    let mut log = events(&dev, &id, None).await;
    log.wait_for("sleep", |event| event.name == "input" && event.text("text") == "sleep 1000").await;
    let host = stage.project.dir().join(format!(".midrun/terminals/{id}/host.json"));
    let host: Value = serde_json::from_slice(&std::fs::read(host).expect("it has a host")).expect("JSON");
    let pid = i32::try_from(host["pid"].as_i64().expect("a pid")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let answer = waiting.await.expect("it was asked").expect(200).json();
    assert_eq!((&answer["completed"], &answer["exited"]), (&json!(false), &json!(true)), "{answer}");
    let end = log.next_named("exit").await;
    assert!(end.data["exitCode"].is_null() && end.data["reason"].is_string(), "{end}");
    assert_eq!(show(&dev, &id).await["status"], "lost");
    let marker = format!("MIDRUN_TERMINAL_ID={id}");
    let none = || testkit::leftovers(&marker).is_empty().then_some(());
    eventually("end of what was left", Duration::from_secs(20), none).await;
    dev.finish().await;
}
