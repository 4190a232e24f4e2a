//! `/pubsub` and `/_/pubsub`: v1's frames over the hubs.
//!
//! Everything read before a close frame takes effect before the close is
//! answered, so who publishes and closes at once loses nothing.

use std::time::Duration;

use actix::Addr;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseCode, CloseReason, Session};
use serde::Deserialize;
use serde_json::Value as Json;
use skytrail_actors::hub::{Connect, Connected, Disconnect, Hub, ListenerId};
use skytrail_actors::hub::{Publish, Subscribe, Unsubscribe};
use skytrail_schema::caller::KeyKind;

use super::incoming::Incoming;

/// The largest message.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// How often the server asks whether the client is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How many pings may go unanswered.
const MAX_SILENT_PINGS: u32 = 2;

/// What a client says.
#[derive(Debug, Deserialize)]
pub struct Frame {
    /// `sub`, `unsub` or `pub`.
    #[serde(default)]
    pub action: String,
    /// The channel.
    #[serde(default)]
    pub channel: String,
    /// What is published.
    #[serde(default)]
    pub data: Option<Json>,
}

impl Frame {
    /// Reads a text.
    ///
    /// # Errors
    /// Not JSON, or a member of the wrong type.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

/// What a frame came to.
enum Reaction {
    Nothing,
    Say(&'static str),
    End(String),
}

/// Upgrades a request whose key has been checked.
///
/// # Errors
/// Not a WebSocket upgrade, or the server is stopping.
pub async fn open(
    request: &HttpRequest,
    body: web::Payload,
    hub: Addr<Hub>,
    key: KeyKind,
    is_internal: bool,
) -> actix_web::Result<HttpResponse> {
    let (response, session, stream) = actix_ws::handle(request, body)?;
    let connected = hub
        .send(Connect)
        .await
        .map_err(actix_web::error::ErrorServiceUnavailable)?;
    let may_publish = !is_internal || key == KeyKind::Master;
    let stream = stream
        .max_frame_size(MAX_MESSAGE_BYTES)
        .aggregate_continuations();
    let stream = stream.max_continuation_size(MAX_MESSAGE_BYTES);
    let incoming = Incoming::new(stream);
    actix_web::rt::spawn(serve(session, incoming, hub, connected, may_publish));
    Ok(response)
}

async fn serve(
    mut session: Session,
    mut incoming: Incoming,
    hub: Addr<Hub>,
    connected: Connected,
    may_publish: bool,
) {
    let Connected { id, mut frames } = connected;
    let mut pings = tokio::time::interval(PING_EVERY);
    // Not at once: some clients take the first frame after their close for its answer.
    pings.reset();
    let mut silent_pings = 0;
    // Who cannot be written to any more may still have sent something.
    let mut is_gone = false;
    let reason = loop {
        tokio::select! {
            message = incoming.next() => {
                silent_pings = 0;
                let text = match message {
                    Some(Ok(AggregatedMessage::Text(text))) => text.to_string(),
                    Some(Ok(AggregatedMessage::Binary(bytes))) => String::from_utf8_lossy(&bytes).into(),
                    Some(Ok(AggregatedMessage::Ping(bytes))) => {
                        is_gone |= session.pong(&bytes).await.is_err();
                        continue;
                    }
                    Some(Ok(AggregatedMessage::Pong(_))) => continue,
                    Some(Ok(AggregatedMessage::Close(reason))) => break reason,
                    Some(Err(_)) | None => break None,
                };
                match react(&hub, id, &text, may_publish).await {
                    Reaction::Nothing => {}
                    Reaction::Say(text) => is_gone |= session.text(text).await.is_err(),
                    Reaction::End(text) => { let _ = session.text(text).await; break None; }
                }
            }
            frame = frames.recv(), if !is_gone => match frame {
                Some(frame) => is_gone = session.text(&*frame).await.is_err(),
                None => break Some(CloseReason {
                    code: CloseCode::Policy,
                    description: Some("too slow: messages were waiting".to_owned()),
                }),
            },
            _ = pings.tick() => {
                silent_pings += 1;
                if silent_pings > MAX_SILENT_PINGS { break None; }
                is_gone |= session.ping(b"").await.is_err();
            }
        }
    };
    let _ = hub.send(Disconnect(id)).await;
    let _ = session.close(reason).await;
}

async fn react(hub: &Addr<Hub>, id: ListenerId, text: &str, may_publish: bool) -> Reaction {
    let frame = match Frame::parse(text) {
        Ok(frame) => frame,
        Err(error) => return Reaction::End(format!("Error: {error} \nClosing Connection")),
    };
    let end = |text: &str| Reaction::End(format!("Error: {text}. Closing Connection"));
    if frame.channel.is_empty() {
        return end("channel should not be empty");
    }
    let channel = frame.channel;
    let done = match (frame.action.as_str(), frame.data) {
        ("sub", _) => hub.send(Subscribe { id, channel }).await,
        ("unsub", _) => hub.send(Unsubscribe { id, channel }).await,
        ("pub", None | Some(Json::Null)) => return end("missing data to publish"),
        ("pub", Some(_)) if !may_publish => return end("publishing needs the master key here"),
        ("pub", Some(data)) => {
            hub.send(Publish {
                channels: vec![channel],
                data,
            })
            .await
        }
        _ => return Reaction::Say("Unknow action"),
    };
    done.map_or_else(|_| end("the server is stopping"), |()| Reaction::Nothing)
}
