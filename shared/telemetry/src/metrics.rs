//! What all parts count, and the text in which it is shown.
//!
//! What must hold: no label holds anything that a client or a project chose, so the number of series is bounded by
//! the code; times are seconds; each metric is described where it is made, and the page in `deploy/` is generated from
//! those descriptions.
//!
//! [`counted`] is this process's: services that share a process share it, since each metric is of one of them. The
//! HTTP edge has a [`Registrar`] of its own besides, because a process may have several edges.

mod catalogue;
mod text;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use wire::TraceContext;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;

pub use catalogue::{Counters, Description, Gauges, Histograms, Kind, Registrar, page};
pub use text::{OPEN_METRICS, PROMETHEUS, exposition, wants_open_metrics};

/// Upper bounds for what takes a moment, seconds.
const MOMENTS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Upper bounds for what may wait for a checkpoint, seconds.
const WAITS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];

/// Everything that is counted outside of the HTTP edge.
#[derive(Debug)]
pub struct Counted {
    registrar: Registrar,
    /// From the save to the publication of what it was built to.
    pub publish: Histograms<0>,
    /// In the bundler and the artifact store.
    pub bundle: Histograms<0>,
    /// From a build to its manifest.
    pub inspect: Histograms<0>,
    /// From a manifest to the decisions and the requests to the hosts.
    pub dispatch: Histograms<0>,
    /// From a request to a host to the runner's acknowledgement; `kind` is `swap` or `early-stop`.
    pub ack: Histograms<1>,
    /// Builds by `outcome`: `built`, `failed`.
    pub builds: Counters<1>,
    /// Inspections by `outcome`: `good`, `failed`.
    pub inspections: Counters<1>,
    /// Decisions by `decision`.
    pub decisions: Counters<1>,
    /// Signals by `kind`: `swap`, `early-stop`, `kill`.
    pub signals: Counters<1>,
    /// Acknowledgements by `kind` and `outcome`.
    pub acks: Counters<2>,
    /// Successors that were started.
    pub restarts: Counters<0>,
    /// Restarts that a rebuild asked for and that did not happen, by `reason`.
    pub suppressed_restarts: Counters<1>,
    /// Attempts to deliver a cancel, by `outcome`.
    pub cancels: Counters<1>,
    /// Processes of runs that were over, and were ended.
    pub reaped: Counters<0>,
    /// Runs by `state`.
    pub runs: Gauges<1>,
    /// Cancels that the control plane has not settled.
    pub outbox: Gauges<0>,
    /// Messages that wait or are being handled, by `inbox`.
    pub inbox: Gauges<1>,
    /// How long each `inbox` was full, seconds.
    pub inbox_blocked: Histograms<1>,
    /// Messages that were turned away, by `inbox`.
    pub inbox_refused: Counters<1>,
    /// Parts that failed and were started again, by `service`.
    pub actor_restarts: Counters<1>,
}

