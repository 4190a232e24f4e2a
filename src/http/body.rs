//! The body of a request: collected within limits, then one JSON object.

use std::time::Duration;

use actix_web::web::{Bytes, Payload};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};
use tokio::time::timeout;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Collects a body.
///
/// # Errors
/// 413 above the limit, 408 when it does not come in time, 400 when the connection breaks: JSON in
/// every case, since v1's Python library parses whatever it gets.
pub(super) async fn collect(payload: Payload, max_bytes: usize) -> Result<Bytes, ApiError> {
    let refuse =
        |message: &str, status| Err(ApiError::new(Code::BadRequest, message).with_status(status));
    match timeout(BODY_TIMEOUT, payload.to_bytes_limited(max_bytes)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Ok(Err(_))) => refuse("the body could not be read", 400),
        Ok(Err(_)) => refuse("the body is too large", 413),
        Err(_) => refuse("the body did not come in time", 408),
    }
}

/// Parses the first JSON value of a body; an empty body is an empty object. What is no object,
/// or nested too deeply, is `None`.
pub(super) fn parse(body: &[u8]) -> Option<Map<String, Json>> {
    if body.trim_ascii().is_empty() {
        return Some(Map::new());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    Map::deserialize(&mut reader).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_value_of_a_body_counts() {
        assert_eq!(parse(b" \n").map(|body| body.len()), Some(0));
        assert_eq!(parse(b"{\"a\":1} trailing").map(|body| body.len()), Some(1));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = format!("{}1", "{\"a\":".repeat(500));
        for body in ["{\"a\":", "[1]", "1", "null", deep.as_str()] {
            assert_eq!(parse(body.as_bytes()), None, "{body}");
        }
        assert_eq!(parse(b"\xff"), None);
    }
}
