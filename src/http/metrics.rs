//! `/_/metrics`: figures for Prometheus.

use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};

use super::error;
use crate::metrics;
use crate::services::Services;

/// Answers with the figures if the master key or `METRICS_KEY` is shown, as `X-Skygear-API-Key` or,
/// as scrapers do, as a bearer token.
pub(super) async fn metrics(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let shown = shown(request.headers());
    let own = services.settings.metrics_key.as_ref();
    let is_allowed = |shown| {
        own.is_some_and(|own| own.matches(shown))
            || services.kind_of_key(shown) == Some(KeyKind::Master)
    };
    if !shown.is_some_and(is_allowed) {
        let message = "the master key or METRICS_KEY is needed";
        return error::failure(&ApiError::new(Code::AccessKeyNotAccepted, message));
    }
    let states = services.states().await;
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, metrics::CONTENT_TYPE))
        .body(metrics::render(&states, &services.door.actions()))
}

fn shown(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(AUTHORIZATION.as_str()).and_then(|it| it.strip_prefix("Bearer "));
    let key = text("x-skygear-api-key");
    let is_there = |shown: &&str| !shown.is_empty();
    key.filter(is_there).or(bearer.filter(is_there))
}
