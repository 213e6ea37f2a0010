//! Who is let in.

use reqwest::Method;
use wire::profile::{TOKEN_HEADERS, TOKEN_QUERIES};

use crate::support::*;

const RUN: &str = "r00000000000000";

fn api() -> Vec<(Method, String, bool)> {
    let route = |method: Method, path: &str, stream: bool| (method, path.replace("ID", RUN), stream);
    vec![
        route(Method::GET, "/api/manifest", false),
        route(Method::GET, "/api/dev/events", true),
        route(Method::POST, "/api/train", false),
        route(Method::GET, "/api/runs", false),
        route(Method::POST, "/api/runs", false),
        route(Method::GET, "/api/runs/ID", false),
        route(Method::GET, "/api/runs/ID/events", true),
        route(Method::POST, "/api/runs/ID/stop", false),
        route(Method::GET, "/api/jobs", false),
        route(Method::GET, "/api/jobs/ID/events", true),
        route(Method::POST, "/api/jobs/ID/cancel", false),
        route(Method::POST, "/api/inference/chat", false),
        route(Method::GET, "/api/credentials", false),
        route(Method::GET, "/api/me", false),
        route(Method::GET, "/api/no/such/thing", false),
        route(Method::DELETE, "/api/runs", false),
    ]
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    soon(request.send()).await.expect("it answers").status().as_u16()
}

#[actix_web::test]
async fn nothing_below_api_without_the_token() {
    let edge = edge();
    for (method, path, _) in api() {
        let (status, body) = edge.json(edge.http.request(method.clone(), edge.url(&path))).await;
        assert_eq!(status, 401, "{method} {path}");
        assert!(body["error"].as_str().unwrap().contains("token"), "{body}");
    }
    assert_eq!(edge.registry.asked_to_start(0).await.len(), 0);
}

#[actix_web::test]
async fn the_token_is_taken_from_either_header_and_must_be_whole() {
    let edge = edge();
    for (method, path, _) in api() {
        for name in TOKEN_HEADERS {
            let request = || edge.http.request(method.clone(), edge.url(&path));
            assert_ne!(status(request().header(name, TOKEN)).await, 401, "{method} {path} {name}");
            for near in
                ["", &TOKEN[1..], &TOKEN[..TOKEN.len() - 1], &format!("{TOKEN}x"), &TOKEN.to_uppercase()]
            {
                assert_eq!(status(request().header(name, near)).await, 401, "{method} {path} {near:?}");
            }
        }
    }
}

#[actix_web::test]
async fn the_token_is_taken_from_the_query_of_event_streams_only() {
    let edge = edge();
    for (method, path, stream) in api() {
        for name in TOKEN_QUERIES {
            let request =
                |token: &str| edge.http.request(method.clone(), edge.url(&format!("{path}?{name}={token}")));
            assert_eq!(status(request(TOKEN)).await != 401, stream, "{method} {path} {name}");
            assert_eq!(status(request("wrong")).await, 401, "{method} {path} {name}");
        }
    }
    let post = edge.http.post(edge.url(&format!("/api/dev/events?token={TOKEN}")));
    assert_eq!(status(post).await, 401);
}

#[actix_web::test]
async fn no_way_of_writing_a_path_leads_around_the_token() {
    let edge = edge();
    for path in [
        "/%61pi/runs",
        "/a%70i/runs",
        "/api%2fruns",
        "/api/%72uns",
        "//api/runs",
        "/./api/runs",
        "/x/../api/runs",
        "/API/runs",
        "/api//runs",
        "/api/runs/",
        "/api",
        "/api/",
        "/api/runs;x",
        "/api/runs%3Ftoken=x",
    ] {
        let mut raw = edge.raw().await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        let text = raw.until_end().await;
        let status = text.split(' ').nth(1).unwrap();
        assert!(["401", "404"].contains(&status), "{path}: {text}");
        assert!(!text.contains("\"runs\""), "{path}: {text}");
    }
}

