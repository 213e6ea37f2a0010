//! What makes a type a message between parts: its route, its reply, its typed refusal, and whether it may be
//! repeated when nobody knows whether it was handled.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A request from one part to another.
pub trait Wire: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The route: `POST /peer/v1/NAME`.
    const NAME: &'static str;
    /// True when handling the message twice does what handling it once does.
    const REPEATABLE: bool;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// The typed "no".
    type Refusal: Reject;
}

/// A typed "no": an error with a code for programs and a text for people.
pub trait Reject: std::error::Error + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// A stable word for programs, such as `not-found`.
    fn code(&self) -> &'static str;
    /// The HTTP status (4xx or 5xx) that says the same.
    fn http_status(&self) -> u16;
}

/// For messages that are never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Never {}

impl Reject for Never {
    fn code(&self) -> &'static str {
        match *self {}
    }

    fn http_status(&self) -> u16 {
        match *self {}
    }
}

/// W3C trace context, as it travels in envelopes, headers, log records and `TRACEPARENT`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceContext {
    /// `00-TRACEID-SPANID-FLAGS`, when there is a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Vendor data that goes along unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// The 32 hex digits of the trace id.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1).filter(|id| id.len() == 32)
    }
}

/// An event of a feed: an ordered stream with one writer.
pub trait FeedEvent: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The route: `GET /peer/v1/feeds/NAME`.
    const NAME: &'static str;

    /// The newest event with each key is what a reader gets who is new or too far behind. Nothing: the event is
    /// only for those who follow.
    fn snapshot_key(&self) -> Option<String>;
}

impl FeedEvent for crate::build::BuildEvent {
    const NAME: &'static str = "builds";

    fn snapshot_key(&self) -> Option<String> {
        Some(self.entry.to_string())
    }
}

impl FeedEvent for crate::manifest::Rebuild {
    const NAME: &'static str = "rebuilds";

    fn snapshot_key(&self) -> Option<String> {
        Some(self.entry.to_string())
    }
}

impl FeedEvent for crate::event::DevEvent {
    const NAME: &'static str = "dev-events";

    fn snapshot_key(&self) -> Option<String> {
        match self {
            Self::Rebuild(_) | Self::Error(_) => Some("build".to_owned()),
            Self::Swap(_) | Self::Run(_) => None,
        }
    }
}
