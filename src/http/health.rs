//! `/_/health`: the state of every part.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use skytrail_schema::caller::KeyKind;

use super::error;
use super::shown::KEY;
use crate::parts::States;
use crate::services::Services;

/// Answers with the states if the master key is shown, because they contain names of record types.
/// Anyone else only learns that the server is alive.
pub async fn health(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let key = KEY.in_head(&request);
    let kind = key.and_then(|key| services.kind_of_key(&key));
    if kind != Some(KeyKind::Master) {
        return error::respond(HttpResponse::Ok(), &json!({"status": "OK"}));
    }
    let states = services.states().await;
    let reasons = states.troubles();
    let status = if reasons.is_empty() { "OK" } else { "degraded" };
    let report = Report {
        status,
        reasons,
        states: &states,
    };
    error::respond(HttpResponse::Ok(), &json!(report))
}

#[derive(Serialize)]
struct Report<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    #[serde(flatten)]
    states: &'a States,
}
