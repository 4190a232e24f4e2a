//! `/_/health`: what every part says of itself.

use actix_web::{HttpResponse, web};
use async_trait::async_trait;
use serde_json::Value as Json;

use super::error;
use crate::services::Services;

/// Gathers the parts' states.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Returns the states by part.
    async fn states(&self) -> Json;
}

/// Answers with the states; no key is needed, and nothing secret is in them.
pub async fn health(services: web::Data<Services>) -> HttpResponse {
    error::success(&services.health.states().await)
}
