//! `/log`: following the log, and working for a consumer of it, over a WebSocket.
//!
//! The first message chooses: `follow` (`follow`) or `consume` (`consume`). Every message on the
//! socket is a JSON object with a `type`. A client that breaks these rules receives an `error`, and
//! the socket is closed.

mod consume;
mod follow;
mod line;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};

use super::upgrade::upgrade;
use crate::services::Services;
use line::{Line, Received};

/// The size limit of a message.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Upgrades a request whose key has been checked.
///
/// # Errors
/// Not a WebSocket upgrade.
pub fn open(
    services: Arc<Services>,
    request: &HttpRequest,
    body: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let (response, session, stream) = upgrade(request, body, &[], MAX_MESSAGE_BYTES)?;
    let line = Line::new(session, stream, services.stopping.clone());
    actix_web::rt::spawn(serve(services, line));
    Ok(response)
}

async fn serve(services: Arc<Services>, mut line: Line) {
    let _counted = services.followers.enter();
    let served = match line.heard().await {
        Received::Message(message) => begin(&services, &mut line, &message).await,
        Received::Ended => Ok(()),
        Received::Unreadable(refused) => Err(refused),
    };
    line.end(served.err()).await;
}

/// Does what the first message asks for, until the socket ends.
async fn begin(
    services: &Arc<Services>,
    line: &mut Line,
    message: &Map<String, Json>,
) -> Result<(), ApiError> {
    match kind_of(message) {
        "follow" => follow::run(services, line, message).await,
        "consume" => consume::run(services, line, message).await,
        other => Err(unknown(other, "follow or consume")),
    }
}

fn kind_of(message: &Map<String, Json>) -> &str {
    message
        .get("type")
        .and_then(Json::as_str)
        .unwrap_or_default()
}

fn unknown(kind: &str, expected: &str) -> ApiError {
    let message = format!("type {kind:?} makes no sense here, expected {expected}");
    ApiError::new(Code::InvalidArgument, message)
}
