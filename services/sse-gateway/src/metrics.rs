//! What the edge counts, and how `GET /metrics` shows it. No label holds anything that a client chose.

use telemetry::metrics::{Counter, Counters, Description, Gauge, Gauges, Registrar};

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

/// Everything that one edge counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registrar: Registrar,
    requests: Counters<2>,
    open: [Gauge; KINDS.len()],
    opened: [Counter; KINDS.len()],
    frames_sent: [Counter; KINDS.len()],
    pub(crate) frames_encoded: Counter,
    pub(crate) dropped: Counter,
    pub(crate) turned_away: Counter,
    pub(crate) stops_ordered: Counter,
    pub(crate) stops_failed: Counter,
    cancels_outstanding: Gauges<0>,
}

const SERVICE: &str = "sse-gateway";

impl Default for Metrics {
    fn default() -> Self {
        let mut to = Registrar::default();
        let requests = to.counter(
            "midrun_http_requests_total",
            SERVICE,
            "Requests answered, by route and class",
            ["route", "status"],
        );
        let open = to.gauge("midrun_sse_clients", SERVICE, "Streams open now", ["stream"]);
        let opened = to.counter("midrun_sse_opened_total", SERVICE, "Streams opened", ["stream"]);
        let sent =
            to.counter("midrun_sse_frames_total", SERVICE, "Frames or chunks handed to streams", ["stream"]);
        let mut plain = |name, help| to.counter(name, SERVICE, help, []).one([]);
        Self {
            open: KINDS.map(|kind| open.one([kind])),
            opened: KINDS.map(|kind| opened.one([kind])),
            frames_sent: KINDS.map(|kind| sent.one([kind])),
            frames_encoded: plain("midrun_sse_frames_encoded_total", "Development frames encoded"),
            dropped: plain("midrun_sse_dropped_total", "Streams that ended with frames untaken"),
            turned_away: plain("midrun_http_turned_away_total", "Requests with a foreign host or origin"),
            stops_ordered: plain("midrun_train_stops_total", "Runs stopped because their request ended"),
            stops_failed: plain("midrun_train_stops_failed_total", "Of those, stops nobody accepted"),
            cancels_outstanding: to.gauge(
                "midrun_cancels_outstanding",
                SERVICE,
                "Cancels that the control plane has not settled, as the broker told; missing while it cannot tell",
                [],
            ),
            requests,
            registrar: to,
        }
    }
}

impl Metrics {
    pub(crate) fn request(&self, route: Option<&str>, status: u16) {
        let route = route.and_then(|route| ROUTES.iter().position(|known| *known == route)).unwrap_or(0);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests.add([ROUTES[route], CLASSES[class]]);
    }

    pub(crate) fn opened(&self, kind: Kind) {
        self.opened[kind as usize].inc();
        self.open[kind as usize].inc();
    }

    pub(crate) fn closed(&self, kind: Kind) {
        self.open[kind as usize].dec();
    }

    pub(crate) fn sent(&self, kind: Kind) {
        self.frames_sent[kind as usize].inc();
    }

    /// How many streams see what happens.
    pub(crate) fn onlookers(&self) -> i64 {
        self.open[Kind::Dev as usize].get() + self.open[Kind::Tab as usize].get()
    }

    /// How many cancels are outstanding, if somebody can tell.
    pub(crate) fn outstanding(&self, cancels: Option<usize>) {
        match cancels {
            Some(count) => self.cancels_outstanding.set([], count),
            None => self.cancels_outstanding.hide([]),
        }
    }

    /// All series.
    pub(crate) fn registrar(&self) -> &Registrar {
        &self.registrar
    }
}

/// Each metric of an edge, for those who list them.
pub fn descriptions() -> Vec<Description> {
    Metrics::default().registrar.descriptions().to_vec()
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
        let text = telemetry::metrics::exposition(&[metrics.registrar()], false);
        for line in [
            r#"midrun_http_requests_total{route="/api/runs",status="2xx"} 2"#,
            r#"midrun_http_requests_total{route="other",status="4xx"} 1"#,
            r#"midrun_http_requests_total{route="other",status="5xx"} 1"#,
            r#"midrun_sse_clients{stream="dev"} 1"#,
            r#"midrun_sse_opened_total{stream="dev"} 2"#,
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
