//! The topic `terminal:ID`.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use wire::TerminalId;
use wire::log::Step;
use wire::terminal::GetTerminal;

use super::Said;
use crate::edge::Edge;
use crate::log_reader::LogReader;
use crate::terminal_events::{data, name, unseen_end};

const PAGE_BYTES: u32 = 64 * 1024;

pub(super) fn say(
    edge: Arc<Edge>,
    terminal: TerminalId,
    after: Option<&str>,
) -> impl Stream<Item = Said> + use<> {
    let topic = format!("terminal:{terminal}");
    let after = after.and_then(|text| text.parse().ok()).unwrap_or(0);
    let read = edge.peers.terminals.read.clone();
    let reader = LogReader::new(read, terminal.clone(), after, PAGE_BYTES, edge.limits.patience);
    // Who was told everything and comes back is not told of the end again.
    let news = after == 0;
    let state = Some((reader, GetTerminal { terminal }, topic, edge, news));
    let pages = stream::unfold(state, |state| async move {
        let (mut reader, terminal, topic, edge, news) = state?;
        let page = match reader.next().await {
            Ok(page) => page,
            Err(failure) => {
                let missing = Said::about(&topic, "topic.missing", Some(failure.message()));
                return Some((vec![missing], None));
            }
        };
        let (records, ended) = page.map_or((Vec::new(), true), |page| (page.records, page.ended));
        let news = news || !records.is_empty();
        let seen = matches!(records.last().map(|record| &record.step), Some(Step::Exit { .. }));
        let last = ended || seen;
        let mut said: Vec<Said> = records
            .iter()
            .map(|record| Said {
                topic: topic.clone(),
                event: name(&record.step),
                name: None,
                id: Some(record.seq.to_string()),
                past: false,
                data: data(record),
            })
            .collect();
        if last {
            if news && !seen {
                let data = unseen_end(&edge, &terminal).await;
                said.push(Said {
                    topic: topic.clone(),
                    event: "exit",
                    name: None,
                    id: None,
                    past: false,
                    data,
                });
            }
            said.push(Said::about(&topic, "topic.end", None));
        }
        Some((said, (!last).then_some((reader, terminal, topic, edge, news))))
    });
    pages.map(stream::iter).flatten()
}
