//! What the edge counts, and how `GET /metrics` shows it. No label holds anything that a client chose.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The routes, as the router names them; whatever matches none of them is `other`.
const ROUTES: [&str; 31] = [
    "other",
    "/",
    "/{file}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/manifest",
    "/api/dev/events",
    "/api/train",
    "/api/runs",
    "/api/runs/{id}",
    "/api/runs/{id}/events",
    "/api/runs/{id}/stop",
    "/api/terminals",
    "/api/terminals/{id}",
    "/api/terminals/{id}/events",
    "/api/terminals/{id}/input",
    "/api/terminals/{id}/resize",
    "/api/terminals/{id}/run",
    "/api/jobs",
    "/api/events",
    "/api/jobs/brief",
    "/api/jobs/{id}",
    "/api/jobs/{id}/series",
    "/api/jobs/{id}/points",
    "/api/jobs/{id}/events",
    "/api/jobs/{id}/cancel",
    "/api/cancels",
    "/api/inference/chat",
    "/api/credentials",
    "/api/me",
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `GET /api/dev/events`.
    Dev,
    /// `GET /api/runs/ID/events`.
    Run,
    /// `POST /api/train`.
    Train,
    /// Anything that the control plane streams.
    Upstream,
    /// `GET /api/terminals/ID/events`.
    Terminal,
    /// `GET /api/events`.
    Tab,
}

const KINDS: [&str; 6] = ["dev", "run", "train", "upstream", "terminal", "tab"];

/// Every counter there is.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [[AtomicU64; CLASSES.len()]; ROUTES.len()],
    open: [AtomicI64; KINDS.len()],
    opened: [AtomicU64; KINDS.len()],
    frames_sent: [AtomicU64; KINDS.len()],
    pub(crate) frames_encoded: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) stops_ordered: AtomicU64,
    pub(crate) stops_failed: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, route: Option<&str>, status: u16) {
        let route = route.and_then(|route| ROUTES.iter().position(|known| *known == route)).unwrap_or(0);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route][class].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self, kind: Kind) {
        self.opened[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.open[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, kind: Kind) {
        self.open[kind as usize].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, kind: Kind) {
        self.frames_sent[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(4096);
        head(&mut text, "midrun_http_requests_total", "counter", "Requests answered, by route and class.");
        for (route, classes) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in CLASSES.iter().zip(classes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("route=\"{route}\",status=\"{class}\"");
                    let _ = writeln!(text, "midrun_http_requests_total{{{labels}}} {count}");
                }
            }
        }
        let streams = |text: &mut String, name: &str, value: &dyn Fn(usize) -> i128| {
            for (place, kind) in KINDS.iter().enumerate() {
                let _ = writeln!(text, "{name}{{stream=\"{kind}\"}} {}", value(place));
            }
        };
        head(&mut text, "midrun_sse_clients", "gauge", "Streams open now.");
        streams(&mut text, "midrun_sse_clients", &|place| self.open[place].load(Ordering::Relaxed).into());
        head(&mut text, "midrun_sse_clients_total", "counter", "Streams opened.");
        streams(&mut text, "midrun_sse_clients_total", &|place| {
            self.opened[place].load(Ordering::Relaxed).into()
        });
        head(&mut text, "midrun_sse_frames_total", "counter", "Frames or chunks handed to streams.");
        streams(&mut text, "midrun_sse_frames_total", &|place| {
            self.frames_sent[place].load(Ordering::Relaxed).into()
        });
        for (name, help, counter) in [
            ("midrun_sse_frames_encoded_total", "Development frames encoded.", &self.frames_encoded),
            ("midrun_sse_dropped_total", "Streams that ended with frames untaken.", &self.dropped),
            ("midrun_http_turned_away_total", "Requests with a foreign host or origin.", &self.turned_away),
            ("midrun_train_stops_total", "Runs stopped because their request ended.", &self.stops_ordered),
            ("midrun_train_stops_failed_total", "Of those, stops nobody accepted.", &self.stops_failed),
        ] {
            head(&mut text, name, "counter", help);
            let _ = writeln!(text, "{name} {}", counter.load(Ordering::Relaxed));
        }
        text
    }
}

/// The same for a number that another part knows.
pub(crate) fn gauge(text: &mut String, name: &str, help: &str, value: usize) {
    head(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request(Some("/api/runs"), 201);
        metrics.request(Some("/api/runs"), 200);
        metrics.request(Some("/no/such"), 404);
        metrics.request(None, 999);
        metrics.opened(Kind::Dev);
        metrics.opened(Kind::Dev);
        metrics.closed(Kind::Dev);
        metrics.sent(Kind::Train);
        let text = metrics.render();
        for line in [
            r#"midrun_http_requests_total{route="/api/runs",status="2xx"} 2"#,
            r#"midrun_http_requests_total{route="other",status="4xx"} 1"#,
            r#"midrun_http_requests_total{route="other",status="5xx"} 1"#,
            r#"midrun_sse_clients{stream="dev"} 1"#,
            r#"midrun_sse_clients_total{stream="dev"} 2"#,
            r#"midrun_sse_frames_total{stream="train"} 1"#,
            "midrun_sse_dropped_total 0",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} is not in\n{text}");
        }
        for line in text.lines() {
            assert!(
                line.starts_with('#') || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
