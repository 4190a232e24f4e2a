//! One client's socket: JSON objects in both directions, and timeouts for clients that do not
//! respond.

use std::time::Duration;

use actix_ws::{AggregatedMessageStream, CloseCode, CloseReason, Session};
use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::MAX_MESSAGE_BYTES;
use crate::socket::incoming::{Ending, Incoming};

/// How often the server pings the client.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long a client may leave unread what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module's overview.
pub(super) struct Line {
    session: Session,
    incoming: Incoming,
    stopping: CancellationToken,
    /// What the client has done wrong.
    fault: Option<CloseReason>,
}

/// What was received.
pub(super) enum Received {
    Message(Map<String, Json>),
    Unreadable(ApiError),
    /// The client has disconnected, or the server stops.
    Ended,
}

/// The client does not read what it is sent, or has disconnected.
#[derive(Debug)]
pub(super) struct Gone;

impl Line {
    pub(super) fn new(
        session: Session,
        stream: AggregatedMessageStream,
        stopping: CancellationToken,
    ) -> Self {
        let incoming = Incoming::new(stream, session.clone());
        Self {
            session,
            incoming: incoming.pinging(PING_EVERY),
            stopping,
            fault: None,
        }
    }

    /// Waits for the client's next message. Can be cancelled and called again.
    pub(super) async fn heard(&mut self) -> Received {
        let message = tokio::select! {
            message = self.incoming.next() => message,
            () = self.stopping.cancelled() => return Received::Ended,
        };
        match message {
            Ok(message) => parse(&message.text()),
            Err(ending) => {
                if let Ending::Broken(fault) = ending {
                    self.fault = Some(fault.reason(MAX_MESSAGE_BYTES));
                }
                Received::Ended
            }
        }
    }

    /// Sends a message.
    pub(super) async fn say(&mut self, text: impl Into<String>) -> Result<(), Gone> {
        let said = timeout(SEND_TIMEOUT, self.session.text(text.into())).await;
        said.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    /// Closes the socket, with the reason if there is one.
    pub(super) async fn end(mut self, refused: Option<ApiError>) {
        let code = match &refused {
            Some(_) => CloseCode::Policy,
            None if self.stopping.is_cancelled() => CloseCode::Restart,
            None => CloseCode::Normal,
        };
        if let Some(refused) = refused {
            let text = json!({"type": "error", "error": refused.to_wire()});
            let _ = self.say(text.to_string()).await;
        }
        let reason = self.fault.unwrap_or_else(|| CloseReason::from(code));
        let _ = timeout(SEND_TIMEOUT, self.session.close(Some(reason))).await;
    }
}

fn parse(text: &str) -> Received {
    match json::from_str(text) {
        Ok(Json::Object(message)) => Received::Message(message),
        _ => Received::Unreadable(ApiError::new(
            Code::BadRequest,
            "the message is not a JSON object",
        )),
    }
}
