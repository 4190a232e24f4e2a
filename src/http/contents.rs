//! The contents of requests for debugging: one line at `debug`, with secrets masked.

use actix_web::HttpRequest;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::mask::Masker;
use crate::services::Services;

/// Logs a request's head and body. Costs nothing when debug logging is off.
pub(super) fn log(
    services: &Services,
    request: &HttpRequest,
    request_id: Uuid,
    body: &Map<String, Json>,
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let member = |name: &str| body.get(name).and_then(Json::as_str).unwrap_or_default();
    let shown = [member("api_key"), member("access_token")];
    let masker = masker(services, request, shown);
    let mut text = Json::Object(masker.members(body)).to_string();
    if let Some(limit) = services.settings.log_body_bytes {
        truncate(&mut text, limit);
    }
    log_masked(request, request_id, &masker, Some(&text));
}

/// Logs the head of a request whose body only concerns a plugin. `shown` are its key and token.
pub(super) fn log_head(
    services: &Services,
    request: &HttpRequest,
    request_id: Uuid,
    shown: [&str; 2],
) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let masker = masker(services, request, shown);
        log_masked(request, request_id, &masker, None);
    }
}

fn masker<'a>(
    services: &'a Services,
    request: &'a HttpRequest,
    [key, token]: [&'a str; 2],
) -> Masker<'a> {
    let field = |name: &str| {
        let header = request.headers().get(name);
        let header = header.and_then(|value| value.to_str().ok());
        header.unwrap_or_default()
    };
    Masker::new([
        services.keys.master.reveal(),
        services.keys.api.reveal(),
        field("x-skygear-api-key"),
        field("x-skygear-access-token"),
        key,
        token,
    ])
}

fn log_masked(request: &HttpRequest, request_id: Uuid, masker: &Masker<'_>, body: Option<&str>) {
    let (method, path) = (request.method(), masker.text(request.path()));
    let query = masker.query(request.query_string());
    let headers = masker.headers(request.headers());
    tracing::debug!(%request_id, %method, path, query, headers, body, "request received");
}

fn truncate(text: &mut String, limit: usize) {
    if text.len() <= limit {
        return;
    }
    let whole = text.len();
    let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text.push_str(&format!("… ({whole} bytes)"));
}

#[cfg(test)]
mod tests {
    use super::truncate;

    #[test]
    fn long_bodies_are_cut_between_characters() {
        let mut text = "aäb".to_owned();
        truncate(&mut text, 2);
        assert_eq!(text, "a… (4 bytes)");
        let mut text = "ab".to_owned();
        truncate(&mut text, 2);
        assert_eq!(text, "ab");
    }
}
