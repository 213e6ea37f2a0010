//! Who gets in, and what is served: everything here speaks HTTP byte by byte.

use serde_json::json;
use testkit::{Dev, LIMIT, SdkTrainer, Stage, Ticker};

use super::frames::status;

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let client = &dev.client;
    let routes = [
        ("GET", "/api/manifest"),
        ("GET", "/api/runs"),
        ("POST", "/api/runs"),
        ("POST", "/api/train"),
        ("GET", "/api/dev/events"),
        ("GET", "/api/jobs"),
        ("GET", "/api/credentials"),
        ("GET", "/api/me"),
        ("POST", "/api/runs/x/stop"),
        ("POST", "/api/inference/chat"),
        ("GET", "/api/no/such/thing"),
    ];
    for (method, path) in routes {
        let without = client.ask(method, path).without_token().send().await;
        assert_eq!(without.status, 401, "{method} {path}: {}", without.text());
        let wrong = format!("{}x", client.token());
        for header in ["x-midrun-token", "x-arkor-studio-token"] {
            let answer = client.ask(method, path).without_token().header(header, &wrong).send().await;
            assert_eq!(answer.status, 401, "{method} {path} with a wrong {header}");
        }
        let almost = format!("{path}?token={}", &client.token()[1..]);
        assert_eq!(client.ask(method, almost).without_token().send().await.status, 401, "{method} {path}");
    }
    assert_eq!(dev.runs().await.len(), 0);
    let other =
        client.ask("GET", "/api/manifest").without_token().header("x-arkor-studio-token", client.token());
    let _ = other.send().await.expect(200);
    dev.finish().await;
}

#[tokio::test]
async fn a_token_in_the_query_opens_event_streams_and_nothing_else() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let client = &dev.client;
    for name in ["token", "studioToken"] {
        let query = format!("{name}={}", client.token());
        let stream = client.ask("GET", format!("/api/dev/events?{query}")).without_token().open().await;
        assert_eq!(stream.status, 200);
        for (method, path) in
            [("POST", "/api/train"), ("POST", "/api/runs"), ("GET", "/api/runs"), ("GET", "/api/manifest")]
        {
            let answer =
                client.ask(method, format!("{path}?{query}")).without_token().json(&json!({})).send().await;
            assert_eq!(answer.status, 401, "{method} {path}?{name}=…");
        }
    }
    assert_eq!(dev.runs().await.len(), 0);
    dev.finish().await;
}

#[tokio::test]
async fn foreign_hosts_and_origins_get_nothing_assets_included() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let client = &dev.client;
    let port = client.address().port();
    for path in ["/", "/app.js", "/api/manifest", "/healthz", "/api/dev/events"] {
        for host in [
            "evil.example".to_owned(),
            format!("evil.example:{port}"),
            format!("127.0.0.1.evil.example:{port}"),
        ] {
            let answer = client.ask("GET", path).header("host", &host).send().await;
            assert_eq!(answer.status, 403, "{path} for {host}");
            assert!(!answer.text().contains(client.token()), "the token goes to a foreign host");
        }
    }
    let from = |origin: &str| client.ask("POST", "/api/runs").header("origin", origin).json(&json!({}));
    for origin in ["http://evil.example", "null", "https://localhost.evil.example"] {
        assert_eq!(from(origin).send().await.status, 403, "{origin}");
    }
    assert_eq!(dev.runs().await.len(), 0);
    let preflight = client.ask("OPTIONS", "/api/train").header("origin", "http://evil.example").send().await;
    assert!(
        preflight.headers.keys().all(|name| !name.as_str().starts_with("access-control")),
        "no CORS, ever"
    );
    let own =
        client.ask("GET", "/api/manifest").header("origin", &format!("http://localhost:{port}")).send().await;
    let own = own.expect(200);
    assert!(own.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    let _ = client.ask("GET", "/").header("host", &format!("localhost:{port}")).send().await.expect(200);
    dev.finish().await;
}

#[tokio::test]
async fn the_page_carries_the_token_and_no_path_leads_out_of_the_assets() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let client = &dev.client;
    let page = client.ask("GET", "/").without_token().send().await.expect(200);
    for meta in ["midrun-token", "arkor-studio-token"] {
        let text = format!("<meta name=\"{meta}\" content=\"{}\">", client.token());
        assert!(page.text().contains(&text), "{meta}");
    }
    for meta in ["midrun-live", "arkor-hmr-enabled"] {
        assert!(page.text().contains(&format!("<meta name=\"{meta}\" content=\"true\">")), "{meta}");
    }
    assert!(page.header("cache-control").contains("no-store"));
    let paths = [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/app.js/../../../etc/passwd",
        "/..\\..\\etc\\passwd",
        "/%5c..%5cetc%5cpasswd",
        "/.midrun/server.json",
        "/../package.json",
        "/src/midrun/index.ts",
        "/etc/passwd%00.js",
        "/./../Cargo.toml",
        "/api/../../etc/passwd",
    ];
    for path in paths {
        let answer = client.ask("GET", path).send().await;
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        let text = answer.text();
        assert!(
            !text.contains("root:") && !text.contains("createTrainer") && !text.contains("\"private\""),
            "{path}: {text}"
        );
    }
    dev.finish().await;
}

