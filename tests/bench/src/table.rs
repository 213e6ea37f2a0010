//! The table: what was measured next to what is asked for.

use std::fmt::Write as _;

use crate::figures::Figures;

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    what: String,
    node: &'static str,
    bar: String,
    here: String,
    holds: Option<bool>,
    remark: String,
}

impl Row {
    /// Median and p95 in milliseconds, each with its bar.
    pub(crate) fn times(what: &str, node: &'static str, bar: (f64, f64), figures: &Figures) -> Self {
        let (median, p95) = (figures.median(), figures.p95());
        Self {
            what: what.to_owned(),
            node,
            bar: format!("<= {} / {} ms", bar.0, bar.1),
            here: format!("{median:.1} / {p95:.1} ms"),
            holds: Some(median <= bar.0 && p95 <= bar.1),
            remark: format!("n={}", figures.count()),
        }
    }

    /// One value with its bar.
    pub(crate) fn value(what: &str, node: &'static str, bar: f64, value: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            node,
            bar: format!("<= {bar:.0} {unit}"),
            here: format!("{value:.1} {unit}"),
            holds: Some(value <= bar),
            remark: String::new(),
        }
    }

    /// Something that is only told.
    pub(crate) fn told(what: &str, here: String) -> Self {
        Self { what: what.to_owned(), node: "", bar: String::new(), here, holds: None, remark: String::new() }
    }

    /// The same with a remark.
    pub(crate) fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = remark.into();
        self
    }

    /// Whether what is asked for is reached, if something is.
    pub(crate) fn holds(&self) -> bool {
        self.holds.unwrap_or(true)
    }
}

pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::from("| | Node loop | asked | here | | |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let verdict = match row.holds {
            Some(true) => "holds",
            Some(false) => "**misses**",
            None => "",
        };
        let Row { what, node, bar, here, remark, .. } = row;
        let _ = writeln!(text, "| {what} | {node} | {bar} | {here} | {verdict} | {remark} |");
    }
    text
}
