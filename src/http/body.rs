//! Request bodies: collected within limits, then parsed as one JSON object.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, UPGRADE};
use actix_web::web::{Bytes, Payload};
use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json;
use tokio::time::timeout;

use crate::config::Limits;
use crate::services::Settings;

/// Collects a body.
///
/// # Errors
/// 413 for a body above the limit, without reading it if its length is announced; 408 if it does
/// not arrive in time; 400 if the connection breaks. All are JSON, because v1's Python library
/// parses whatever it receives.
pub(super) async fn collect(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
    max_wait: Duration,
) -> Result<Bytes, ApiError> {
    let refuse =
        |message: &str, status| Err(ApiError::new(Code::BadRequest, message).with_status(status));
    if announced(request).is_some_and(|length| length > limits.body_bytes) {
        return Err(limits.body_too_long());
    }
    // What follows the head of an upgrade request has no end and is not a body.
    if is_websocket(request.headers()) {
        return Ok(Bytes::new());
    }
    match timeout(max_wait, payload.to_bytes_limited(limits.body_bytes)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Ok(Err(_))) => refuse("the body could not be read", 400),
        Ok(Err(_)) => Err(limits.body_too_long()),
        Err(_) => refuse("the body did not arrive in time", 408),
    }
}

fn announced(request: &HttpRequest) -> Option<usize> {
    let length = request.headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// Returns whether a request asks for a WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.to_ascii_lowercase().contains("websocket"))
}

/// Collects a body and parses it as a JSON object, within the limits.
///
/// # Errors
/// As [`collect`] and [`parse`].
pub(super) async fn read(
    request: &HttpRequest,
    payload: Payload,
    settings: &Settings,
) -> Result<Map<String, Json>, ApiError> {
    let limits = &settings.limits;
    let bytes = collect(request, payload, limits, settings.body_timeout).await?;
    parse(&bytes, limits)
}

/// Parses the first JSON value of a body; an empty body is an empty object.
///
/// # Errors
/// 107 for a body that is not an object, or is nested too deeply.
pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Map<String, Json>, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    limits.check_json(body)?;
    // The parser's message gives the place of the error and repeats nothing of the body.
    json::leading_object(body).map_err(|error| {
        let message = format!("the body is not a JSON object: {}", place(&error));
        ApiError::new(Code::BadRequest, message)
    })
}

fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it is something else",
        _ => "it cannot be read",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        body_bytes: 1 << 20,
        json_depth: 100,
        json_values: 100,
        list_items: 100,
        page_records: 100,
        predicate_nodes: 100,
        predicate_depth: 100,
        query_includes: 1,
        query_sorts: 1,
        user_devices: 1,
        device_subscriptions: 1,
        subscription_bytes: 1,
        included_bytes: 1,
        page_bytes: 1,
        unsent_bytes: 1,
    };

    #[test]
    fn only_the_first_value_of_a_body_counts() {
        let parse = |body: &[u8]| parse(body, &LIMITS).map(|body| body.len());
        assert_eq!(parse(b" \n"), Ok(0));
        assert_eq!(parse(b"{\"a\":1} trailing"), Ok(1));
    }

    #[test]
    fn what_is_no_object_is_refused_and_not_repeated() {
        let deep = format!("{}1", "{\"a\":".repeat(500));
        let bodies = [
            "{\"a\":",
            "[1]",
            "\"sesame\"",
            "null",
            "sesame",
            "{sesame",
            &deep,
        ];
        for body in bodies {
            let error = parse(body.as_bytes(), &LIMITS).unwrap_err();
            assert_eq!((error.code, error.status()), (Code::BadRequest, 400));
            assert!(!error.message.contains("sesame"), "{}", error.message);
        }
        assert!(parse(b"\xff", &LIMITS).is_err());
    }
}
