//! Whether traces are exported and how, as far as the OpenTelemetry crates do not read it from the environment
//! themselves. They read: endpoint, headers, sampler, limits, batches, resource attributes.

use std::time::Duration;

/// The collector's address for everything.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The collector's address for traces, as it is.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// What the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The longest that one request to the collector may take.
    pub(crate) timeout: Duration,
    /// The name that every service is to have, if one is given.
    pub(crate) service_name: Option<String>,
    /// What was asked for and is not done so, for the log.
    pub(crate) remarks: Vec<String>,
}

/// How traces are exported, or nothing when they are not. `variable` is the environment.
pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Settings> {
    let get =
        |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let has_endpoint = get(TRACES_ENDPOINT).or_else(|| get(ENDPOINT)).is_some();
    let is_disabled = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !has_endpoint || is_disabled {
        return None;
    }
    let exporters = get("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
    if !exporters.split(',').any(|exporter| exporter.trim() == "otlp") {
        return None;
    }
    let either = |name: &str| {
        let traces = name.replace("OTLP_", "OTLP_TRACES_");
        get(&traces).map(|value| (traces, value)).or_else(|| get(name).map(|value| (name.to_owned(), value)))
    };
    let mut remarks = Vec::new();
    let timeout = either("OTEL_EXPORTER_OTLP_TIMEOUT").and_then(|(name, value)| {
        let millis = value.parse().ok();
        if millis.is_none() {
            remarks.push(format!("{name}={value} is no number of milliseconds"));
        }
        millis
    });
    if let Some((name, value)) = either("OTEL_EXPORTER_OTLP_PROTOCOL")
        && value != "http/protobuf"
    {
        remarks.push(format!(
            "{name}={value}: only http/protobuf is spoken, so that is what the collector gets"
        ));
    }
    if let Some(value) = get("OTEL_PROPAGATORS")
        && !value.split(',').any(|one| one.trim() == "tracecontext")
    {
        remarks.push(format!("OTEL_PROPAGATORS={value}: only tracecontext is spoken between parts"));
    }
    Some(Settings {
        timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
        service_name: get("OTEL_SERVICE_NAME").or_else(|| named_in(&get("OTEL_RESOURCE_ATTRIBUTES")?)),
        remarks,
    })
}

/// The default of the specification.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

fn named_in(attributes: &str) -> Option<String> {
    let mut pairs = attributes.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == "service.name").map(|(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(variables: &[(&str, &str)]) -> Option<Settings> {
        read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    const ON: (&str, &str) = (ENDPOINT, "http://127.0.0.1:4318");

    #[test]
    fn on_when_and_only_when_an_endpoint_is_configured() {
        assert!(read_from(&[]).is_none());
        assert!(read_from(&[(ENDPOINT, " ")]).is_none());
        assert!(read_from(&[("OTEL_SERVICE_NAME", "x")]).is_none());
        assert!(read_from(&[ON]).is_some());
        assert!(read_from(&[(TRACES_ENDPOINT, "http://c/v1/traces")]).is_some());
        assert!(read_from(&[ON, ("OTEL_SDK_DISABLED", "TRUE")]).is_none());
        assert!(read_from(&[ON, ("OTEL_SDK_DISABLED", "1")]).is_some(), "only true is true");
        assert!(read_from(&[ON, ("OTEL_TRACES_EXPORTER", "none")]).is_none());
        assert!(read_from(&[ON, ("OTEL_TRACES_EXPORTER", "console")]).is_none());
        assert!(read_from(&[ON, ("OTEL_TRACES_EXPORTER", "console, otlp")]).is_some());
    }

    #[test]
    fn what_is_for_traces_goes_first() {
        let read = read_from(&[
            ON,
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name = mine"),
        ])
        .unwrap();
        assert_eq!(read.timeout, Duration::from_millis(700));
        assert_eq!(read.service_name.as_deref(), Some("mine"));
        assert_eq!(read.remarks, [""; 0]);
        assert_eq!(read_from(&[ON]).unwrap().timeout, DEFAULT_TIMEOUT);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let odd = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ];
        let read = read_from(&[&odd[..], &[ON]].concat()).unwrap();
        for (name, _) in odd {
            assert!(read.remarks.iter().any(|said| said.contains(name)), "{name}: {:?}", read.remarks);
        }
        assert_eq!(read.timeout, DEFAULT_TIMEOUT);
    }
}
