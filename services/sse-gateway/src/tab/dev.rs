//! The topic `dev`.

use futures_util::{Stream, stream};
use peer::{Delivery, Position, Start};
use wire::event::DevEvent;

use super::Said;
use crate::edge::Edge;

/// The position of a client that wants everything that is still known.
const OLDEST: &str = "oldest";

pub(super) fn say(edge: &Edge, after: Option<&str>) -> impl Stream<Item = Said> + use<> {
    let start = match after {
        Some(OLDEST) => Start::Oldest,
        after => after.and_then(|text| text.parse::<Position>().ok()).map_or(Start::Snapshot, Start::After),
    };
    let wants_past = matches!(start, Start::Oldest);
    let mut reader = edge.peers.events.read(start);
    let mut past = Vec::new();
    // A feed keeps a bounded number of events, and each is shared.
    while wants_past && let Some(delivery) = reader.try_next() {
        past.push(said(&delivery, true));
    }
    let news = stream::unfold(reader, |mut reader| async move {
        let delivery = reader.next().await?;
        Some((said(&delivery, false), reader))
    });
    stream::StreamExt::chain(stream::iter(past), news)
}

fn said(delivery: &Delivery<DevEvent>, past: bool) -> Said {
    Said {
        topic: "dev".to_owned(),
        event: delivery.event.name(),
        name: None,
        id: Some(delivery.at.to_string()),
        past,
        data: serde_json::to_string(&*delivery.event).expect("a wire type is always JSON"),
    }
}
