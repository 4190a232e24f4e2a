//! Refusals that a page can read.
//!
//! A browser shows a page neither the status nor the body of the answer that refuses a WebSocket or
//! an `EventSource`. So a page is told as it would be told at the end of a connection: its request
//! is accepted, and an `error` is all that follows. Refusals that pass keep their status, because a
//! page that tries again after a while, as after a lost connection, does the right thing.

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use skytrail_schema::code::ApiError;

use crate::http::sse::{self, Frame};
use crate::http::{error, origins};

/// Returns the text that ends a connection.
pub fn error_frame(error: &ApiError) -> String {
    json!({"event": "error", "error": error.to_wire()}).to_string()
}

/// Returns the event that ends a stream.
pub(super) fn event(error: &ApiError) -> Frame {
    Frame::new(None, "error", &error_frame(error))
}

/// Returns whether a page asks for a socket that it will never get.
pub(super) fn is_hidden_from_socket(refused: &ApiError, request: &HttpRequest) -> bool {
    is_final(refused) && origins::is_page_socket(request.headers())
}

/// Builds the answer to a refused request for a stream.
pub(super) fn answer(refused: &ApiError, request: &HttpRequest) -> HttpResponse {
    let is_page = request.method() == Method::GET && origins::is_event_source(request.headers());
    if !is_page || !is_final(refused) {
        return error::failure(refused);
    }
    let mut response = sse::refusal(&event(refused));
    response.extensions_mut().insert(refused.code);
    response
}

/// Returns whether the same request would be refused again.
fn is_final(refused: &ApiError) -> bool {
    (400..500).contains(&refused.status()) && refused.status() != 429
}
