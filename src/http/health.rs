//! `/_/health`: the state of every part.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use skytrail_schema::caller::KeyKind;

use super::checks;
use super::error;
use super::shown::KEY;
use crate::parts::States;
use crate::services::Services;

/// Answers with the states if the master key is shown, because they contain names of record types.
///
/// Anyone else only learns that the server is alive. Whoever shows a key that is none is told so:
/// they would take it for one that counts.
pub async fn health(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let key = KEY.in_head(&request);
    match checks::kind_of_key(&services, key.as_deref()) {
        Ok(KeyKind::Master) => {}
        Ok(_) => return error::respond(HttpResponse::Ok(), &json!({"status": "OK"})),
        Err(refused) => return error::failure(&refused),
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
