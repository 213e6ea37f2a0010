//! Spans: what ARCHITECTURE.md calls "one trace per rebuild".
//!
//! A span is made where its work is seen and ended where its end is seen, which may be in another function, and many
//! actors later; so a [`Span`] is a value that is kept like any other, with its parent given by the
//! [`TraceContext`] that came with a message. Nothing here depends on which thread or task runs.
//!
//! What must hold:
//!
//! - with no collector configured nothing is made, no thread is started, and what came in goes on as it came, so that
//!   a trace of somebody else is not cut by us;
//! - a span that is dropped without an end ends then;
//! - [`shutdown`] is bounded.
//!
//! Which variables turn it on and what they change is OpenTelemetry's to say: `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` turns it on; `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` turns it
//! off; `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_SPAN_*` and
//! `OTEL_EXPORTER_OTLP_*` (headers, timeout) mean what they mean. Only `http/protobuf` without compression is spoken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use wire::TraceContext;

use crate::export::PerService;
use crate::settings::{self, Settings};

/// The longest that the end of a process waits for its last spans to be taken.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// A part that makes spans: their `service.name`, whatever process it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Builds.
    BuildWatcher,
    /// Inspections.
    ManifestInspector,
    /// Decisions and signals.
    TrainRegistry,
    /// What a runner did.
    RunHost,
    /// Cancels.
    CancelBroker,
    /// The HTTP edge.
    SseGateway,
}

impl Service {
    pub(crate) const ALL: [Self; 6] = [
        Self::BuildWatcher,
        Self::ManifestInspector,
        Self::TrainRegistry,
        Self::RunHost,
        Self::CancelBroker,
        Self::SseGateway,
    ];

    /// As it is called everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BuildWatcher => "build-watcher",
            Self::ManifestInspector => "manifest-inspector",
            Self::TrainRegistry => "train-registry",
            Self::RunHost => "run-host",
            Self::CancelBroker => "cancel-broker",
            Self::SseGateway => "sse-gateway",
        }
    }

    /// A span that nothing caused but the world outside, which began at `began`.
    pub fn root(self, name: &'static str, began: SystemTime) -> Span {
        self.span(name, &TraceContext::default(), began)
    }

    /// A span that belongs to `parent` and begins now. Without a parent there is none.
    pub fn child(self, name: &'static str, parent: &TraceContext) -> Span {
        if !is_on() {
            return Span::passing(parent);
        }
        self.child_since(name, parent, SystemTime::now())
    }

    /// The same for one that began at `began`.
    pub fn child_since(self, name: &'static str, parent: &TraceContext, began: SystemTime) -> Span {
        if parent.trace_id().is_none() {
            return Span::passing(parent);
        }
        self.span(name, parent, began)
    }

    /// A request that came over HTTP and begins now, named by its method and route; below `parent`, if the client sent one.
    pub fn request(self, method: &str, route: &str, parent: &TraceContext) -> Span {
        if !is_on() {
            return Span::passing(parent);
        }
        let name = SpanBuilder::from_name(format!("{method} {route}"));
        let mut span = self.build(name.with_kind(SpanKind::Server), parent, SystemTime::now());
        span.set("http.request.method", method.to_owned());
        span.set("http.route", route.to_owned());
        span
    }

    fn span(self, name: &'static str, parent: &TraceContext, began: SystemTime) -> Span {
        self.build(SpanBuilder::from_name(name).with_kind(SpanKind::Internal), parent, began)
    }

    fn build(self, builder: SpanBuilder, parent: &TraceContext, began: SystemTime) -> Span {
        let Some(tracer) = self.tracer() else { return Span::passing(parent) };
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carried(parent));
        let builder = builder.with_start_time(began);
        Span { state: State::Made(Box::new(tracer.build_with_context(builder, &parent))) }
    }

    fn tracer(self) -> Option<&'static SdkTracer> {
        Some(&provider()?.tracers[self as usize])
    }
}

/// Something that takes time, as a tracing tool shows it. Free when tracing is off.
#[derive(Debug)]
#[must_use = "a span that is dropped at once took no time"]
pub struct Span {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Tracing is off, or there is no trace: the context that came is the one that goes on.
    Passing(TraceContext),
    Made(Box<opentelemetry_sdk::trace::Span>),
}

impl Span {
    fn passing(context: &TraceContext) -> Self {
        Self { state: State::Passing(context.clone()) }
    }

