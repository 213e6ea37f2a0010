//! The table: what was measured next to what is asked for.

use std::fmt::Write as _;

use crate::figures::Figures;

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    what: String,
    node: String,
    bar: String,
    here: String,
    holds: Option<bool>,
    remark: String,
}

impl Row {
    /// Median and p95 in milliseconds, each with its bar.
    pub(crate) fn times(what: &str, bar: (f64, f64), here: &Figures) -> Self {
        Self {
            what: what.to_owned(),
            node: String::new(),
            bar: format!("<= {} / {} ms", bar.0, bar.1),
            here: format!("{here} ms"),
            holds: Some(here.median() <= bar.0 && here.p95() <= bar.1),
            remark: format!("n={}", here.count()),
        }
    }

    /// The same beside the Node loop: `asked` of a machine on which the Node loop has `node`, and as
    /// much more as that takes here, if it takes more.
    pub(crate) fn beside(
        what: &str,
        node: (f64, f64),
        asked: (f64, f64),
        here: &Figures,
        reference: &Figures,
    ) -> Self {
        let slower = |now: f64, then: f64| (now / then).max(1.0);
        let bar = (asked.0 * slower(reference.median(), node.0), asked.1 * slower(reference.p95(), node.1));
        Self {
            node: format!("{} / {} ms; now {reference}", node.0, node.1),
            bar: format!("<= {} / {} ms; now {:.1} / {:.1}", asked.0, asked.1, bar.0, bar.1),
            ..Self::times(what, bar, here)
        }
    }

    /// One value with its bar.
    pub(crate) fn value(what: &str, node: &str, bar: f64, value: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            node: node.to_owned(),
            bar: format!("<= {bar:.0} {unit}"),
            here: format!("{value:.1} {unit}"),
            holds: Some(value <= bar),
            remark: String::new(),
        }
    }

    /// Something that is only told.
    pub(crate) fn told(what: &str, here: String) -> Self {
        Self {
            what: what.to_owned(),
            node: String::new(),
            bar: String::new(),
            here,
            holds: None,
            remark: String::new(),
        }
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
