//! Keeps `deploy/metrics.md` and what the dashboard asks for to the metrics that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use telemetry::metrics::{Description, Kind, counted, page};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn all() -> Vec<Description> {
    [counted().descriptions(), &sse_gateway::descriptions()].concat()
}

#[test]
fn the_page_that_lists_the_metrics_is_current() {
    let (path, wanted) = (deploy().join("metrics.md"), page(&[&all()]));
    if std::env::var_os("MIDRUN_WRITE_PAGES").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{} is not current; write it anew as it says at its top", path.display());
}

/// Every name that a query could use.
fn series() -> BTreeSet<String> {
    let of = |metric: Description| -> Vec<String> {
        match metric.kind {
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", metric.name)).to_vec()
            }
            Kind::Counter | Kind::Gauge => vec![metric.name.to_owned()],
        }
    };
    all().into_iter().flat_map(of).collect()
}

/// The names of our metrics in a query.
fn named_in(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("midrun_"))
}

/// Every `expr` in a dashboard.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            found.extend(map.get("expr").and_then(|expr| expr.as_str()).map(str::to_owned));
            map.values().for_each(|value| queries(value, found));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn every_query_of_every_dashboard_names_metrics_that_exist() {
    let known = series();
    let folder = deploy().join("grafana/dashboards");
    let mut dashboards = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        dashboards += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        let mut found = Vec::new();
        queries(&dashboard, &mut found);
        assert!(!found.is_empty(), "{} asks for nothing", path.display());
        for query in found {
            let mut names = named_in(&query).peekable();
            assert!(names.peek().is_some(), "{query} names no metric of ours");
            for name in names {
                assert!(known.contains(name), "{name} in {query} is no metric");
            }
        }
    }
    assert!(dashboards > 0, "no dashboard in {}", folder.display());
}
