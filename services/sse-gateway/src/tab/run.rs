//! The topic `run:ID`.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use wire::RunId;

use super::Said;
use crate::edge::Edge;
use crate::failure::Failure;
use crate::log_reader::LogReader;
use crate::run_events;

const PAGE_BYTES: u32 = 64 * 1024;

pub(super) fn say(edge: Arc<Edge>, run: RunId, after: Option<&str>) -> impl Stream<Item = Said> + use<> {
    let topic = format!("run:{run}");
    let after = after.and_then(|text| text.parse().ok()).unwrap_or(0);
    let reader = LogReader::new(edge.peers.read_log.clone(), run, after, PAGE_BYTES, edge.limits.patience);
    let pages = stream::unfold(Some((reader, topic)), |state| async move {
        let (mut reader, topic) = state?;
        let (records, last) = match reader.next().await {
            Ok(Some(page)) => {
                let records = page.records.iter().map(|record| Said {
                    topic: topic.clone(),
                    event: run_events::name(&record.step),
                    name: None,
                    id: Some(record.seq.to_string()),
                    past: false,
                    data: run_events::data(record),
                });
                (records.collect::<Vec<_>>(), page.ended)
            }
            Ok(None) => (Vec::new(), true),
            Err(failure) => return Some((vec![lost(&topic, &failure)], None)),
        };
        let end = last.then(|| Said::about(&topic, "topic.end", None));
        let said = records.into_iter().chain(end).collect();
        Some((said, (!last).then_some((reader, topic))))
    });
    pages.map(stream::iter).flatten()
}

fn lost(topic: &str, failure: &Failure) -> Said {
    Said::about(topic, "topic.missing", Some(failure.message()))
}
