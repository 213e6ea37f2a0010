//! The topic `troubles`: what is wrong with the server's services, as it stands and whenever that changes.

use futures_util::{Stream, stream};

use super::Said;
use crate::edge::Edge;

pub(super) fn say(edge: &Edge) -> impl Stream<Item = Said> + use<> {
    let mut troubles = edge.peers.trouble.clone();
    troubles.mark_changed();
    stream::unfold(troubles, |mut troubles| async move {
        troubles.changed().await.ok()?;
        let now = troubles.borrow_and_update().clone();
        let said = Said {
            topic: "troubles".to_owned(),
            event: "troubles",
            name: None,
            past: false,
            id: None,
            data: serde_json::to_string(&now).expect("a wire type is always JSON"),
        };
        Some((said, troubles))
    })
}
