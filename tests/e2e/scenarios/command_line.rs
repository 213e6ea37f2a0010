//! The commands that talk to a server, as a person and as a script use them.

use serde_json::Value;
use testkit::{Dev, LIMIT, Midrun, SdkTrainer, Stage, Ticker};

use super::frames::status;

#[tokio::test]
async fn run_waits_and_exits_as_the_run_did() {
    let stage = Stage::ticker(&Ticker { steps: 5, ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let done = Midrun::new(&stage, ["run", "--wait", "--json"]).run().await.expect(0);
    let said = done.json();
    let last = said.last().expect("it says something");
    assert_eq!((&last["completed"], &last["exitCode"]), (&true.into(), &0.into()), "{last}");
    stage.project.write("callbacks.ts", "export const onTick = () => process.exit(7);\n");
    events.next_named("rebuild").await;
    let _ = Midrun::new(&stage, ["run", "--wait"]).run().await.expect(7);
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &Ticker::default().entry());
    events
        .wait_for("endless ticker", |event| {
            event.name == "rebuild" && event.data["changed"].to_string().contains("index.ts")
        })
        .await;
    let late = Midrun::new(&stage, ["run", "--wait", "--timeout", "0.3", "--json"]).run().await;
    assert!(late.code != 0, "a timeout is no success: {late:?}");
    assert_eq!(late.json().last().expect("it says something")["timedOut"], true);
    let detached = Midrun::new(&stage, ["run", "--json"]).run().await.expect(0);
    let said = detached.json();
    let id = said[0]["run"]["id"].as_str().unwrap_or_else(|| panic!("{}", said[0])).to_owned();
    dev.log(&id).await.wait_for_start("TICK v1 ").await;
    dev.finish().await;
}

#[tokio::test]
async fn runs_are_listed_shown_followed_and_stopped() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let id = dev.running(&mut events).await;
    dev.log(&id).await.wait_for_start("TICK v1 ").await;
    for args in [&["runs", "--json"][..], &["runs", "ls", "--json"]] {
        let listed = Midrun::new(&stage, args.iter().copied()).run().await.expect(0).json();
        assert_eq!(
            (listed.len(), &listed[0]["id"], &listed[0]["status"]),
            (1, &id.as_str().into(), &"running".into())
        );
    }
    let text = Midrun::new(&stage, ["runs"]).run().await.expect(0).stdout;
    assert!(text.contains(&id) && text.contains("running"), "{text}");
    let shown = Midrun::new(&stage, ["runs", "show", &id, "--json"]).run().await.expect(0).json();
    let of = |value: &Value| value.get("run").unwrap_or(value)["id"].clone();
    assert_eq!(of(&shown[0]), id.as_str());
    let logged = Midrun::new(&stage, ["runs", "logs", &id]).run().await.expect(0).stdout;
    assert!(logged.starts_with("TICK v1 1\nTICK v1 2\n"), "{logged}");
    let mut following = Midrun::new(&stage, ["runs", "logs", &id, "-f"]).start();
    following.wait_for_line("first line", |line| (line == "TICK v1 1").then_some(())).await;
    let _ = Midrun::new(&stage, ["runs", "stop", &id]).run().await.expect(0);
    let followed = following.wait("runs logs -f", LIMIT).await.expect(0).stdout;
    assert!(followed.contains("EARLY-STOP-ASKED\n"), "{followed}");
    assert!(
        followed.trim_end().lines().last().is_some_and(|line| line.starts_with("CHECKPOINT ")),
        "{followed}"
    );
    status(&mut events, &id, "exited").await;
    let id = dev.running(&mut events).await;
    let _ = Midrun::new(&stage, ["runs", "stop", &id, "--now"]).run().await.expect(0);
    status(&mut events, &id, "exited").await;
    let missing = Midrun::new(&stage, ["runs", "show", "no-such-run"]).run().await.expect(1);
    assert!(missing.stderr.contains("no-such-run"), "{missing:?}");
    dev.finish().await;
}

#[tokio::test]
async fn jobs_are_listed_shown_followed_and_stopped() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let listed = Midrun::new(&stage, ["jobs", "--json"]).run().await.expect(0).json();
    assert_eq!(
        (listed.len(), &listed[0]["id"], &listed[0]["status"]),
        (1, &job.as_str().into(), &"running".into())
    );
    let shown = Midrun::new(&stage, ["jobs", "show", &job, "--json"]).run().await.expect(0);
    assert!(shown.stdout.contains("learningRate"), "{}", shown.stdout);
    let mut following = Midrun::new(&stage, ["jobs", "logs", &job, "-f"]).start();
    following.wait_for_line("line with a loss", |line| line.contains("loss").then_some(())).await;
    let _ = Midrun::new(&stage, ["jobs", "stop", &job]).run().await.expect(0);
    let _ = following.wait("jobs logs -f", LIMIT).await.expect(0);
    status(&mut events, &run, "exited").await;
    assert_eq!(dev.jobs().await[0]["status"], "cancelled");
    dev.finish().await;
}

#[tokio::test]
async fn doctor_says_what_is_here() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let said = Midrun::new(&stage, ["doctor", "--json"]).run().await.expect(0).json();
    assert!(said.iter().any(|line| line.to_string().contains("node")), "{said:?}");
    let text = Midrun::new(&stage, ["doctor"]).run().await.expect(0).stdout;
    assert!(text.contains("node") && text.contains(&dev.client.address().port().to_string()), "{text}");
    dev.finish().await;
}

#[tokio::test]
async fn a_second_server_for_the_same_project_says_who_has_it() {
    let stage = Stage::ticker(&Ticker::default());
    let (mut dev, _events) = Dev::ready(&stage).await;
    let second = Midrun::new(&stage, ["dev", ".", "--port", "0"]).run().await.expect(1);
    assert!(second.stderr.contains(&dev.pid_of("train-registry").to_string()), "{}", second.stderr);
    dev.finish().await;
}
