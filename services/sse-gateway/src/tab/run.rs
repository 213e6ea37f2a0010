//! The topic `run:ID`.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use wire::RunId;

use super::Said;
use super::log::{Log, PAGE_BYTES, Part};
use crate::edge::Edge;
use crate::log_reader::LogReader;
use crate::run_events;

pub(super) fn say(edge: Arc<Edge>, run: RunId, after: Option<&str>) -> impl Stream<Item = Said> + use<> {
    let topic = format!("run:{run}");
    let after = after.and_then(|text| text.parse().ok()).unwrap_or(0);
    let reader = LogReader::new(edge.peers.read_log.clone(), run, after, PAGE_BYTES, edge.limits.patience);
    let parts = stream::unfold(Some(Log::new(reader, topic)), |log| async move {
        let mut log = log?;
        let page = match log.next().await {
            Part::About(said) => return Some((vec![said], Some(log))),
            Part::Over(said) => return Some((vec![said], None)),
            Part::Page(page) => page,
        };
        let records = page.records.iter().map(|record| Said {
            topic: log.topic().to_owned(),
            event: run_events::name(&record.step),
            name: None,
            id: Some(record.seq.to_string()),
            past: false,
            data: run_events::data(record),
        });
        let end = page.ended.then(|| Said::about(log.topic(), "topic.end", None));
        let said = records.chain(end).collect();
        Some((said, (!page.ended).then_some(log)))
    });
    parts.map(stream::iter).flatten()
}
