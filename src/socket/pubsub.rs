//! `/pubsub` and `/_/pubsub`: v1's frames over the hubs.
//!
//! Everything read before a close frame takes effect before the close is answered, so a client that
//! publishes and closes at once loses nothing.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix::prelude::SendError;
use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Session};
use serde::Deserialize;
use serde_json::value::RawValue;
use skytrail_actors::hub::{Connect, Connected, Disconnect, Hub, ListenerId};
use skytrail_actors::hub::{Publish, Subscribe, Unsubscribe};
use skytrail_schema::json;
use tokio::sync::oneshot::Receiver;
use tokio_util::sync::CancellationToken;

use super::incoming::{Ending, Incoming, Message};
use super::outgoing::Outgoing;
use super::seats::{Seat, Seats};
use super::upgrade::upgrade;

/// How often the server pings the client.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The publisher of a message up to this size waits for the hub only while its mailbox is full:
/// even a full mailbox of such messages does not strain the memory.
const MAX_UNAWAITED_BYTES: usize = 16 << 10;

/// Limits for sockets.
#[derive(Clone, Debug)]
pub struct SocketLimits {
    /// How many sockets there can be.
    pub seats: Arc<Seats>,
    /// The longest name of a channel.
    pub max_channel_bytes: usize,
    /// The largest message.
    pub max_message_bytes: usize,
}

/// One of the hubs, as a client sees it.
#[derive(Clone, Debug)]
pub struct HubDoor {
    /// The hub.
    pub hub: Addr<Hub>,
    /// Limits for sockets.
    pub limits: SocketLimits,
    /// Whether this client may publish there.
    pub may_publish: bool,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
}

/// A client's message. A null member counts as missing.
#[derive(Debug, Deserialize)]
pub struct Frame {
    /// `sub`, `unsub` or `pub`.
    #[serde(default)]
    pub action: Option<String>,
    /// The channel.
    #[serde(default)]
    pub channel: Option<String>,
    /// The published data, exactly as received.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
}

impl Frame {
    /// Parses a message.
    ///
    /// # Errors
    /// Not a JSON object, or a member of the wrong type.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        // A list would be read as the members in order.
        if text.trim_ascii_start().starts_with('[') {
            return Err(serde::de::Error::custom("expected an object"));
        }
        json::typed(text)
    }
}

/// The result of a client's message.
enum Reaction {
    Nothing,
    Say(&'static str),
    End(String),
}

/// How a socket ends: a last text if there is one, and the reason in the close frame.
struct SocketClose {
    text: Option<String>,
    reason: Option<CloseReason>,
}

/// Upgrades a request whose key has been checked.
///
/// # Errors
/// Not a WebSocket upgrade, or the server is stopping.
pub async fn open(
    request: &HttpRequest,
    body: web::Payload,
    seat: Seat,
    door: HubDoor,
) -> actix_web::Result<HttpResponse> {
    let max = door.limits.max_message_bytes;
    let (response, session, stream) = upgrade(request, body, &[], max)?;
    let connected = door.hub.send(Connect).await;
    let connected = connected.map_err(actix_web::error::ErrorServiceUnavailable)?;
    let incoming = Incoming::new(stream, session.clone()).pinging(PING_EVERY);
    let Connected {
        id,
        frames,
        dropped,
    } = connected;
    let socket = Socket { session, door, id };
    actix_web::rt::spawn(async move {
        socket.serve(incoming, dropped).await;
        drop(seat);
    });
    Ok(response.map_body(|_, said| BoxBody::new(Outgoing::new(frames, said))))
}

/// A socket that is being served.
struct Socket {
    session: Session,
    door: HubDoor,
    id: ListenerId,
}

impl Socket {
    async fn serve(mut self, mut incoming: Incoming, mut dropped: Receiver<()>) {
        let ending = loop {
            tokio::select! {
                message = incoming.next() => {
                    let taken = incoming.meanwhile(self.take(message)).await;
                    if let Some(ending) = taken { break ending; }
                }
                () = self.door.stopping.cancelled() => break SocketClose::because(CloseCode::Away, "the server is stopping"),
                _ = &mut dropped => break SocketClose::because(CloseCode::Policy, "too slow: messages were waiting"),
            }
        };
        // Everything that it published before has been delivered when this is answered.
        let _ = self.door.hub.send(Disconnect(self.id)).await;
        if let Some(text) = ending.text {
            let _ = self.session.text(text).await;
        }
        let _ = self.session.close(ending.reason).await;
    }

    /// Handles what the client sent; returns how the socket ends, if it does. A client that can no
    /// longer be written to may still have sent something.
    async fn take(&mut self, message: Result<Message, Ending>) -> Option<SocketClose> {
        let message = match message {
            Ok(message) => message,
            Err(ending) => {
                let reason = ending.answer(self.door.limits.max_message_bytes);
                return Some(SocketClose { text: None, reason });
            }
        };
        match self.react(&message.text()).await {
            Reaction::Nothing => None,
            Reaction::Say(text) => {
                let _ = self.session.text(text).await;
                None
            }
            Reaction::End(text) => Some(SocketClose {
                text: Some(text),
                reason: None,
            }),
        }
    }

    async fn react(&self, text: &str) -> Reaction {
        let end = |text: &str| Reaction::End(format!("Error: {text}. Closing Connection"));
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(error) => return Reaction::End(format!("Error: {error} \nClosing Connection")),
        };
        let channel = frame.channel.unwrap_or_default();
        let max = self.door.limits.max_channel_bytes;
        if channel.is_empty() {
            return end("channel should not be empty");
        } else if channel.len() > max {
            return end(&format!(
                "the name of a channel can have at most {max} bytes"
            ));
        }
        let (hub, id) = (&self.door.hub, self.id);
        let action = frame.action.unwrap_or_default();
        let done = match (action.as_str(), frame.data) {
            ("sub", _) => match hub.send(Subscribe { id, channel }).await {
                Ok(Err(refused)) => return end(&refused.to_string()),
                heard => heard.map(drop),
            },
            ("unsub", _) => hub.send(Unsubscribe { id, channel }).await,
            ("pub", None) => return end("missing data to publish"),
            ("pub", Some(_)) if !self.door.may_publish => {
                return end("publishing needs the master key here");
            }
            ("pub", Some(data)) => publish(hub, channel, data).await,
            _ => return Reaction::Say("Unknow action"),
        };
        done.map_or_else(|_| end("the server is stopping"), |()| Reaction::Nothing)
    }
}

/// Publishes. The hub handles one socket's messages in order, whether this waits or not.
async fn publish(
    hub: &Addr<Hub>,
    channel: String,
    data: Box<RawValue>,
) -> Result<(), actix::MailboxError> {
    let can_go_on = data.get().len() <= MAX_UNAWAITED_BYTES;
    let message = Publish {
        channels: vec![channel],
        data,
    };
    if !can_go_on {
        return hub.send(message).await;
    }
    match hub.try_send(message) {
        Ok(()) => Ok(()),
        Err(SendError::Full(message)) => hub.send(message).await,
        Err(SendError::Closed(_)) => Err(actix::MailboxError::Closed),
    }
}

impl SocketClose {
    fn because(code: CloseCode, why: &str) -> Self {
        let description = Some(why.to_owned());
        Self {
            text: None,
            reason: Some(CloseReason { code, description }),
        }
    }
}
