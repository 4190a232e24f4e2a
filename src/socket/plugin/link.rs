//! Passes messages between a worker's socket and the actor of its connection.

use std::time::Duration;

use actix::Addr;
use actix_ws::{AggregatedMessageStream, CloseCode, CloseReason, Session};
use skytrail_actors::plugin::PluginConnection;
use skytrail_actors::plugin::messages::{FromTransport, TransportEvent};
use skytrail_actors::plugin::protocol::{self, FrameError};
use skytrail_actors::plugin::transport::{Outgoing, OutgoingReceiver};

use crate::socket::incoming::{Ending, Incoming, Message};
use crate::socket::upgrade::Fault;

/// How long a worker may take to answer the server's goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Passes messages until either side is gone, then tells the actor. A worker that reads nothing,
/// not even the goodbye, is abandoned.
pub(super) async fn run(
    session: Session,
    stream: AggregatedMessageStream,
    outgoing: OutgoingReceiver,
    actor: Addr<PluginConnection>,
) {
    let goodbye = outgoing.goodbye();
    let reading = read(Incoming::new(stream, session.clone()), &actor);
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
    // The actor may have stopped before; then it knows already.
    let _ = actor.send(FromTransport(end)).await;
}

/// Reads messages, and waits for the actor after each one, so that a flood is slowed to the actor's
/// pace. Returns how the connection ended.
async fn read(mut incoming: Incoming, actor: &Addr<PluginConnection>) -> TransportEvent {
    loop {
        let event = match incoming.next().await {
            Ok(Message::Text(text)) => TransportEvent::Frame(protocol::parse(&text)),
            Ok(Message::Binary(_)) => TransportEvent::Binary,
            Err(Ending::Closed(reason)) => return farewell(reason.as_ref()),
            Err(Ending::Broken(fault)) => {
                let _ = actor.send(FromTransport(misdeed(fault))).await;
                wait_for_end().await;
                return TransportEvent::Closed;
            }
            Err(Ending::Gone) => return TransportEvent::Closed,
        };
        if actor.send(FromTransport(event)).await.is_err() {
            return TransportEvent::Closed;
        }
    }
}

/// Only a worker that is finished sends this code; any other may come from a proxy, and the worker
/// reconnects.
fn farewell(reason: Option<&CloseReason>) -> TransportEvent {
    match reason {
        Some(reason) if reason.code == CloseCode::Normal => TransportEvent::Goodbye,
        _ => TransportEvent::Closed,
    }
}

/// Waits for the writer, which says goodbye, to end the connection.
async fn wait_for_end() {
    tokio::time::sleep(FAREWELL).await;
}

/// Converts what a worker has done wrong to an event for the actor.
fn misdeed(fault: Fault) -> TransportEvent {
    let broken = |text: String| TransportEvent::Frame(Err(FrameError::Broken(text)));
    match fault {
        Fault::TooLarge | Fault::TooManyFrames => TransportEvent::TooLarge,
        Fault::NotUtf8 => broken("not UTF-8".to_owned()),
        Fault::Protocol(text) => broken(text),
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

#[cfg(test)]
mod tests {
    use actix_ws::ProtocolError;

    use super::*;

    #[test]
    fn a_broken_frame_is_not_said_to_be_bad_json() {
        let fault = Fault::of(&ProtocolError::BadOpCode).unwrap();
        let TransportEvent::Frame(Err(error)) = misdeed(fault) else {
            panic!("expected a broken frame");
        };
        assert_eq!(error.to_string(), ProtocolError::BadOpCode.to_string());
    }
}
