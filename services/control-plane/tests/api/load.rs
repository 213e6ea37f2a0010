//! Many events, many jobs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::{Plane, state_dir, within};

#[tokio::test(flavor = "multi_thread")]
async fn several_hundred_events_a_second_are_easy() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    const EVENTS: usize = 20_000;
    let begun = Instant::now();
    let script = json!([["logs", 1, EVENTS], ["emit", { "type": "training.completed" }]]);
    let (one, two) = (user.job(script.clone()).await, user.job(script).await);
    let (one, two) = tokio::join!(user.follow(&one), user.follow(&two));
    assert_eq!((one.len(), two.len()), (EVENTS + 3, EVENTS + 3));
    let rate = 2.0 * EVENTS as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} events/s from two executors to disk and to a reader each");
    assert!(rate > 300.0, "{rate:.0} events/s");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_are_listed_page_by_page() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    user.follow(&id).await;
    let dir = state_dir(&plane.dir);
    within("shutdown", plane.handle.shutdown(Duration::from_secs(10))).await;
    let database = format!("sqlite://{}", dir.join("control-plane.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&database).await.unwrap();
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
         INSERT INTO jobs (id, org_id, project_id, name, status, config, created_at)
         SELECT 'job-' || i, org_id, project_id, name, status, config, created_at FROM jobs, n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();

    let plane = plane.restart_with(|_| {}).await;
    let user = user.moved_to(&plane);
    let (mut seen, mut took) = (Vec::new(), Vec::new());
    let mut path = "/v1/jobs?limit=500".to_owned();
    loop {
        let begun = Instant::now();
        let (_, page) = user.get(&path).await;
        took.push(begun.elapsed());
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/jobs?limit=500&cursor={cursor}");
    }
    let expected: Vec<Value> =
        (1..=9999).rev().map(|i| format!("job-{i}").into()).chain([Value::from(id)]).collect();
    assert_eq!(seen, expected);
    took.sort();
    println!(
        "a page of 500 of 10,000 jobs took {:?}, the slowest {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    // One may meet a machine that does something else.
    assert!(took[took.len() / 2] < Duration::from_millis(500), "{took:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_jobs_with_large_configs_is_bounded_too() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let examples = "1+1=2\n".repeat(250_000);
    let mut ids = Vec::new();
    for _ in 0..4 {
        let config = json!({ "script": [["emit", { "type": "training.completed" }]], "examples": examples });
        ids.push(user.job_with(config).await);
    }
    for id in &ids {
        assert_eq!(user.follow(id).await.len(), 3);
    }
    ids.reverse();
    let (_, first) = user.get("/v1/jobs").await;
    let listed = first["jobs"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "4 MB of 1.8 MB each");
    assert_eq!(first["nextCursor"], Value::from(ids[1].clone()));
    let (_, second) = user.get(&format!("/v1/jobs?cursor={}", ids[1])).await;
    assert_eq!(second["jobs"][1]["id"], Value::from(ids[3].clone()));
    assert_eq!(second["nextCursor"], Value::Null);
    plane.stop().await;
}