#[actix_web::test]
async fn every_request_needs_an_allowed_host() {
    let edge = edge_with(|settings| settings.allowed_hosts = vec!["studio.lan".to_owned()]);
    let port = edge.address.port();
    let hosts = [
        ("Host: localhost", true),
        (&format!("Host: localhost:{port}"), true),
        ("Host: 127.0.0.1:1", true),
        ("Host: [::1]:1", true),
        ("Host: STUDIO.lan:8", true),
        ("Host: evil.com", false),
        ("Host: localhost.evil.com", false),
        (&format!("Host: evil.com:{port}"), false),
        ("Host: 127.0.0.1.evil.com", false),
        ("Host:", false),
        ("X-Forwarded-Host: localhost", false),
        ("Host: localhost\r\nHost: evil.com", false),
        ("Host: evil.com\r\nX-Forwarded-Host: localhost", false),
    ];
    for (host, allowed) in hosts {
        for path in ["/", "/healthz", "/readyz", "/metrics", "/api/runs", "/no/such"] {
            let mut raw = edge.raw().await;
            let token = format!("X-Midrun-Token: {TOKEN}");
            raw.send(format!("GET {path} HTTP/1.1\r\n{host}\r\n{token}\r\nConnection: close\r\n\r\n")).await;
            let text = raw.until_end().await;
            let seen = text.split(' ').nth(1).unwrap();
            if allowed {
                assert_eq!(seen, if path == "/no/such" { "404" } else { "200" }, "{host} {path}: {text}");
            } else {
                assert!(["403", "400"].contains(&seen), "{host} {path}: {text}");
                assert!(!text.contains(TOKEN), "{host} {path}: {text}");
            }
        }
    }
    let mut absolute = edge.raw().await;
    absolute.send("GET http://evil.com/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(absolute.status().await, 403);
    let mut old = edge.raw().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status().await, 403);
}

#[actix_web::test]
async fn pages_of_other_origins_are_turned_away_and_never_told_otherwise() {
    let edge = edge();
    for (origin, allowed) in [
        ("http://localhost:9", true),
        ("null", false),
        ("https://evil.com", false),
        ("http://localhost.evil.com", false),
    ] {
        for path in ["/", "/api/runs", "/healthz"] {
            let answer = soon(edge.get(path).header("origin", origin).send()).await.unwrap();
            assert_eq!(answer.status().as_u16(), if allowed { 200 } else { 403 }, "{origin} {path}");
            assert!(
                !answer.headers().keys().any(|name| name.as_str().starts_with("access-control")),
                "{path}"
            );
        }
        let preflight = edge.http.request(Method::OPTIONS, edge.url("/api/train")).header("origin", origin);
        let answer = soon(preflight.header("access-control-request-method", "POST").send()).await.unwrap();
        assert!(answer.status().is_client_error());
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control")));
    }
    assert_eq!(edge.metric("midrun_http_turned_away_total").await, 12);
}

#[actix_web::test]
async fn long_bodies_are_refused_whether_announced_or_not() {
    let edge = edge();
    let long = " ".repeat(1024 * 1024 + 1);
    for path in ["/api/train", "/api/runs", "/api/runs/r00000000000000/stop", "/api/inference/chat"] {
        let mut announced = edge.raw().await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n");
        announced.send(format!("{head}Content-Length: {}\r\n\r\n", long.len())).await;
        assert_eq!(announced.status().await, 413, "{path}");

        let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
        let mut chunked = edge.raw().await;
        chunked.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
        for _ in 0..17 {
            // The answer may come, and the connection go, before everything is sent.
            use tokio::io::AsyncWriteExt as _;
            drop(soon(chunked.socket.write_all(chunk.as_bytes())).await);
        }
        assert_eq!(chunked.status().await, 413, "{path}");
    }
    let fits = format!("{{}}{}", " ".repeat(1024 * 1024 - 2));
    assert_eq!(status(edge.post("/api/runs", &fits)).await, 201);
    assert_eq!(edge.registry.asked_to_start(1).await.len(), 1);
}

#[actix_web::test]
async fn a_body_that_does_not_arrive_is_given_up_on() {
    let edge = edge_with(|settings| settings.limits.body = std::time::Duration::from_millis(50));
    let mut raw = edge.raw().await;
    let head = format!("POST /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n");
    raw.send(format!("{head}Content-Length: 10\r\n\r\n{{")).await;
    assert_eq!(raw.status().await, 408);
}

#[actix_web::test]
async fn what_is_not_there_is_said_in_json() {
    let edge = edge();
    assert_eq!(edge.json(edge.get("/api/nothing")).await.0, 404);
    assert_eq!(edge.json(edge.get("/nothing/at/all")).await.0, 404);
    assert_eq!(edge.json(edge.get("/nothing")).await.0, 404);
    assert_eq!(edge.json(edge.post("/api/manifest", "{}")).await.0, 405);
    assert_eq!(edge.json(edge.get("/api/train")).await.0, 405);
    assert_eq!(edge.json(edge.post("/", "")).await.0, 405);
    for body in ["{", "[]", "7", r#"{"file":3}"#, r#"{"wait":"yes"}"#] {
        let (status, said) = edge.json(edge.post("/api/runs", body)).await;
        assert_eq!(status, 400, "{body}");
        assert!(said["error"].as_str().unwrap().contains("JSON"), "{said}");
    }
}
