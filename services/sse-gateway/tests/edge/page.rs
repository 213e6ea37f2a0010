//! The page and what belongs to it.

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

#[actix_web::test]
async fn its_files_are_served_and_known_again() {
    let edge = edge();
    for (name, kind) in [
        ("/app.js", "text/javascript"),
        ("/stream.js", "text/javascript"),
        ("/chart.js", "text/javascript"),
        ("/log.js", "text/javascript"),
        ("/style.css", "text/css"),
    ] {
        let answer = soon(edge.http.get(edge.url(name)).send()).await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with(kind), "{name}");
        assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
        let tag = answer.headers()["etag"].clone();
        assert!(!soon(answer.text()).await.unwrap().contains(TOKEN));
        let again = soon(edge.http.get(edge.url(name)).header("if-none-match", tag).send()).await.unwrap();
        assert_eq!(again.status(), 304, "{name}");
        let head = soon(edge.http.head(edge.url(name)).send()).await.unwrap();
        assert_eq!(head.status(), 200, "{name}");
    }
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
    edge.trouble.send_replace(Some("the disk is full".into()));
    let (status, body) = edge.json(edge.http.get(edge.url("/readyz"))).await;
    assert_eq!((status, &body["error"]), (503, &"the disk is full".into()));
    assert_eq!(edge.json(edge.http.get(edge.url("/healthz"))).await.0, 200, "it is alive all the same");
    edge.trouble.send_replace(None);
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

/// Cuts a stream in two at every byte and expects the same events each time.
const PARSE: &str = r#"
globalThis.document = { querySelector: () => null, addEventListener() {} };
const { events } = await import(`data:text/javascript;base64,${process.argv[1]}`);
const text = "retry: 1000\n\n: keep-alive\n\nid: e-1\nevent: ready\ndata: {\"a\":\"ü\"}\n\n" +
  "id:e-2\r\nevent: run\r\ndata: one\r\ndata: two\r\n\r\ndata: 3\rid: e-3\r\rdata: cut off";
const bytes = new TextEncoder().encode(text);
const expected = JSON.stringify([
  { name: "ready", data: '{"a":"ü"}', id: "e-1" }, { name: "run", data: "one\ntwo", id: "e-2" },
  { name: "message", data: "3", id: "e-3" },
]);
for (let cut = 0; cut <= bytes.length; cut++) {
  const body = new ReadableStream({ start(to) { to.enqueue(bytes.slice(0, cut)); to.enqueue(bytes.slice(cut)); to.close(); } });
  const seen = [];
  for await (const { name, data, id } of events(body)) seen.push({ name, data, id });
  if (JSON.stringify(seen) !== expected) throw new Error(`cut at ${cut}: ${JSON.stringify(seen)}`);
}
console.log("fine");
"#;

#[actix_web::test]
async fn the_page_reads_streams_that_are_cut_anywhere() {
    use base64::Engine as _;
    let edge = edge();
    let script =
        soon(soon(edge.http.get(edge.url("/stream.js")).send()).await.unwrap().bytes()).await.unwrap();
    let script = base64::prelude::BASE64_STANDARD.encode(script);
    let mut node = tokio::process::Command::new("node");
    let output =
        soon(node.args(["--input-type=module", "-e", PARSE, &script]).output()).await.expect("node is here");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "fine", "{}", String::from_utf8_lossy(&output.stderr));
}
