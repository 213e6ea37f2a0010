//! Sampling a checkpoint, whole and streamed.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Event, Plane, Stream, User, alive, gone, within, write};

async fn trained(user: &User) -> String {
    let script = json!([["checkpoint", 2], ["checkpoint", 4], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    user.follow(&id).await;
    id
}

fn chat(id: &str, text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "adapter": { "kind": "final", "jobId": id } })
}

async fn streamed(user: &User, body: &Value) -> Stream {
    Stream::of(user.request(Method::POST, "/v1/inference/chat").json(body).send().await.unwrap())
}

fn text(events: &[Event]) -> String {
    events.iter().filter_map(|event| event.data["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_in_the_manner_of_openai() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = trained(&user).await;
    let (status, answer) = user.post("/v1/inference/chat", &chat(&id, "27+15=")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], format!("{id} at 4|27+15=|t=1|p=1|n=256"));
    assert_eq!(choice["finish_reason"], "stop");

    let body = json!({
        "messages": [{ "role": "system", "content": "Add." }, { "role": "user", "content": [{ "type": "text", "text": "1+1=" }] }],
        "adapter": { "kind": "checkpoint", "jobId": id, "step": 2 }, "temperature": 0, "topP": 0.5, "maxTokens": 3,
    });
    let (_, answer) = user.post("/v1/inference/chat", &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], format!("{id} at 2|Add.\n1+1=|t=0"));
    assert_eq!(choice["finish_reason"], "length");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_answer_comes_token_by_token() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = trained(&user).await;
    let gate = plane.path("gate");
    let mut body = chat(&id, &format!("gate {}", gate.display()));
    body["stream"] = true.into();
    let mut stream = streamed(&user, &body).await;
    let mut events = Vec::new();
    while text(&events).matches('|').count() < 1 {
        events.push(stream.next().await.unwrap());
    }
    // The executor now waits: what came, came before the end.
    write(&gate, "").await;
    events.extend(stream.rest().await);
    assert_eq!(events.pop().unwrap().data, Value::from("[DONE]"));
    assert_eq!(text(&events), format!("{id} at 4|gate {}|t=1|p=1|n=256", gate.display()));
    assert_eq!(events[0].data["choices"][0]["delta"]["role"], "assistant");
    let ids: std::collections::HashSet<_> = events.iter().map(|event| event.data["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert!(events.iter().all(|event| event.data["object"] == "chat.completion.chunk"));
    assert_eq!(events.last().unwrap().data["choices"][0]["finish_reason"], "stop");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_answer_has_a_status_also_when_streaming() {
    let patient = Plane::start().await;
    // What it hears is the end of the time, so that may be short.
    let hurried = Plane::start_with(|settings| settings.sample_limit = Duration::from_secs(1)).await;
    let answers = [("crash", 502, "no such weights"), ("refuse", 422, "the vocabulary does not fit")];
    for (plane, prompts) in [(patient, &answers[..]), (hurried, &[("hang", 502, "took too long")])] {
        let user = plane.user().await;
        let id = trained(&user).await;
        for stream in [false, true] {
            for (prompt, expected, why) in prompts {
                let mut body = chat(&id, prompt);
                body["stream"] = stream.into();
                let (status, answer) = user.post("/v1/inference/chat", &body).await;
                assert_eq!(status.as_u16(), *expected, "{prompt}: {answer}");
                assert!(answer["error"].as_str().unwrap().contains(why), "{prompt}: {answer}");
            }
        }
        plane.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sampled_is_refused() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = trained(&user).await;
    let running = user.job(json!([["checkpoint", 1], ["hold"]])).await;
    user.stream(&running).await.until("checkpoint.saved").await;
    for (adapter, status, why) in [
        (json!({ "kind": "final", "jobId": "none" }), 404, "no job"),
        (json!({ "kind": "final", "jobId": running }), 409, "running"),
        (json!({ "kind": "checkpoint", "jobId": id, "step": 3 }), 404, "[4, 2]"),
        (json!({ "kind": "merged", "jobId": id }), 400, "merged"),
    ] {
        let body = json!({ "messages": [{ "role": "user", "content": "x" }], "adapter": adapter });
        let (got, answer) = user.post("/v1/inference/chat", &body).await;
        assert_eq!(got.as_u16(), status, "{adapter}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{adapter}: {answer}");
    }
    for (key, value) in
        [("temperature", json!(-1)), ("topP", json!(0)), ("maxTokens", json!(0)), ("messages", json!([]))]
    {
        let mut body = chat(&id, "x");
        body[key] = value;
        let (status, answer) = user.post("/v1/inference/chat", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key}");
        assert!(answer["error"].as_str().unwrap().contains(key), "{answer}");
    }
    let mut live = chat(&running, "x");
    live["adapter"]["kind"] = "checkpoint".into();
    let (status, answer) = user.post("/v1/inference/chat", &live).await;
    assert_eq!(status, StatusCode::OK, "a running job's checkpoint can be asked: {answer}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampler_ends_with_its_asker_and_gives_up_its_place() {
    let plane = Plane::start_with(|settings| settings.max_concurrent_samples = 1).await;
    let user = plane.user().await;
    let id = trained(&user).await;
    let mut body = chat(&id, &format!("who {}", plane.path("never").display()));
    body["stream"] = true.into();
    let mut stream = streamed(&user, &body).await;
    stream.next().await.unwrap();
    let pid = text(&[stream.next().await.unwrap()]).parse().unwrap();
    assert!(alive(pid));
    drop(stream);
    gone(pid).await;
    let (status, answer) = user.post("/v1/inference/chat", &chat(&id, "next")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asker_that_takes_nothing_keeps_nobody_else_waiting() {
    let plane = Plane::start_with(|settings| {
        settings.max_concurrent_samples = 1;
        settings.sample_limit = Duration::from_secs(5);
    })
    .await;
    let user = plane.user().await;
    let id = trained(&user).await;
    let mut endless = chat(&id, "endless");
    endless["stream"] = true.into();
    let untaken = user.request(Method::POST, "/v1/inference/chat").json(&endless).send().await.unwrap();
    assert_eq!(untaken.status(), StatusCode::OK);
    // Its turn is over with its time, whether it takes the tokens or not.
    let answered =
        async { while user.post("/v1/inference/chat", &chat(&id, "1+1=")).await.0 != StatusCode::OK {} };
    within("another answer", answered).await;
    drop(untaken);
    plane.stop().await;
}
