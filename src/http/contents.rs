//! What a request held, for whoever looks for a mistake: one line at `debug`, secrets masked.

use actix_web::HttpRequest;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::mask::Masker;
use crate::services::Services;

/// Logs a request's head and body. Costs nothing when nobody listens.
pub(super) fn log(
    services: &Services,
    request: &HttpRequest,
    request_id: Uuid,
    body: &Map<String, Json>,
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let shown = |name: &str| {
        let header = request.headers().get(name);
        let header = header.and_then(|value| value.to_str().ok());
        header.unwrap_or_default()
    };
    let member = |name: &str| body.get(name).and_then(Json::as_str).unwrap_or_default();
    let masker = Masker::new([
        services.keys.master.reveal(),
        services.keys.api.reveal(),
        shown("x-skygear-api-key"),
        shown("x-skygear-access-token"),
        member("api_key"),
        member("access_token"),
    ]);
    let mut text = Json::Object(masker.members(body)).to_string();
    if let Some(limit) = services.settings.log_body_bytes {
        truncate(&mut text, limit);
    }
    let (method, path) = (request.method(), masker.text(request.path()));
    let query = masker.query(request.query_string());
    let headers = masker.headers(request.headers());
    tracing::debug!(%request_id, %method, path, query, headers, body = text, "request came");
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
