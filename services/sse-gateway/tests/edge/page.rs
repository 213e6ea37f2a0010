//! The page and what belongs to it.

use sse_gateway::Assets;

use crate::support::*;

#[actix_web::test]
async fn the_page_comes_without_token_but_guarded() {
    let edge = edge_with(|settings| settings.title = "a <b> project".to_owned());
    let answer = soon(edge.http.get(edge.url("/")).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(header("cross-origin-opener-policy"), "same-origin");
    let policy = header("content-security-policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.split("; ").any(|known| known == rule), "{rule} in {policy}");
    }
    let text = soon(answer.text()).await.unwrap();
    for meta in [
        format!(r#"<meta name="midrun-token" content="{TOKEN}">"#),
        format!(r#"<meta name="arkor-studio-token" content="{TOKEN}">"#),
        r#"<meta name="midrun-live" content="true">"#.to_owned(),
        r#"<meta name="arkor-hmr-enabled" content="true">"#.to_owned(),
        "<title>a &lt;b&gt; project</title>".to_owned(),
    ] {
        assert!(text.contains(&meta), "{meta}");
    }
}

/// The names of the files that the page asks for; none when Studio is not in this build.
async fn asked_for(edge: &Edge) -> Vec<String> {
    let page = soon(soon(edge.http.get(edge.url("/")).send()).await.unwrap().text()).await.unwrap();
    let name = |part: &str| part.trim_start_matches('.').trim_start_matches('/').to_owned();
    page.split('"').filter(|part| part.ends_with(".js") || part.ends_with(".css")).map(name).collect()
}

#[actix_web::test]
async fn its_files_are_served_and_known_again() {
    let edge = edge();
    for name in asked_for(&edge).await {
        let kind = if name.ends_with(".js") { "text/javascript" } else { "text/css" };
        let url = edge.url(&format!("/{name}"));
        let answer = soon(edge.http.get(&url).send()).await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with(kind), "{name}");
        assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{name}");
        let tag = answer.headers()["etag"].clone();
        assert!(!soon(answer.text()).await.unwrap().contains(TOKEN));
        let again = soon(edge.http.get(&url).header("if-none-match", tag).send()).await.unwrap();
        assert_eq!(again.status(), 304, "{name}");
        let head = soon(edge.http.head(&url).send()).await.unwrap();
        assert_eq!(head.status(), 200, "{name}");
    }
}

#[actix_web::test]
async fn a_build_without_studio_says_how_to_have_it() {
    let edge = edge_with(|settings| settings.assets = Assets::none());
    assert_eq!(asked_for(&edge).await, Vec::<String>::new());
    let answer = soon(edge.http.get(edge.url("/")).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let page = soon(answer.text()).await.unwrap();
    assert!(page.contains("npm --prefix services/sse-gateway/studio run build"), "{page}");
    for name in asked_for(&edge_with(|_| {})).await {
        let answer = soon(edge.http.get(edge.url(&format!("/{name}"))).send()).await.unwrap();
        assert_eq!(answer.status(), 404, "{name} is no file of this page");
    }
    let (status, _) = edge.json(edge.get("/api/runs")).await;
    assert_eq!(status, 200, "everything but the page works");
}

#[actix_web::test]
async fn no_path_leads_out_of_it() {
    let edge = edge();
    for path in [
        "/../Cargo.toml",
        "/../../etc/passwd",
        "/%2e%2e/Cargo.toml",
        "/..%2fCargo.toml",
        "/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/assets/../app.js",
        "/./app.js",
        "//app.js",
        "/app.js/..",
        "/app.js/../style.css",
        "/..\\Cargo.toml",
        "/app.js%00",
        "/%00",
        "/etc/passwd",
        "//etc/passwd",
        "/index.html",
        "/app.js/",
        "/.git/config",
        "/src/page.rs",
    ] {
        let mut raw = edge.raw().await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        let text = raw.until_end().await;
        assert!(text.starts_with("HTTP/1.1 404") || text.starts_with("HTTP/1.1 400"), "{path}: {text}");
        assert!(text.len() < 1000, "{path}: {text}");
    }
}

#[actix_web::test]
async fn health_needs_no_token_and_tells_no_secret() {
    let edge = edge();
    let (status, body) = edge.json(edge.http.get(edge.url("/healthz"))).await;
    assert_eq!((status, &body["ok"]), (200, &true.into()));
    let (status, body) = edge.json(edge.http.get(edge.url("/readyz"))).await;
    assert_eq!((status, &body["build"]), (200, &"pending".into()));
    edge.registry.go_away();
    let (status, body) = edge.json(edge.http.get(edge.url("/readyz"))).await;
    assert_eq!(status, 503);
    assert!(body["error"].is_string());
    edge.registry.come_back();
    assert_eq!(edge.json(edge.http.get(edge.url("/readyz"))).await.0, 200);
    edge.trouble
        .send_replace(wire::Troubles { list: vec![wire::Trouble::now("state folder", "it is full")] });
    let (status, body) = edge.json(edge.http.get(edge.url("/readyz"))).await;
    assert_eq!((status, &body["troubles"][0]["service"]), (503, &"state folder".into()));
    let said = body["error"].as_str().expect("an error is text");
    assert!(said.contains("state folder: it is full") && said.contains("since 20"), "{said}");
    assert_eq!(edge.json(edge.http.get(edge.url("/healthz"))).await.0, 200, "it is alive all the same");
    edge.trouble.send_replace(wire::Troubles::default());
    assert_eq!(edge.json(edge.http.get(edge.url("/readyz"))).await.0, 200);

    let answer = soon(edge.http.get(edge.url("/metrics")).send()).await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = soon(answer.text()).await.unwrap();
    assert!(!text.contains(TOKEN));
    assert!(text.contains(r#"midrun_http_requests_total{route="/readyz",status="2xx"} 3"#), "{text}");
    assert!(text.contains(r#"midrun_http_requests_total{route="/readyz",status="5xx"} 2"#), "{text}");
    assert!(text.contains("\nmidrun_cancels_outstanding 1\n"), "{text}");
    let (status, body) = edge.json(edge.get("/api/cancels")).await;
    assert_eq!((status, &body["cancels"][0]["job"]), (200, &"j1".into()));
}
