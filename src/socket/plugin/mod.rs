//! `/_/plugin`: where plugin workers connect; `/_/sandbox/_/plugin`: where workers of plugins in a
//! sandbox connect.
//!
//! `refusal` decides who may connect, `link` passes messages between the socket and the
//! connection's actor. After the upgrade the actor decides everything.

mod link;
mod refusal;

use std::sync::Arc;

use actix_web::http::header::{HeaderName, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use skytrail_actors::plugin::protocol::SUBPROTOCOL;
use skytrail_actors::plugin::{ApiCaller, PluginBroker, TransportKind, transport};

use super::upgrade::upgrade;
use crate::http::error;
use crate::services::Services;

/// Where plugins connect.
pub const PATH: &str = "/_/plugin";
/// Where plugins in a sandbox connect: a worker whose server address ends with `/_/sandbox` arrives
/// here.
pub const SANDBOX_PATH: &str = "/_/sandbox/_/plugin";
/// After how many seconds a worker should try again if there is no room for it.
const RETRY_AFTER_SECONDS: &str = "5";
const API_KEY: HeaderName = HeaderName::from_static("x-skygear-api-key");

/// What the endpoint needs.
#[derive(Clone)]
pub struct PluginDoor {
    /// Its path.
    pub path: &'static str,
    /// Receives the connections.
    pub broker: PluginBroker,
    /// Runs the actions that workers call.
    pub api: Arc<dyn ApiCaller>,
    /// Knows the keys.
    pub services: Arc<Services>,
}

/// Adds the endpoint.
pub fn configure(door: &PluginDoor, config: &mut web::ServiceConfig) {
    let path = door.path;
    let door = web::Data::new(door.clone());
    config.service(
        web::resource(path)
            .app_data(door)
            .route(web::get().to(connect)),
    );
}

/// Accepts a worker's connection.
async fn connect(
    door: web::Data<PluginDoor>,
    request: HttpRequest,
    body: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if let Err(refused) = refusal::check(&request, &door.services) {
        return Ok(error::failure(&refused));
    }
    let Some(permit) = door.broker.admit() else {
        let mut response = error::failure(&refusal::no_place());
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.parse()?);
        return Ok(response);
    };
    let max_message = door.broker.settings().max_message;
    let (response, session, stream) = upgrade(&request, body, &[SUBPROTOCOL], max_message)?;
    let (sender, receiver) = transport::channel(TransportKind::WebSocket);
    let actor = door.broker.connect(sender, Arc::clone(&door.api));
    actix_web::rt::spawn(async move {
        link::run(session, stream, receiver, actor).await;
        drop(permit);
    });
    Ok(response)
}