    /// The context for what this causes.
    pub fn context(&self) -> TraceContext {
        match &self.state {
            State::Passing(context) => context.clone(),
            State::Made(span) => {
                let mut context = TraceContext::default();
                let own = Context::new().with_remote_span_context(span.span_context().clone());
                TraceContextPropagator::new().inject_context(&own, &mut Carrier(&mut context));
                // The propagator writes an empty state where there is none.
                context.tracestate = context.tracestate.filter(|state| !state.is_empty());
                context
            }
        }
    }

    /// Whether somebody will see it, so that an attribute which is dear to make is worth it.
    pub fn is_recording(&self) -> bool {
        matches!(&self.state, State::Made(span) if span.is_recording())
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let State::Made(span) = &mut self.state {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed: `kind` is of a small set of words, `why` is for a person.
    pub fn fail(&mut self, kind: &'static str, why: &str) {
        if let State::Made(span) = &mut self.state {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(why.to_owned()));
        }
    }

    /// The request was answered. What the client did wrong is no failure of the server.
    pub fn answered(&mut self, status: u16) {
        if let State::Made(span) = &mut self.state {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            if status >= 500 {
                span.set_attribute(KeyValue::new("error.type", status.to_string()));
                span.set_status(Status::error(""));
            }
        }
    }

    /// It ended now.
    pub fn end(self) {
        drop(self);
    }

    /// It ended at `at`.
    pub fn end_at(self, at: SystemTime) {
        if let State::Made(mut span) = self.state {
            span.end_with_timestamp(at);
        }
    }

    /// While what this answers is held, what this thread logs carries the trace's ids. Not to be held across an await.
    pub fn scope(&self) -> tracing::span::EnteredSpan {
        let State::Made(span) = &self.state else { return tracing::Span::none().entered() };
        let context = span.span_context();
        tracing::error_span!("trace", trace_id = %context.trace_id(), span_id = %context.span_id()).entered()
    }
}

/// Microseconds since 1970 as a moment.
pub fn at_us(us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(us)
}

struct Provider {
    provider: SdkTracerProvider,
    tracers: [SdkTracer; Service::ALL.len()],
}

static IS_ON: AtomicBool = AtomicBool::new(false);
static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();
static PROVIDER: OnceLock<Option<Provider>> = OnceLock::new();

/// Looks whether a collector is configured. Everything else waits for the first span.
pub fn start() {
    let settings = SETTINGS.get_or_init(|| settings::read(|name| std::env::var(name).ok()));
    IS_ON.store(settings.is_some(), Ordering::Relaxed);
}

/// Whether spans are made.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

fn provider() -> Option<&'static Provider> {
    if !is_on() {
        return None;
    }
    PROVIDER.get_or_init(|| SETTINGS.get()?.as_ref().and_then(made)).as_ref()
}

fn made(settings: &Settings) -> Option<Provider> {
    for remark in &settings.remarks {
        tracing::warn!("{remark}");
    }
    match PerService::new(settings) {
        Ok(exporter) => {
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
            let tracers = Service::ALL.map(|service| provider.tracer(service.name()));
            Some(Provider { provider, tracers })
        }
        Err(error) => {
            tracing::error!(%error, "traces are not exported");
            None
        }
    }
}

/// Hands the last spans over; waits at most two seconds for the collector to take them. Blocks. Spans made after this
/// are lost.
pub fn shutdown() {
    IS_ON.store(false, Ordering::Relaxed);
    let Some(Some(made)) = PROVIDER.get() else { return };
    if let Err(error) = made.provider.shutdown_with_timeout(SHUTDOWN_LIMIT) {
        tracing::warn!(%error, "the last spans did not reach the collector");
    }
}

/// The headers of a context, to be read.
struct Carried<'a>(&'a TraceContext);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.0.traceparent.as_deref(),
            "tracestate" => self.0.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The same, to be written.
struct Carrier<'a>(&'a mut TraceContext);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.0.traceparent = Some(value),
            "tracestate" => self.0.tracestate = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_nothing_and_what_came_goes_on() {
        let came = TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: Some("a=b".into()),
        };
        let mut span = Service::TrainRegistry.child("dispatch", &came);
        span.set("midrun.decision", "hot-swap");
        assert!(!span.is_recording());
        assert_eq!(span.context(), came);
        let root = Service::BuildWatcher.root("rebuild", SystemTime::now());
        assert_eq!(root.context(), TraceContext::default());
        shutdown();
    }

    #[test]
    fn names_are_in_the_order_of_the_tracers() {
        for (place, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, place, "{}", service.name());
        }
    }
}