impl Counted {
    fn new() -> Self {
        let mut to = Registrar::default();
        Self {
            publish: to.histogram(
                "midrun_build_publish_seconds",
                "build-watcher",
                "From the first change that was seen to the publication of what it was built to",
                [],
                MOMENTS,
            ),
            bundle: to.histogram(
                "midrun_bundle_seconds",
                "build-watcher",
                "Time in the bundler and the artifact store, for each build that was published",
                [],
                MOMENTS,
            ),
            inspect: to.histogram(
                "midrun_inspect_seconds",
                "manifest-inspector",
                "From a published build to its manifest or its error",
                [],
                MOMENTS,
            ),
            dispatch: to.histogram(
                "midrun_dispatch_seconds",
                "train-registry",
                "From a manifest to the decisions for all runs, with the requests to their hosts sent",
                [],
                MOMENTS,
            ),
            ack: to.histogram(
                "midrun_signal_ack_seconds",
                "train-registry",
                "From the request for a signal to the runner's acknowledgement",
                ["kind"],
                WAITS,
            ),
            builds: to.counter("midrun_builds_total", "build-watcher", "Published builds", ["outcome"]),
            inspections: to.counter(
                "midrun_inspections_total",
                "manifest-inspector",
                "Inspected builds",
                ["outcome"],
            ),
            decisions: to.counter(
                "midrun_decisions_total",
                "train-registry",
                "Decisions for live runs after a rebuild",
                ["decision"],
            ),
            signals: to.counter(
                "midrun_signals_total",
                "train-registry",
                "Signals asked of run-hosts",
                ["kind"],
            ),
            acks: to.counter(
                "midrun_acks_total",
                "train-registry",
                "Runners' words on signals",
                ["kind", "outcome"],
            ),
            restarts: to.counter(
                "midrun_restarts_total",
                "train-registry",
                "Successors that were started",
                [],
            ),
            suppressed_restarts: to.counter(
                "midrun_restarts_suppressed_total",
                "train-registry",
                "Restarts that a rebuild asked for and that did not happen",
                ["reason"],
            ),
            cancels: to.counter(
                "midrun_cancels_total",
                "cancel-broker",
                "Cancels that were accepted, and what attempts to deliver them came to",
                ["outcome"],
            ),
            reaped: to.counter(
                "midrun_reaped_total",
                "train-registry",
                "Runs that were over and whose leftover processes were ended",
                [],
            ),
            runs: to.gauge("midrun_runs", "train-registry", "Runs that are not over", ["state"]),
            outbox: to.gauge(
                "midrun_outbox_depth",
                "cancel-broker",
                "Cancels in the outbox, which the control plane has not settled",
                [],
            ),
            inbox: to.gauge(
                "midrun_inbox_depth",
                "every service",
                "Messages that wait or are being handled",
                ["inbox"],
            ),
            inbox_blocked: to.histogram(
                "midrun_inbox_blocked_seconds",
                "every service",
                "Each time that an inbox was full and turned messages away: how long",
                ["inbox"],
                MOMENTS,
            ),
            inbox_refused: to.counter(
                "midrun_inbox_refused_total",
                "every service",
                "Messages that a full inbox turned away, not processed",
                ["inbox"],
            ),
            actor_restarts: to.counter(
                "midrun_actor_restarts_total",
                "every service",
                "Parts that panicked or could not start, and were started again",
                ["service"],
            ),
            registrar: to,
        }
    }

    /// Each metric's description.
    pub fn descriptions(&self) -> &[Description] {
        self.registrar.descriptions()
    }

    /// All series.
    pub fn registrar(&self) -> &Registrar {
        &self.registrar
    }
}

/// This process's counts.
pub fn counted() -> &'static Counted {
    static COUNTED: OnceLock<Counted> = OnceLock::new();
    COUNTED.get_or_init(Counted::new)
}

/// The time from `us` microseconds after 1970 until now; zero when clocks disagree.
pub fn since_us(us: u64) -> Duration {
    SystemTime::now().duration_since(crate::trace::at_us(us)).unwrap_or_default()
}

/// What links a point in a histogram to its trace.
pub(crate) fn exemplar(trace: &TraceContext) -> Option<[(&'static str, String); 1]> {
    Some([("trace_id", trace.trace_id()?.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_by_convention_and_each_has_help() {
        let counted = Counted::new();
        let mut names = std::collections::HashSet::new();
        for metric in counted.descriptions() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("midrun_"), "{name}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}: {}", metric.help);
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.kind == Kind::Histogram, "{name}");
        }
    }

    #[test]
    fn what_was_counted_is_shown_with_a_way_to_its_trace() {
        let counted = Counted::new();
        counted.acks.add(["swap", "swapped"]);
        counted.runs.set(["running"], 2);
        counted.restarts.add([]);
        let trace = TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: None,
        };
        counted.publish.observe([], Duration::from_millis(4), &trace);
        let open = exposition(&[counted.registrar()], true);
        for line in [
            r#"midrun_acks_total{kind="swap",outcome="swapped"} 1"#,
            r#"midrun_runs{state="running"} 2"#,
            "midrun_restarts_total 1",
            "# TYPE midrun_acks counter",
            "# EOF",
        ] {
            assert!(open.lines().any(|seen| seen == line), "{line} is not in\n{open}");
        }
        let linked = r#"midrun_build_publish_seconds_bucket{le="0.005"} 1 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.004"#;
        assert!(open.contains(linked), "{open}");
        let old = exposition(&[counted.registrar()], false);
        assert!(old.contains("# TYPE midrun_acks_total counter\nmidrun_acks_total{"), "{old}");
        assert!(old.contains("# HELP midrun_acks_total Runners' words on signals.\n"), "{old}");
        assert!(
            old.lines().any(|line| line == r#"midrun_build_publish_seconds_bucket{le="0.005"} 1"#),
            "{old}"
        );
        assert!(!old.contains("trace_id") && !old.contains("EOF"), "{old}");
    }
}
