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

/// Moves messages until either side is gone, and tells the actor.
pub(super) async fn run(
    session: Session,
    stream: AggregatedMessageStream,
    outgoing: OutgoingReceiver,
    actor: Addr<PluginConnection>,
) {
    let reading = read(Incoming::new(stream), session.clone(), &actor);
    let writing = write(session, outgoing);
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut reading => {}
        () = &mut writing => {
            // What the worker has sent is still read, so that the goodbye is not cut off.
            let _ = tokio::time::timeout(FAREWELL, &mut reading).await;
        }
    }
    // The actor may be gone before; then it knows.
    let _ = actor.send(FromTransport(TransportEvent::Closed)).await;
}

/// Reads; waits for the actor after each message, so that a flood is slowed to its pace.
async fn read(mut incoming: Incoming, mut session: Session, actor: &Addr<PluginConnection>) {
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
            Ok(AggregatedMessage::Close(_)) => return,
            Err(error) => match misdeed(&error) {
                Some(event) => {
                    let _ = actor.send(FromTransport(event)).await;
                    return wait_for_end().await;
                }
                None => return,
            },
        };
        if actor.send(FromTransport(event)).await.is_err() {
            return;
        }
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
