//! `GET /api/events`: all that one tab watches.

use serde_json::{Value, json};
use wire::RunStatus;

use crate::registry::TERMINAL;
use crate::support::*;
use crate::upstream::setup;

async fn tab(edge: &Edge, topics: &str, cursor: &str) -> Events {
    let request = edge.get(&format!("/api/events?topics={topics}"));
    Events::open(if cursor.is_empty() { request } else { request.header("last-event-id", cursor) }).await
}

/// Topic, event, position.
fn told(event: &Event) -> (String, String, Value) {
    let text = |key: &str| event.data[key].as_str().expect("a text").to_owned();
    (text("topic"), text("event"), event.data["id"].clone())
}

#[actix_web::test]
async fn a_tab_goes_on_in_every_topic_behind_what_it_has() {
    let (edge, stub) = setup();
    let run = edge.registry.add_run();
    edge.registry.print(&run, "one\n");
    // Ids are encoded within the list, and the list within the address.
    let topics = format!("dev,run:{run},job:j%252C1");
    let topic = format!("run:{run}");
    let is = |told: &(String, String, Value), topic: &str, event: &str| told.0 == topic && told.1 == event;
    let all = |seen: &[(String, String, Value)], wanted: &[(&str, &str)]| {
        wanted.iter().all(|(topic, event)| seen.iter().any(|told| is(told, topic, event)))
    };
    let mut first = tab(&edge, &topics, "").await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    // The topics are in no order among each other.
    while !all(&seen, &[("job:j,1", "training.log"), (&topic, "output")]) {
        seen.push(told(&first.next().await.unwrap()));
    }
    edge.registry.say(&run, RunStatus::Running);
    while !all(&seen, &[("dev", "run")]) {
        let event = first.next().await.unwrap();
        cursor = event.id.clone();
        seen.push(told(&event));
    }
    let of_job: Vec<_> = seen.iter().filter(|(topic, ..)| topic == "job:j,1").collect();
    assert_eq!(of_job[0].1, "topic.open");
    assert_eq!((of_job[1].1.as_str(), &of_job[1].2), ("training.log", &json!("1")));
    assert!(seen.contains(&(topic.clone(), "output".to_owned(), json!("1"))), "{seen:?}");
    drop(first);

    edge.registry.print(&run, "two\n");
    edge.registry.say(&run, RunStatus::Stopping);
    let mut again = tab(&edge, &topics, &cursor).await;
    let mut seen = Vec::new();
    while !all(&seen, &[("dev", "run"), ("job:j,1", "topic.open"), (&topic, "output")]) {
        seen.push(told(&again.next().await.unwrap()));
    }
    assert_eq!(stub.last().header("last-event-id"), Some("1"), "the control plane is asked for what follows");
    assert!(seen.iter().any(|told| *told == (topic.clone(), "output".to_owned(), json!("2"))), "{seen:?}");
    assert!(!seen.iter().any(|told| *told == (topic.clone(), "output".to_owned(), json!("1"))), "{seen:?}");
    assert_eq!(seen.iter().filter(|(topic, ..)| topic == "dev").count(), 1, "{seen:?}");
}

#[actix_web::test]
async fn a_topic_that_ends_says_so_and_the_others_go_on() {
    let edge = edge();
    let run = edge.registry.add_run();
    edge.registry.print(&run, "all\n");
    edge.registry.exit(&run, 0);
    let mut tab = tab(&edge, &format!("run:{run},dev"), "").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&"topic.end".to_owned()) {
        let (topic, event, _) = told(&tab.next().await.unwrap());
        if topic != "dev" {
            seen.push(event);
        }
    }
    assert_eq!(seen, ["topic.open", "output", "exit", "topic.end"]);
    edge.registry.say(&run, RunStatus::Lost);
    loop {
        let event = tab.next().await.unwrap();
        assert_eq!(event.data["topic"], "dev");
        if event.data["data"]["status"] == "lost" {
            break;
        }
    }
}

#[actix_web::test]
async fn what_the_control_plane_does_not_have_is_missing_and_what_breaks_is_tried_again() {
    let (edge, stub) = setup();
    let mut tab = tab(&edge, "jobs,job:j1", "").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(told(&tab.next().await.unwrap()));
    }
    assert!(seen.iter().any(|(topic, event, _)| topic == "jobs" && event == "topic.missing"), "{seen:?}");
    stub.push("BREAK");
    let mut after = Vec::new();
    while after.len() < 3 {
        after.push(told(&tab.next().await.unwrap()).1);
    }
    assert_eq!(after, ["topic.away", "topic.open", "training.log"]);
    stub.push("event: end\ndata: {}\n\n");
    assert_eq!(told(&tab.next().await.unwrap()).1, "topic.end");
    let mut usage = self::tab(&edge, &format!("usage:{}", wire::RunId::fresh()), "").await;
    assert_eq!(told(&usage.next().await.unwrap()).1, "topic.missing");
}

