//! Metrics as they are made: each with its description, so that what is served and what the page lists are the same.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::TraceContext;

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Exemplar = [(&'static str, String); 1];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// As it stands in queries; a histogram's series have `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: Vec<&'static str>,
    /// Who counts it.
    pub service: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// Makes metrics and keeps them to be shown.
#[derive(Debug, Default)]
pub struct Registrar {
    registry: Registry,
    descriptions: Vec<Description>,
}

impl Registrar {
    /// A counter; `name` ends in `_total`.
    pub fn counter<const N: usize>(
        &mut self,
        name: &'static str,
        service: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Counters<N> {
        let family = Family::default();
        // The format adds the ending itself.
        self.registry.register(name.strip_suffix("_total").unwrap_or(name), help, family.clone());
        self.describe(name, Kind::Counter, &labels, service, help);
        Counters { labels, family }
    }

    /// A gauge.
    pub fn gauge<const N: usize>(
        &mut self,
        name: &'static str,
        service: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Gauges<N> {
        let family = Family::default();
        self.registry.register(name, help, family.clone());
        self.describe(name, Kind::Gauge, &labels, service, help);
        Gauges { labels, family }
    }

    /// A histogram of times; `name` ends in `_seconds`.
    pub fn histogram<const N: usize>(
        &mut self,
        name: &'static str,
        service: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Histograms<N> {
        let family = Family::new_with_constructor(Buckets(buckets));
        self.registry.register(name, help, family.clone());
        self.describe(name, Kind::Histogram, &labels, service, help);
        Histograms { labels, family }
    }

    fn describe(
        &mut self,
        name: &'static str,
        kind: Kind,
        labels: &[&'static str],
        service: &'static str,
        help: &'static str,
    ) {
        self.descriptions.push(Description { name, kind, labels: labels.to_vec(), service, help });
    }

    /// Each metric's description, in the order in which they were made.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Counters of one name, by labels.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, Counter>,
}

impl<const N: usize> Counters<N> {
    /// One more. `values` are of a small set of words.
    pub fn add(&self, values: [&'static str; N]) {
        self.add_many(values, 1);
    }

    /// `count` more.
    pub fn add_many(&self, values: [&'static str; N], count: u64) {
        self.family.get_or_create(&with(self.labels, values)).inc_by(count);
    }

    /// The one with these labels, for who counts often; shown from now on, if only as zero.
    pub fn one(&self, values: [&'static str; N]) -> Counter {
        self.family.get_or_create_owned(&with(self.labels, values))
    }
}

/// Gauges of one name, by labels.
#[derive(Debug)]
pub struct Gauges<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, Gauge>,
}

impl<const N: usize> Gauges<N> {
    /// It is `value` now.
    pub fn set(&self, values: [&'static str; N], value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.family.get_or_create(&with(self.labels, values)).set(value);
    }

    /// It is `by` more now.
    pub fn change(&self, values: [&'static str; N], by: i64) {
        self.family.get_or_create(&with(self.labels, values)).inc_by(by);
    }

    /// It is not known: not shown until it is set.
    pub fn hide(&self, values: [&'static str; N]) {
        self.family.remove(&with(self.labels, values));
    }

    /// The one with these labels, for who changes it often; shown from now on, if only as zero.
    pub fn one(&self, values: [&'static str; N]) -> Gauge {
        self.family.get_or_create_owned(&with(self.labels, values))
    }
}

/// Histograms of one name, by labels.
#[derive(Debug)]
pub struct Histograms<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, HistogramWithExemplars<Exemplar>, Buckets>,
}

impl<const N: usize> Histograms<N> {
    /// It took `time`, as part of `trace`.
    pub fn observe(&self, values: [&'static str; N], time: Duration, trace: &TraceContext) {
        let exemplar = super::exemplar(trace);
        self.family.get_or_create(&with(self.labels, values)).observe(time.as_secs_f64(), exemplar, None);
    }

    /// The same for milliseconds, of which there are none less than none.
    pub fn observe_ms(&self, values: [&'static str; N], ms: f64, trace: &TraceContext) {
        let time = Duration::try_from_secs_f64(ms.max(0.0) / 1e3).unwrap_or_default();
        self.observe(values, time, trace);
    }
}

#[derive(Debug, Clone)]
struct Buckets(&'static [f64]);

impl MetricConstructor<HistogramWithExemplars<Exemplar>> for Buckets {
    fn new_metric(&self) -> HistogramWithExemplars<Exemplar> {
        HistogramWithExemplars::new(self.0.iter().copied())
    }
}

fn with<const N: usize>(labels: [&'static str; N], values: [&'static str; N]) -> Labels<N> {
    let mut pairs = [("", ""); N];
    for (place, pair) in pairs.iter_mut().enumerate() {
        *pair = (labels[place], values[place]);
    }
    pairs
}

/// The page in `deploy/` that lists `metrics`.
pub fn page(metrics: &[&[Description]]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(PAGE_HEAD);
    for metric in metrics.iter().copied().flatten() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let Description { name, service, help, .. } = metric;
        let _ = writeln!(text, "| `{name}` | {} | {labels} | {service} | {help} |", metric.kind.name());
    }
    text
}

const PAGE_HEAD: &str = "# Metrics

Generated from the code; a test fails when this page is not current. To write it anew:
`MIDRUN_WRITE_PAGES=1 cargo test -p midrun --bin midrun metrics_page`.

`GET /metrics` needs no token and shows no secrets. It answers in the format that the scraper asks for: OpenMetrics, in
which points of histograms carry the `trace_id` of the newest rebuild that fell there, or the older Prometheus text.
Times are seconds. A process shows what its own services count.

| name | kind | labels | counted by | what it says |
|---|---|---|---|---|
";
