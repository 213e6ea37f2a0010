//! The topic `dev`.

use futures_util::{Stream, stream};
use peer::{Position, Start};

use super::Said;
use crate::edge::Edge;

pub(super) fn say(edge: &Edge, after: Option<&str>) -> impl Stream<Item = Said> + use<> {
    let after = after.and_then(|text| text.parse::<Position>().ok());
    let reader = edge.peers.events.read(after.map_or(Start::Snapshot, Start::After));
    stream::unfold(reader, |mut reader| async move {
        let delivery = reader.next().await?;
        let said = Said {
            topic: "dev".to_owned(),
            event: delivery.event.name(),
            name: None,
            id: Some(delivery.at.to_string()),
            data: serde_json::to_string(&*delivery.event).expect("a wire type is always JSON"),
        };
        Some((said, reader))
    })
}
