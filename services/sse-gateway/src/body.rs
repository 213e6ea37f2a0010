//! Request bodies: bounded in size and in time.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Payload};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// The longest body that is read, bytes.
pub(crate) const LIMIT: usize = 1024 * 1024;

pub(crate) fn too_large() -> Failure {
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB")
}

/// All of `payload`.
pub(crate) async fn read(payload: Payload, within: Duration) -> Result<Bytes, Failure> {
    let Ok(body) = tokio::time::timeout(within, payload.to_bytes_limited(LIMIT)).await else {
        return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"));
    };
    match body {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(Failure::bad_request(format!("the body cannot be read: {error}"))),
        Err(_) => Err(too_large()),
    }
}

/// All of `payload` as JSON; nothing at all counts as `{}`.
pub(crate) async fn json<T: DeserializeOwned>(payload: Payload, within: Duration) -> Result<T, Failure> {
    let body = read(payload, within).await?;
    let text: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { &body };
    // An object first: otherwise a list would do as one without its keys.
    serde_json::from_slice::<Map<String, Value>>(text)
        .and_then(|object| serde_json::from_value(Value::Object(object)))
        .map_err(|error| {
            Failure::bad_request(format!("the body is not the JSON that is expected here: {error}"))
        })
}
