//! The formats in which metrics are served.

use std::fmt::Write as _;

use prometheus_client::encoding::text::{encode_eof, encode_registry};

use super::Registrar;

/// The content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the format before it.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a request with this `Accept` header can read OpenMetrics.
pub fn wants_open_metrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| accept.contains("application/openmetrics-text"))
}

/// All series of `registrars`, as OpenMetrics or in the format before it.
pub fn exposition(registrars: &[&Registrar], open_metrics: bool) -> String {
    let mut text = String::with_capacity(16 * 1024);
    for registrar in registrars {
        encode_registry(&mut text, registrar.registry()).expect("writing to a String cannot fail");
    }
    // A series without labels is written with none between its braces.
    let mut text = text.replace("{} ", " ");
    if open_metrics {
        encode_eof(&mut text).expect("writing to a String cannot fail");
        return text;
    }
    older(&text)
}

/// The same in the older format: counters are called by their full name, and there are no exemplars.
fn older(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let is_counter =
                lines.peek().is_some_and(|next| next.starts_with("# TYPE ") && next.ends_with(" counter"));
            let (name, help) = described.split_once(' ').unwrap_or((described, ""));
            let ending = if is_counter { "_total" } else { "" };
            let _ = writeln!(text, "# HELP {name}{ending} {help}");
        } else if let Some(name) = line.strip_prefix("# TYPE ").and_then(|line| line.strip_suffix(" counter"))
        {
            let _ = writeln!(text, "# TYPE {name}_total counter");
        } else if line.starts_with("# UNIT ") {
            // Unknown to it.
        } else if line.starts_with('#') {
            let _ = writeln!(text, "{line}");
        } else {
            let sample = line.split_once(" # {").map_or(line, |(sample, _)| sample);
            let _ = writeln!(text, "{sample}");
        }
    }
    text
}