#[tokio::test]
async fn too_much_and_nonsense_are_refused_with_a_reason() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let client = &dev.client;
    let much = vec![b' '; 1024 * 1024 + 1];
    let answer =
        client.ask("POST", "/api/runs").header("content-type", "application/json").body(much).send().await;
    assert!(answer.expect(413).json()["error"].is_string());
    for body in ["{", "[]", "{\"file\":3}", "{\"wait\":\"yes\"}"] {
        let answer = client.ask("POST", "/api/runs").body(body).send().await;
        assert!(answer.expect(400).json()["error"].is_string(), "{body}");
    }
    let answer = client.get("/api/runs/no-such-run").await.expect(404).json();
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("no-such-run")), "{answer}");
    let _ = client.ask("DELETE", "/api/runs").send().await.expect(405);
    assert_eq!(dev.runs().await.len(), 0);
    dev.well().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let open = client.ask("GET", path).without_token().send().await.expect(200);
        assert!(!open.text().contains(client.token()), "{path} tells the token");
    }
    dev.finish().await;
}

#[tokio::test]
async fn a_file_outside_the_project_is_refused_however_it_is_written() {
    let stage = Stage::ticker(&Ticker::default());
    std::os::unix::fs::symlink("/etc/passwd", stage.project.file("link.ts")).expect("the project is ours");
    std::os::unix::fs::symlink("/etc", stage.project.file("folder")).expect("the project is ours");
    std::fs::write(stage.root().join("outside.ts"), Ticker::default().entry()).expect("the folder is ours");
    let (dev, _events) = Dev::ready(&stage).await;
    let absolute = stage.root().join("outside.ts").display().to_string();
    let files = [
        "/etc/passwd",
        "../outside.ts",
        "src/../../outside.ts",
        "src/midrun/link.ts",
        "src/midrun/folder/passwd",
        "src/midrun/folder/no-such-file",
        &absolute,
        "src/midrun",
        "src/midrun/missing.ts",
        "",
        "\0",
    ];
    for file in files {
        for route in ["/api/train", "/api/runs"] {
            let answer = dev.client.post(route, &json!({ "file": file })).await;
            assert_eq!(answer.status, 400, "{route} {file:?}: {}", answer.text());
            assert!(!answer.text().contains("root:"), "{file:?}");
        }
    }
    assert_eq!(dev.runs().await.len(), 0);
    dev.finish().await;
}

#[tokio::test]
async fn jobs_and_inference_are_passed_on_with_scope_and_status() {
    let stage = Stage::sdk(&SdkTrainer::default().with("maxSteps", 30).with("saveSteps", 10));
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    status(&mut events, &run, "exited").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it had a job").to_owned();
    assert_eq!(dev.jobs().await[0]["status"], "completed");
    let target = format!("/api/jobs/{job}/events");
    let whole = testkit::Sse::open(&dev.client, &target, None).await.to_the_end(LIMIT).await;
    let names: Vec<&str> = whole.iter().map(|event| event.name.as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"training.started"), Some(&"end")), "{names:?}");
    let saved = whole.iter().filter(|event| event.name == "checkpoint.saved");
    assert_eq!(
        saved.map(|event| event.data["step"].as_u64()).collect::<Vec<_>>(),
        [Some(10), Some(20), Some(30)]
    );
    let rest = testkit::Sse::open(&dev.client, &target, Some(&whole[2].id)).await.to_the_end(LIMIT).await;
    assert_eq!(rest[0].id, whole[3].id, "Last-Event-ID is passed on");
    let ask = json!({
        "messages": [{ "role": "user", "content": "1+1=" }], "maxTokens": 4, "stream": false,
        "adapter": { "kind": "checkpoint", "jobId": job, "step": 20 },
    });
    let answer = dev.client.post("/api/inference/chat", &ask).await.expect(200).json();
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    let over = dev.client.post(format!("/api/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(over.status, 409, "the upstream's status: {}", over.text());
    let me = dev.client.get("/api/me").await.expect(200);
    let credentials = dev.client.get("/api/credentials").await.expect(200);
    assert!(me.text().contains("anon") && credentials.json().is_object());
    dev.finish().await;
}
