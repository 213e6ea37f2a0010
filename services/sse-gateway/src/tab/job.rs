//! The topics `job:ID` and `jobs`: the control plane's streams.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use super::Said;
use crate::edge::Edge;
use crate::upstream::follow::{Source, Told, follow};

pub(super) fn say(edge: Arc<Edge>, job: Option<String>, after: Option<String>) -> impl Stream<Item = Said> {
    let topic = job.as_ref().map_or_else(|| "jobs".to_owned(), |id| format!("job:{id}"));
    let source = job.map_or(Source::Changes, Source::Job);
    follow(edge, source, after).map(move |told| match told {
        Told::Open => Said::about(&topic, "topic.open", None),
        Told::Away(why) => Said::about(&topic, "topic.away", Some(&why)),
        Told::Missing(why) => Said::about(&topic, "topic.missing", Some(&why)),
        Told::End => Said::about(&topic, "topic.end", None),
        Told::Event(event) => {
            // Whatever the control plane sends stands inside a frame of ours, so it has to be JSON.
            let data = match serde_json::from_str::<Value>(&event.data) {
                Ok(data) => data.to_string(),
                Err(_) => Value::from(event.data).to_string(),
            };
            Said {
                topic: topic.clone(),
                event: "message",
                name: Some(event.name),
                id: event.id,
                past: false,
                data,
            }
        }
    })
}
