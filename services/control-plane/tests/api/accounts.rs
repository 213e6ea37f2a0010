//! Tokens, projects, and the walls between users.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Plane, answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_known_by_its_digest_alone() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let http = reqwest::Client::new();
    for (header, why) in [
        (None, "Authorization: Bearer"),
        (Some("Basic abc".to_owned()), "Authorization: Bearer"),
        (Some("Bearer wrong".to_owned()), "not known here"),
        (Some(format!("Bearer {}x", user.token)), "not known here"),
    ] {
        let mut request = http.get(format!("{}/v1/me", user.url));
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let (status, body) = answer(response).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{header:?}");
        assert!(body["error"].as_str().unwrap().contains(why), "{header:?}: {body}");
    }
    let (status, me) = user.get("/v1/me").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(me["personalOrg"]["slug"], Value::from(user.org.clone()));
    assert_eq!(me["orgs"][0]["slug"], Value::from(user.org.clone()));
    assert_eq!(me["user"]["kind"], "cli");

    let token = user.token.clone();
    let state = plane.path("state");
    plane.stop().await;
    for file in std::fs::read_dir(state).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "the token is in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_somebody_else_gets_no_account() {
    let plane = Plane::start().await;
    let url = format!("{}/v1/auth/anonymous", plane.handle.url());
    let port = plane.handle.addr().port();
    for (header, value) in [
        ("host", "evil.example".to_owned()),
        ("host", format!("evil.example:{port}")),
        ("origin", format!("http://evil.example:{port}")),
        ("origin", "null".to_owned()),
    ] {
        let asked = reqwest::Client::new().post(&url).header(header, &value).json(&json!({ "kind": "cli" }));
        let (status, body) = answer(asked.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{header}: {value}: {body}");
        assert!(body["error"].as_str().unwrap().contains("not allowed"), "{body}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_exists_once_and_for_its_org_alone() {
    let plane = Plane::start().await;
    let (one, two) = (plane.user().await, plane.user().await);
    let (status, body) = one.post("/v1/projects", &json!({ "slug": "adder", "name": "Again" })).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let (status, body) = one.post("/v1/projects", &json!({ "slug": "Not A Slug" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (_, listed) = one.get("/v1/projects").await;
    assert_eq!(listed["org"]["slug"], Value::from(one.org.clone()));
    assert_eq!(listed["projects"].as_array().unwrap().len(), 1);
    assert_eq!(listed["projects"][0]["name"], "Adder");

    let mut thief = two.clone();
    thief.org.clone_from(&one.org);
    let (status, body) = thief.get("/v1/projects").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let mut lost = one.clone();
    lost.project = "absent".to_owned();
    assert_eq!(lost.get("/v1/jobs").await.0, StatusCode::NOT_FOUND);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_job_cannot_be_told_from_no_job() {
    let plane = Plane::start().await;
    let (owner, stranger) = (plane.user().await, plane.user().await);
    let id = owner.job(json!([["hold"]])).await;
    for (method, path) in [
        (Method::GET, format!("/v1/jobs/{id}")),
        (Method::GET, format!("/v1/jobs/{id}/events/stream")),
        (Method::POST, format!("/v1/jobs/{id}/cancel")),
    ] {
        let response = stranger.request(method, &path).send().await.unwrap();
        let (status, foreign) = answer(response).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(foreign["error"].as_str().unwrap().contains("has no job"), "{foreign}");
    }
    let resume = json!({ "name": "x", "config": {}, "resumeFrom": { "jobId": id, "step": 1 } });
    assert_eq!(stranger.post("/v1/jobs", &resume).await.0, StatusCode::NOT_FOUND);
    let chat = json!({ "messages": [{ "content": "x" }], "adapter": { "kind": "checkpoint", "jobId": id } });
    assert_eq!(stranger.post("/v1/inference/chat", &chat).await.0, StatusCode::NOT_FOUND);
    assert_eq!(stranger.get("/v1/jobs").await.1["jobs"], json!([]));

    let mut same_user_other_project = owner.clone();
    same_user_other_project.project = "second".to_owned();
    let body = json!({ "slug": "second" });
    assert_eq!(owner.post("/v1/projects", &body).await.0, StatusCode::CREATED);
    assert_eq!(same_user_other_project.get(&format!("/v1/jobs/{id}")).await.0, StatusCode::NOT_FOUND);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_in_json_what_is_wrong() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let raw = |method: Method, path: &str, body: &str| {
        let request = user.request(method, path).body(body.to_owned());
        async move { answer(request.send().await.unwrap()).await }
    };
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    for (method, path, body, expected, why) in [
        (Method::GET, "/v1/nowhere", "", 404, "nothing at"),
        (Method::DELETE, "/v1/jobs", "", 405, "DELETE"),
        (Method::GET, "/v1/jobs/none", "", 404, "has no job"),
        (Method::POST, "/v1/jobs", "{", 400, "does not fit"),
        (Method::POST, "/v1/jobs", "{}", 400, "name"),
        (Method::POST, "/v1/jobs", r#"{"name":"","config":{}}"#, 400, "name must"),
        (Method::POST, "/v1/jobs", r#"{"name":"a","config":[]}"#, 400, "config must"),
        (Method::POST, "/v1/jobs", r#"{"name":"a","config":{},"clientRunId":""}"#, 400, "clientRunId"),
        (Method::POST, "/v1/jobs", &large, 413, "larger"),
        (Method::GET, "/v1/jobs?limit=0", "", 400, "limit"),
        (Method::GET, "/v1/jobs?limit=x", "", 400, "query"),
        (Method::GET, "/v1/jobs?cursor=none", "", 404, "has no job"),
        (Method::POST, "/v1/jobs/cancel", "", 400, "clientRunId"),
        (Method::POST, "/v1/auth/anonymous", r#"{"kind":"root"}"#, 400, "kind"),
        (Method::POST, "/v1/inference/chat", r#"{"messages":[]}"#, 400, "adapter"),
    ] {
        let (status, answer) = raw(method.clone(), path, body).await;
        assert_eq!(status.as_u16(), expected, "{method} {path}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(why), "{method} {path}: {error}");
    }
    let unscoped = reqwest::Client::new().get(format!("{}/v1/jobs", user.url)).bearer_auth(&user.token);
    let (status, body) = answer(unscoped.send().await.unwrap()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().unwrap().contains("orgSlug"), "{body}");
    plane.stop().await;
}
