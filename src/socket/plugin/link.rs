//! Moving messages between a worker's socket and the actor of its connection.

use std::time::Duration;

use actix::Addr;
use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError, Session,
};
use skytrail_actors::plugin::PluginConnection;
use skytrail_actors::plugin::messages::{FromTransport, TransportEvent};
use skytrail_actors::plugin::protocol::{self, FrameError};
use skytrail_actors::plugin::transport::{Outgoing, OutgoingReceiver};

use crate::socket::incoming::Incoming;

/// How long a worker may take to answer the server's goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Moves messages until either side is gone, and tells the actor. A worker that takes nothing, not
/// even the goodbye, is left.
pub(super) async fn run(
    session: Session,
    stream: AggregatedMessageStream,
    outgoing: OutgoingReceiver,
    actor: Addr<PluginConnection>,
) {
    let goodbye = outgoing.goodbye();
    let reading = read(Incoming::new(stream), session.clone(), &actor);
    let writing = write(session, outgoing);
    let given_up = async {
        goodbye.await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::pin!(reading, writing);
    let end = tokio::select! {
        end = &mut reading => end,
        () = &mut writing => {
            // What the worker has sent is still read, so that the goodbye is not cut off.
            let end = tokio::time::timeout(FAREWELL, &mut reading).await;
            end.unwrap_or(TransportEvent::Closed)
        }
        () = given_up => TransportEvent::Closed,
    };
    // The actor may be gone before; then it knows.
    let _ = actor.send(FromTransport(end)).await;
}

/// Reads; waits for the actor after each message, so that a flood is slowed to its pace. Returns how
/// it ended.
async fn read(
    mut incoming: Incoming,
    mut session: Session,
    actor: &Addr<PluginConnection>,
) -> TransportEvent {
    while let Some(message) = incoming.next().await {
        let event = match message {
            Ok(AggregatedMessage::Text(text)) => TransportEvent::Frame(protocol::parse(&text)),
            Ok(AggregatedMessage::Binary(_)) => TransportEvent::Binary,
            Ok(AggregatedMessage::Ping(bytes)) => {
                // Who cannot be written to any more may still have sent something.
                let _ = session.pong(&bytes).await;
                continue;
            }
            Ok(AggregatedMessage::Pong(_)) => continue,
            Ok(AggregatedMessage::Close(reason)) => return farewell(reason.as_ref()),
            Err(error) => match misdeed(&error) {
                Some(event) => {
                    let _ = actor.send(FromTransport(event)).await;
                    wait_for_end().await;
                    return TransportEvent::Closed;
                }
                None => return TransportEvent::Closed,
            },
        };
        if actor.send(FromTransport(event)).await.is_err() {
            break;
        }
    }
    TransportEvent::Closed
}

/// Only a worker that is done says so; any other code may be a proxy's, and the worker comes back.
fn farewell(reason: Option<&CloseReason>) -> TransportEvent {
    match reason {
        Some(reason) if reason.code == CloseCode::Normal => TransportEvent::Goodbye,
        _ => TransportEvent::Closed,
    }
}

/// Leaves the end to the writer, which says goodbye.
async fn wait_for_end() {
    tokio::time::sleep(FAREWELL).await;
}

/// Returns what a broken stream of frames is to the actor; `None` for a lost connection.
fn misdeed(error: &ProtocolError) -> Option<TransportEvent> {
    let broken = |text: String| TransportEvent::Frame(Err(FrameError::NotJson(text)));
    match error {
        ProtocolError::Overflow => Some(TransportEvent::TooLarge),
        ProtocolError::Io(error) => match error.kind() {
            std::io::ErrorKind::InvalidData => Some(broken("not UTF-8".to_owned())),
            // The aggregating stream has no error of its own for a message above the limit.
            std::io::ErrorKind::Other if error.to_string().contains("continuation size") => {
                Some(TransportEvent::TooLarge)
            }
            _ => None,
        },
        other => Some(broken(other.to_string())),
    }
}

async fn write(mut session: Session, mut outgoing: OutgoingReceiver) {
    while let Some(outgoing) = outgoing.next().await {
        match outgoing {
            Outgoing::Text(text) => {
                if session.text(text).await.is_err() {
                    return;
                }
            }
            Outgoing::Close { code, reason } => {
                let reason = CloseReason {
                    code: CloseCode::from(code),
                    description: Some(reason),
                };
                let _ = session.close(Some(reason)).await;
                return;
            }
        }
    }
}