#[actix_web::test]
async fn a_terminal_is_followed_to_its_end_even_one_that_nobody_saw() {
    let edge = edge();
    let topic = format!("terminal:{TERMINAL}");
    let all =
        [("output", json!("1")), ("output", json!("2")), ("exit", Value::Null), ("topic.end", Value::Null)];
    for (after, skipped) in [("", 0), ("~1", 1), ("~2", 3)] {
        let cursor = if after.is_empty() { String::new() } else { format!("{topic}{after}") };
        let mut tab = tab(&edge, &topic, &cursor).await;
        assert_eq!(told(&tab.next().await.unwrap()).1, "topic.open");
        for (event, id) in all.iter().skip(skipped) {
            assert_eq!(told(&tab.next().await.unwrap()), (topic.clone(), (*event).to_owned(), id.clone()));
        }
    }
    let mut tab = tab(&edge, &format!("terminal:{}", wire::TerminalId::fresh()), "").await;
    assert_eq!(told(&tab.next().await.unwrap()).1, "topic.missing");
}

#[actix_web::test]
async fn a_registry_that_is_away_ends_no_topic() {
    let edge = edge();
    let run = edge.registry.add_run();
    edge.registry.print(&run, "before\n");
    let mut log = tab(&edge, &format!("run:{run}"), "").await;
    let mut usage = tab(&edge, &format!("usage:{run}"), "").await;
    for (topic, then) in [(&mut log, "output"), (&mut usage, "usage")] {
        assert_eq!(told(&topic.next().await.unwrap()).1, "topic.open");
        assert_eq!(told(&topic.next().await.unwrap()).1, then);
    }
    edge.registry.somebody_waits().await;
    edge.registry.go_away();
    // The request that waits for news is answered with the last of them.
    edge.registry.print(&run, "last\n");
    assert_eq!(told(&log.next().await.unwrap()).1, "output");
    for topic in [&mut log, &mut usage] {
        let mut away = topic.next().await.unwrap();
        while told(&away).1 == "usage" {
            away = topic.next().await.unwrap();
        }
        assert_eq!(away.data["event"], "topic.away");
        assert!(
            away.data["data"]["error"].as_str().unwrap().contains("it is not running"),
            "{:?}",
            away.data
        );
    }
    edge.registry.come_back();
    for (topic, then) in [(&mut log, "output"), (&mut usage, "usage")] {
        assert_eq!(told(&topic.next().await.unwrap()).1, "topic.open", "it is told once that it is away");
        edge.registry.print(&run, "after\n");
        assert_eq!(told(&topic.next().await.unwrap()).1, then);
    }
}

#[actix_web::test]
async fn what_a_terminal_wrote_before_the_stream_was_opened_is_past() {
    let edge = edge();
    let topic = format!("terminal:{}", crate::registry::OLD_TERMINAL);
    let mut tab = tab(&edge, &topic, "").await;
    assert_eq!(told(&tab.next().await.unwrap()).1, "topic.open");
    let mut past = Vec::new();
    while past.len() < 3 {
        let event = tab.next().await.unwrap();
        past.push((event.data["data"]["seq"].clone(), event.data["past"] == true));
    }
    assert_eq!(past, [(json!(1), true), (json!(2), true), (json!(3), false)]);
}

#[actix_web::test]
async fn topics_are_checked_and_the_token_too() {
    let edge = edge();
    for odd in [
        "",
        "topics=",
        "topics=,",
        "topics=nothing",
        "topics=run:",
        "topics=run:../x",
        "topics=job:",
        "topics=terminal:tnone",
        "topics=dev,x",
    ] {
        assert_eq!(edge.json(edge.get(&format!("/api/events?{odd}"))).await.0, 400, "{odd}");
    }
    let many = (0..65).map(|n| format!("job:{n}")).collect::<Vec<_>>().join(",");
    assert_eq!(edge.json(edge.get(&format!("/api/events?topics={many}"))).await.0, 400);
    let url = edge.url("/api/events?topics=dev");
    assert_eq!(edge.json(edge.http.get(&url)).await.0, 401);
    let by_query = soon(edge.http.get(format!("{url}&token={TOKEN}")).send()).await.unwrap();
    assert_eq!(by_query.status(), 200);
    edge.until_metric(r#"midrun_sse_clients{stream="tab"}"#, 1).await;
    drop(by_query);
    edge.until_metric(r#"midrun_sse_clients{stream="tab"}"#, 0).await;
}

#[actix_web::test]
async fn a_runs_processes_are_looked_at_while_somebody_watches() {
    let edge = edge();
    let run = edge.registry.add_run();
    let mut tab = tab(&edge, &format!("usage:{run}"), "").await;
    assert_eq!(told(&tab.next().await.unwrap()).1, "topic.open");
    for _ in 0..2 {
        let event = tab.next().await.unwrap();
        assert_eq!(event.data["event"], "usage");
        assert!(event.data["data"]["processes"].is_array(), "{:?}", event.data);
    }
}

#[actix_web::test]
async fn a_tab_is_told_which_service_is_away_and_when_it_is_back() {
    let (edge, _stub) = setup();
    let mut tab = tab(&edge, "troubles", "").await;
    let mut next = async || {
        let event = tab.next().await.unwrap();
        assert_eq!((&event.data["topic"], &event.data["event"]), (&json!("troubles"), &json!("troubles")));
        event.data["data"]["list"].clone()
    };
    assert_eq!(next().await, json!([]), "how it stands is told at once");
    let away = wire::Trouble::now("train-registry", "it cannot be reached");
    edge.trouble.send_replace(wire::Troubles { list: vec![away.clone()] });
    let told = json!([{ "service": "train-registry", "since": away.since, "why": "it cannot be reached" }]);
    assert_eq!(next().await, told);
    edge.trouble.send_replace(wire::Troubles::default());
    assert_eq!(next().await, json!([]));
}
