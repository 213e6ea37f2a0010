//! The topic `terminal:ID`.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use wire::TerminalId;
use wire::log::Step;
use wire::terminal::GetTerminal;

use super::Said;
use super::log::{Log, PAGE_BYTES, Part};
use crate::edge::Edge;
use crate::log_reader::LogReader;
use crate::terminal_events::{data, name, unseen_end};

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
    let state = Some((Log::new(reader, topic), GetTerminal { terminal }, edge, news));
    let parts = stream::unfold(state, |state| async move {
        let (mut log, terminal, edge, news) = state?;
        let page = match log.next().await {
            Part::About(said) => return Some((vec![said], Some((log, terminal, edge, news)))),
            Part::Over(said) => return Some((vec![said], None)),
            Part::Page(page) => page,
        };
        let news = news || !page.records.is_empty();
        let seen = matches!(page.records.last().map(|record| &record.step), Some(Step::Exit { .. }));
        let last = page.ended || seen;
        let mut said: Vec<Said> = page
            .records
            .iter()
            .map(|record| Said {
                topic: log.topic().to_owned(),
                event: name(&record.step),
                name: None,
                id: Some(record.seq.to_string()),
                past: page.is_past(record),
                data: data(record),
            })
            .collect();
        if last {
            if news && !seen {
                let data = unseen_end(&edge, &terminal).await;
                let topic = log.topic().to_owned();
                said.push(Said { topic, event: "exit", name: None, id: None, past: false, data });
            }
            said.push(Said::about(log.topic(), "topic.end", None));
        }
        Some((said, (!last).then_some((log, terminal, edge, news))))
    });
    parts.map(stream::iter).flatten()
}
