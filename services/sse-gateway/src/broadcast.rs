//! The last span of a rebuild on the edge: from its arrival to the moment when its frame is encoded and every stream
//! can take it. Each stream takes it at its own pace, which is that client's affair.

use std::sync::Arc;
use std::time::SystemTime;

use peer::{Delivery, Start};
use telemetry::Service;
use wire::{DevEvent, TraceContext};

use crate::edge::Edge;

/// Accounts for what is broadcast, for as long as there are events. To be run only while tracing is on.
pub(crate) async fn account(edge: Arc<Edge>) {
    let mut events = edge.peers.events.read(Start::Snapshot);
    let closing = edge.lifecycle.closing();
    tokio::pin!(closing);
    loop {
        let delivery = tokio::select! {
            delivery = events.next() => delivery,
            () = &mut closing => return,
        };
        let Some(delivery) = delivery else { return };
        // What came before this edge was another's to tell.
        if !delivery.snapshot {
            one(&edge, &delivery);
        }
    }
}

fn one(edge: &Edge, delivery: &Delivery<DevEvent>) {
    let (traceparent, hash, failure) = match &*delivery.event {
        DevEvent::Rebuild(frame) => (&frame.traceparent, Some(&frame.content_hash), None),
        DevEvent::Error(frame) => (&frame.traceparent, None, Some(&frame.message)),
        DevEvent::Swap(_) | DevEvent::Run(_) => return,
    };
    let parent = TraceContext { traceparent: traceparent.clone(), tracestate: None };
    let mut span = Service::SseGateway.child_since("broadcast", &parent, SystemTime::now());
    let _encoded = edge.frames.of(delivery, &edge.metrics);
    if !span.is_recording() {
        return;
    }
    span.set("midrun.sse.clients", edge.metrics.onlookers());
    if let DevEvent::Rebuild(frame) = &*delivery.event {
        span.set("midrun.build.id", frame.build_id.to_string());
    }
    if let Some(hash) = hash {
        span.set("midrun.content_hash", hash.to_string());
    }
    if let Some(message) = failure {
        span.fail("rebuild-failed", message);
    }
}
