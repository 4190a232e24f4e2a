//! `/_/health`: what every part says of itself.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use skytrail_schema::caller::KeyKind;

use super::error;
use super::shown::KEY;
use crate::parts::States;
use crate::services::Services;

/// Answers with the states for whoever shows the master key: names of record types are in them.
/// Everyone else hears only that the server lives.
pub async fn health(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let key = KEY.in_head(&request);
    let kind = key.and_then(|key| services.kind_of_key(&key));
    if kind != Some(KeyKind::Master) {
        return error::respond(HttpResponse::Ok(), &json!({"status": "OK"}));
    }
    let states = services.health.states().await;
    let reasons = states.troubles();
    let status = if states.are_all_alive() && reasons.is_empty() {
        "OK"
    } else {
        "degraded"
    };
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
