//! What pages show of many events and many jobs.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Plane, Stream, state_dir, within};

fn floats(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_has_every_point_and_grows() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let gate = plane.path("gate");
    let log = |step: i64, more: Value| {
        let mut event = json!({ "type": "training.log", "step": step });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!(["emit", event])
    };
    let id = user
        .job(json!([
            log(1, json!({ "loss": 4.0 })),
            log(2, json!({ "loss": 2.0, "evalLoss": 3.0 })),
            log(3, json!({ "evalLoss": 2.5 })),
            ["checkpoint", 3],
            ["await", gate],
            log(4, json!({ "loss": 1.0 })),
            ["emit", { "type": "training.completed" }],
        ]))
        .await;
    let mut stream = user.stream(&id).await;
    while stream.next().await.unwrap().kind != "checkpoint.saved" {}
    let path = format!("/v1/jobs/{id}/series");
    let (status, series) = user.get(&format!("{path}?statistics=true")).await;
    assert_eq!((status, &series["exact"]), (StatusCode::OK, &json!(true)), "{series}");
    assert_eq!(series["loss"]["step"], json!([1, 2]));
    assert_eq!(series["evalLoss"]["step"], json!([2, 3]), "an evaluation alone is a point too");
    assert_eq!(series["checkpoints"], json!([3]));
    assert_eq!(floats(&series["loss"]["value"]), [4.0, 2.0]);
    assert_eq!(series["statistics"]["loss"]["mean"].as_f64(), Some(3.0));
    assert_eq!(series["statistics"]["evalLoss"]["count"], 2);
    let before = series["lastSeq"].as_i64().unwrap();

    std::fs::write(&gate, "").unwrap();
    stream.rest().await;
    let (_, series) = user.get(&format!("{path}?from=2&to=9")).await;
    assert_eq!(series["loss"]["step"], json!([2, 4]));
    assert_eq!(series["loss"]["count"], 3);
    assert!(series["lastSeq"].as_i64().unwrap() > before);
    assert!(series.get("statistics").is_none());

    let csv = user.request(Method::GET, &format!("/v1/jobs/{id}/points")).send().await.unwrap();
    let csv = csv.text().await.unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "series,step,timestamp,value");
    assert_eq!(lines.len(), 6, "{csv}");
    assert!(lines[1].starts_with("loss,1,") && lines[1].ends_with(",4"), "{csv}");
    assert!(lines[5].starts_with("evalLoss,3,"), "{csv}");

    for odd in ["buckets=0", "buckets=99999", "axis=x", "from=a"] {
        assert_eq!(user.get(&format!("{path}?{odd}")).await.0, StatusCode::BAD_REQUEST, "{odd}");
    }
    assert_eq!(user.get("/v1/jobs/none/series").await.0, StatusCode::NOT_FOUND);
    let stranger = plane.user().await;
    assert_eq!(stranger.get(&path).await.0, StatusCode::NOT_FOUND, "another account's job");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_points_are_a_picture_at_once_and_exact_soon() {
    const POINTS: i64 = 1_000_000;
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    user.follow(&id).await;
    let database = state_dir(&plane.dir).join("control-plane.db");
    within("shutdown", plane.handle.shutdown(Duration::from_secs(10))).await;
    let filler = std::env::current_exe().unwrap().parent().unwrap().join("../examples/many_points");
    let mut fill = Command::new(filler);
    fill.arg(database).args([POINTS.to_string(), "0".to_owned()]);
    assert!(tokio::task::spawn_blocking(move || fill.status()).await.unwrap().unwrap().success());
    let plane = plane.restart_with(|_| {}).await;
    let user = user.moved_to(&plane);

    let path = format!("/v1/jobs/{id}/series?statistics=true&buckets=800");
    let begun = Instant::now();
    let (_, first) = user.get(&path).await;
    println!("the first picture took {:?}", begun.elapsed());
    assert_eq!(first["exact"], false, "this much is not read while somebody waits");
    let sampled = first["loss"]["step"].as_array().unwrap();
    assert!((500..5000).contains(&sampled.len()), "{}", sampled.len());
    assert_eq!(sampled.last().unwrap(), POINTS);
    assert!(first.get("statistics").is_none(), "figures are over all points or not there");

    let exact = within("all points are read", async {
        loop {
            let (_, series) = user.get(&path).await;
            if series["exact"] == true {
                break series;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    println!("exact after {:?}", begun.elapsed());
    assert_eq!(exact["loss"]["count"], POINTS);
    assert_eq!(exact["statistics"]["loss"]["count"], POINTS);
    assert_eq!(exact["evalLoss"]["count"], POINTS / 1000);
    let values = floats(&exact["loss"]["value"]);
    assert!(values.len() <= 2400, "{}", values.len());
    assert_eq!(values.iter().filter(|value| **value == 9.0).count(), 1, "the one sample that sticks out");
    let weights = exact["loss"]["weight"].as_array().unwrap();
    assert_eq!(weights.len(), values.len());
    assert_eq!(
        weights.iter().map(|weight| weight.as_i64().unwrap()).sum::<i64>(),
        POINTS,
        "each value counts"
    );
    assert!(exact["evalLoss"].get("weight").is_none(), "of few points, each is there");
    let begun = Instant::now();
    let (_, part) = user.get(&format!("{path}&from=777700&to=777800")).await;
    println!("a part took {:?}", begun.elapsed());
    assert_eq!(part["loss"]["step"].as_array().unwrap().len(), 101);
    assert_eq!(part["loss"]["before"].as_array().unwrap().len(), 1000, "what an average begins with");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_jobs_are_told_to_their_owner() {
    let plane = Plane::start_with(|settings| settings.heartbeat = Duration::from_millis(200)).await;
    let (user, stranger) = (plane.user().await, plane.user().await);
    let mut changes = Stream::of(user.request(Method::GET, "/v1/jobs/changes").send().await.unwrap());
    let theirs = stranger.job(json!([["emit", { "type": "training.completed" }]])).await;
    stranger.follow(&theirs).await;
    let id = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&"completed".to_owned()) {
        let event = changes.next().await.unwrap();
        assert_eq!((event.kind.as_str(), event.data["job"]["id"].as_str()), ("job.changed", Some(&*id)));
        assert!(event.data["job"].get("config").is_none(), "a config may be large");
        seen.push(event.data["job"]["status"].as_str().unwrap().to_owned());
    }
    // A change is told as the job is by then, so a quick job may be told as ended more than once.
    assert!(seen.len() <= 3, "{seen:?}");

    let (_, list) = user.get("/v1/jobs/brief").await;
    assert_eq!(list["jobs"].as_array().unwrap().len(), 1);
    assert_eq!((&list["jobs"][0]["id"], &list["nextCursor"]), (&json!(id), &Value::Null));
    let second = user.job(json!([["hold"]])).await;
    let (_, page) = user.get("/v1/jobs/brief?limit=1").await;
    assert_eq!((&page["jobs"][0]["id"], &page["nextCursor"]), (&json!(second), &json!(second)));
    let (_, page) = user.get(&format!("/v1/jobs/brief?limit=1&cursor={second}")).await;
    assert_eq!((&page["jobs"][0]["id"], &page["nextCursor"]), (&json!(id), &Value::Null));
    assert_eq!(user.get("/v1/jobs/brief?limit=0").await.0, StatusCode::BAD_REQUEST);

    // One that its executor does not end itself.
    while changes.next().await.unwrap().data["job"]["status"] != "running" {}
    assert_eq!(user.cancel(&second).await, StatusCode::ACCEPTED);
    while changes.next().await.unwrap().data["job"]["status"] != "cancelled" {}
    plane.stop().await;
}
