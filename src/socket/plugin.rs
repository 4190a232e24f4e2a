//! `/_/plugin`: where plugins' workers connect to.
//!
//! Who may connect is decided before the upgrade; from then on the socket only
//! carries texts between the worker and its connection's actor. A frame is taken
//! from the socket when the actor has dealt with the one before, so a worker
//! that floods is slowed to the actor's pace.

use std::sync::Arc;

use actix_web::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseReason, ProtocolError, Session};
use futures_util::StreamExt;
use serde_json::json;
use skytrail_actors::plugin::messages::{FromTransport, TransportEvent};
use skytrail_actors::plugin::transport::{self, Outgoing, OutgoingReceiver};
use skytrail_actors::plugin::{
    ApiCaller, ConnectionPermit, PluginBroker, PluginConnection, protocol,
};
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};

use crate::config::Keys;
use crate::http::error;

const API_KEY: HeaderName = HeaderName::from_static("x-skygear-api-key");
/// How long a worker that is refused because the server stops should wait.
const RETRY_SECONDS: &str = "5";

/// What the endpoint needs.
#[derive(Clone)]
pub struct PluginDoor {
    /// Where connections go.
    pub broker: PluginBroker,
    /// Runs the actions that workers ask for.
    pub api: Arc<dyn ApiCaller>,
    /// The keys in use.
    pub keys: Keys,
}

/// Adds the endpoint.
pub fn configure(door: &PluginDoor, config: &mut web::ServiceConfig) {
    let door = door.clone();
    let open = move |request: HttpRequest, body: web::Payload| connect(door.clone(), request, body);
    config.route("/_/plugin", web::get().to(open));
}

async fn connect(
    door: PluginDoor,
    request: HttpRequest,
    body: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let permit = match admit(&door, &request) {
        Ok(permit) => permit,
        Err(refused) => return Ok(*refused),
    };
    let (mut response, session, stream) = actix_ws::handle(&request, body)?;
    let subprotocol = HeaderValue::from_static(protocol::SUBPROTOCOL);
    response
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    let max_message = door.broker.settings().max_message;
    let stream = stream.max_frame_size(max_message).aggregate_continuations();
    let stream = stream.max_continuation_size(max_message);
    let (sender, outgoing) = transport::channel();
    let actor = door.broker.connect(sender, Arc::clone(&door.api));
    actix_web::rt::spawn(write(session, outgoing));
    actix_web::rt::spawn(read(stream, actor, permit));
    Ok(response)
}

/// Refuses who must not connect, with what a worker's author needs to know.
fn admit(door: &PluginDoor, request: &HttpRequest) -> Result<ConnectionPermit, Box<HttpResponse>> {
    let refuse = |error: &ApiError| Box::new(error::failure(error));
    check_key(door, request).map_err(|error| refuse(&error))?;
    if is_foreign_origin(request) {
        let message = "browsers may not connect as plugins";
        return Err(refuse(&ApiError::new(Code::PermissionDenied, message)));
    }
    if !offers_subprotocol(request) {
        let error = ApiError::new(Code::BadRequest, "no known subprotocol offered")
            .with_info("supported", json!([protocol::SUBPROTOCOL]))
            .with_status(StatusCode::UPGRADE_REQUIRED.as_u16());
        return Err(refuse(&error));
    }
    door.broker.admit().ok_or_else(|| {
        let message = "the server is stopping, or has too many workers";
        let mut refused = error::failure(&ApiError::new(Code::PluginUnavailable, message));
        refused
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        Box::new(refused)
    })
}

/// Only the master key opens, and only in the header: a query would end up in logs.
fn check_key(door: &PluginDoor, request: &HttpRequest) -> Result<(), ApiError> {
    let shown = text(request, &API_KEY).unwrap_or_default();
    match door.keys.kind_of(shown) {
        Some(KeyKind::Master) => Ok(()),
        Some(_) => Err(ApiError::new(
            Code::PermissionDenied,
            "plugins connect with the master key",
        )),
        None => {
            let message = "the master key is missing or wrong";
            Err(ApiError::new(Code::AccessKeyNotAccepted, message))
        }
    }
}

/// Whether a browser on another site sent the request; some clients send their target as origin.
fn is_foreign_origin(request: &HttpRequest) -> bool {
    let Some(origin) = text(request, &header::ORIGIN) else {
        return false;
    };
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    text(request, &header::HOST) != Some(host)
}

fn offers_subprotocol(request: &HttpRequest) -> bool {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    offered.any(|name| name.trim() == protocol::SUBPROTOCOL)
}

fn text<'a>(request: &'a HttpRequest, name: &HeaderName) -> Option<&'a str> {
    request
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// Sends what the actor says, until it says goodbye or the socket breaks.
async fn write(mut session: Session, mut outgoing: OutgoingReceiver) {
    while let Some(message) = outgoing.next().await {
        match message {
            Outgoing::Text(text) => {
                if session.text(text).await.is_err() {
                    return;
                }
            }
            Outgoing::Close { code, reason } => {
                let reason = CloseReason {
                    code: code.into(),
                    description: Some(reason),
                };
                let _ = session.close(Some(reason)).await;
                return;
            }
        }
    }
    let _ = session.close(None).await;
}

/// Hands what comes to the actor, one after the other, and then that it ended.
async fn read(
    mut stream: AggregatedMessageStream,
    actor: actix::Addr<PluginConnection>,
    permit: ConnectionPermit,
) {
    while let Some(message) = stream.next().await {
        let event = match message {
            Ok(AggregatedMessage::Text(text)) => TransportEvent::Frame(protocol::parse(&text)),
            Ok(AggregatedMessage::Binary(_)) => TransportEvent::Binary,
            Ok(AggregatedMessage::Ping(_) | AggregatedMessage::Pong(_)) => continue,
            Ok(AggregatedMessage::Close(_)) => break,
            Err(ProtocolError::Overflow) => TransportEvent::TooLarge,
            Err(_) => break,
        };
        if actor.send(FromTransport(event)).await.is_err() {
            break;
        }
    }
    let _ = actor.send(FromTransport(TransportEvent::Closed)).await;
    drop(permit);
}
