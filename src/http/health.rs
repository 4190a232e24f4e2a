//! `/_/health`: what every part says of itself.

use actix_web::{HttpRequest, HttpResponse, web};
use async_trait::async_trait;
use serde_json::{Value as Json, json};

use super::error;
use crate::services::Services;

/// Gathers the parts' states.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Returns the states by part.
    async fn states(&self) -> Json;
}

/// Answers with the states for whoever shows the master key: names of record types are in them.
/// Everyone else hears only that the server lives.
pub async fn health(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let shown = request.headers().get("x-skygear-api-key");
    let shown = shown.and_then(|key| key.to_str().ok()).unwrap_or_default();
    if services.keys.master.matches(shown) {
        error::respond(HttpResponse::Ok(), &services.health.states().await)
    } else {
        error::respond(HttpResponse::Ok(), &json!({"status": "OK"}))
    }
}
