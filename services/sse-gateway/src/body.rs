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
    from_text(text)
        .map_err(|why| Failure::bad_request(format!("the body is not the JSON that is expected here: {why}")))
}

/// # Errors
/// What is wrong, with the key where it is.
fn from_text<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    // An object first: otherwise a list would do as one without its keys.
    let object: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let is_whole = error.path().iter().next().is_none();
        let key = error.path().to_string();
        let why = error.into_inner();
        if is_whole { why.to_string() } else { format!("{key}: {why}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Wanted {
        file: Option<String>,
        timeout_ms: Option<u64>,
        size: Vec<u16>,
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key() {
        for (text, start) in [
            (r#"{"timeoutMs":-1}"#, "timeoutMs: "),
            (r#"{"timeoutMs":1.5}"#, "timeoutMs: "),
            (r#"{"file":5}"#, "file: "),
            (r#"{"size":[1,-1]}"#, "size[1]: "),
            ("[]", "invalid type: sequence"),
            (r#"{"file":"#, "EOF"),
        ] {
            let why = from_text::<Wanted>(text.as_bytes()).unwrap_err();
            assert!(why.starts_with(start), "{text}: {why}");
        }
        let well: Wanted = from_text(br#"{"file":"a","timeoutMs":1,"size":[2],"other":null}"#).unwrap();
        assert_eq!((well.file.as_deref(), well.timeout_ms, &well.size[..]), (Some("a"), Some(1), &[2][..]));
    }
}
