//! The only place where an error or a result becomes a response.

use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;

use super::reply::Reply;

/// Builds the answer of an action that succeeded.
pub fn success(reply: Reply) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .body(reply.into_bytes())
}

/// Builds the answer of an action that failed.
pub fn failure(error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(status);
    if let Some(millis) = error.info.get("retry_after_ms").and_then(Json::as_u64) {
        builder.insert_header((RETRY_AFTER, millis.div_ceil(1000).to_string()));
    }
    let mut response = respond(builder, &json!({"error": error.to_wire()}));
    response.extensions_mut().insert(error.code);
    response
}

/// Builds an answer from any JSON.
pub(super) fn respond(mut builder: HttpResponseBuilder, body: &Json) -> HttpResponse {
    let mut bytes = Vec::with_capacity(512);
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut bytes, body);
    bytes.push(b'\n');
    builder.insert_header(ContentType::json()).body(bytes)
}
