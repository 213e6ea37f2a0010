//! The way of spans to the collector: OTLP over HTTP, protobuf, in batches, from a thread of their own.
//!
//! What must hold: nobody ever waits for the collector but that thread, and the one who shuts down, for a bounded
//! time; a collector that is away is said once in the log, and costs the spans that do not fit into the queue.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::settings::Settings;
use crate::trace::Service;

/// Exports each span as of the service that made it: one process may hold several, and `service.name` belongs to a
/// resource, of which an exporter has one.
#[derive(Debug)]
pub(crate) struct PerService {
    exporters: BTreeMap<&'static str, opentelemetry_otlp::SpanExporter>,
    is_away: AtomicBool,
}

impl PerService {
    /// Exporters for every service, over one connection.
    ///
    /// # Errors
    /// The endpoint or another setting cannot be used; the text names it.
    pub(crate) fn new(settings: &Settings) -> Result<Self, ExporterBuildError> {
        let client = Client { made: Arc::default(), timeout: settings.timeout };
        let mut exporters = BTreeMap::new();
        for service in Service::ALL {
            let mut exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_timeout(settings.timeout)
                .with_http_client(client.clone())
                .build()?;
            exporter.set_resource(&resource(service, settings.service_name.as_deref()));
            exporters.insert(service.name(), exporter);
        }
        Ok(Self { exporters, is_away: AtomicBool::new(false) })
    }

    fn note(&self, outcome: &OTelSdkResult) {
        let was_away = self.is_away.swap(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Err(error) if !was_away => {
                tracing::warn!(%error, "traces do not reach their collector; what does not fit into memory is dropped");
            }
            Ok(()) if was_away => tracing::warn!("traces reach their collector again"),
            _ => {}
        }
    }
}

impl SpanExporter for PerService {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut by_service: BTreeMap<&str, Vec<SpanData>> = BTreeMap::new();
        for span in batch {
            // Every span is made by one of the services.
            if let Some((name, _)) = self.exporters.get_key_value(span.instrumentation_scope.name()) {
                by_service.entry(name).or_default().push(span);
            }
        }
        let mut outcome = Ok(());
        for (name, spans) in by_service {
            let exported = self.exporters[name].export(spans).await;
            if exported.is_err() {
                outcome = exported;
            }
        }
        self.note(&outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let ended: Vec<_> =
            self.exporters.values().map(|exporter| exporter.shutdown_with_timeout(timeout)).collect();
        match ended
            .into_iter()
            .find(|outcome| matches!(outcome, Err(error) if !matches!(error, OTelSdkError::AlreadyShutdown)))
        {
            Some(failed) => failed,
            None => Ok(()),
        }
    }
}

/// Who says it: `service` of this process, with what `OTEL_RESOURCE_ATTRIBUTES` adds.
fn resource(service: Service, name: Option<&str>) -> Resource {
    let built_in = Resource::builder();
    let own = [
        KeyValue::new("service.namespace", "midrun"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    let given = Resource::builder().build();
    let own = own.into_iter().filter(|pair| given.get(&Key::from(pair.key.as_str().to_owned())).is_none());
    let name = name.map_or_else(|| service.name().to_owned(), str::to_owned);
    built_in.with_attributes(own).with_service_name(name).build()
}

/// An HTTP client for the batch thread, which is no runtime's: it brings its own, made when the first spans go out.
#[derive(Clone)]
struct Client {
    made: Arc<Mutex<Option<Made>>>,
    timeout: Duration,
}

struct Made {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = reqwest::Client::builder()
                .timeout(self.timeout)
                .redirect(reqwest::redirect::Policy::none())
                .build()?;
            *made = Some(Made { runtime, client });
        }
        let Some(Made { runtime, client }) = &*made else { return Err("there is no HTTP client".into()) };
        runtime.block_on(async {
            let mut answer = client.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                *headers = std::mem::take(answer.headers_mut());
            }
            Ok(response.body(answer.bytes().await?)?)
        })
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request)
    }
}
