//! A "no" on its way to a client: a status and `{"error": "…"}`, whoever said it.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use peer::AskError;
use serde_json::{Map, Value};
use wire::message::{Never, Reject};
use wire::run::RunRefusal;
use wire::terminal::TerminalRefusal;

/// The status and the words of a "no".
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
    /// What a program may want to know besides.
    more: Map<String, Value>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), more: Map::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(crate) fn stopping() -> Self {
        Self::unavailable("the server is stopping")
    }

    /// The same, with one more key in its body.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether asking again is of no use: the answer is about what was asked for, not about who was asked.
    pub(crate) fn is_final(&self) -> bool {
        self.status.is_client_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    /// A refusal that a part gave, with its own status and code.
    fn refused(refusal: &impl Reject) -> Self {
        let status = StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, refusal.to_string()).with("code", refusal.code())
    }

    /// What became of a request that was not answered.
    fn fate<R: Reject>(error: &AskError<R>) -> Self {
        let status = match error {
            AskError::Refused(refusal) => return Self::refused(refusal),
            AskError::NotDelivered { .. } => StatusCode::SERVICE_UNAVAILABLE,
            AskError::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<AskError<RunRefusal>> for Failure {
    fn from(error: AskError<RunRefusal>) -> Self {
        let failure = Self::fate(&error);
        match error {
            AskError::Refused(RunRefusal::BuildFailing { failure: build }) => {
                failure.with("diagnostics", serde_json::json!(build.diagnostics))
            }
            _ => failure,
        }
    }
}

impl From<AskError<TerminalRefusal>> for Failure {
    fn from(error: AskError<TerminalRefusal>) -> Self {
        Self::fate(&error)
    }
}

impl From<AskError<Never>> for Failure {
    fn from(error: AskError<Never>) -> Self {
        Self::fate(&error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut body = Map::new();
        body.insert("error".to_owned(), Value::from(self.message.as_str()));
        body.extend(self.more.clone());
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            // Tells our own 401 from one that the control plane gave and that is only passed on.
            response.insert_header(("www-authenticate", OWN_SCHEME));
        }
        response.json(body)
    }
}

/// The authentication scheme that a 401 of the edge names.
pub(crate) const OWN_SCHEME: &str = "X-Midrun-Token";

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;
    use wire::build::{Diagnostic, Failure as BuildFailure};

    async fn seen(failure: impl Into<Failure>) -> (u16, Value) {
        let response = failure.into().error_response();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body()).await.expect("held in memory");
        (status, serde_json::from_slice(&body).expect("an error is JSON"))
    }

    #[actix_web::test]
    async fn a_refusal_keeps_its_status_and_its_code() {
        let (status, body) = seen(AskError::Refused(RunRefusal::NotFound { run: "r1".into() })).await;
        assert_eq!((status, &body["code"]), (404, &Value::from("not-found")));
        assert!(body["error"].as_str().unwrap().contains("there is no run r1"));
        let (status, body) = seen(AskError::Refused(RunRefusal::Stopping)).await;
        assert_eq!((status, &body["code"]), (503, &Value::from("stopping")));
    }

    #[test]
    fn only_a_refusal_of_what_was_asked_for_is_final() {
        let unknown: AskError<RunRefusal> = AskError::Refused(RunRefusal::NotFound { run: "r1".into() });
        assert!(Failure::from(unknown).is_final());
        let stopping: AskError<RunRefusal> = AskError::Refused(RunRefusal::Stopping);
        assert!(!Failure::from(stopping).is_final());
        let away: AskError<Never> =
            AskError::NotDelivered { peer: "get-run", why: "its inbox is full".into() };
        assert!(!Failure::from(away).is_final());
        let late: AskError<Never> =
            AskError::Unknown { peer: "get-run", why: "the time allowed is spent".into() };
        assert!(!Failure::from(late).is_final());
    }

    #[actix_web::test]
    async fn a_failing_build_shows_where() {
        let place = Diagnostic {
            file: Some("src/a.ts".to_owned()),
            line: Some(3),
            column: Some(1),
            message: "boom".to_owned(),
            frame: None,
        };
        let failure = BuildFailure { message: "boom".to_owned(), diagnostics: vec![place] };
        let (status, body) = seen(AskError::Refused(RunRefusal::BuildFailing { failure })).await;
        assert_eq!((status, &body["diagnostics"][0]["line"]), (400, &Value::from(3)));
    }

    #[actix_web::test]
    async fn silence_is_told_from_absence() {
        let away: AskError<Never> =
            AskError::NotDelivered { peer: "list-runs", why: "its inbox is full".into() };
        assert_eq!(seen(away).await.0, 503);
        let silent: AskError<Never> =
            AskError::Unknown { peer: "list-runs", why: "the time allowed is spent".into() };
        assert_eq!(seen(silent).await.0, 504);
    }
}
