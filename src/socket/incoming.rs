//! What a socket's other side has sent, to the last message.

use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use futures_util::{FutureExt, StreamExt};

/// Messages in their order; an error or the end comes after all that was read before.
pub(super) struct Incoming {
    stream: AggregatedMessageStream,
    /// How the stream broke, until that is told.
    broken: Option<ProtocolError>,
}

impl Incoming {
    pub(super) fn new(stream: AggregatedMessageStream) -> Self {
        let broken = None;
        Self { stream, broken }
    }

    /// Waits for the next message; may be given up and called again.
    pub(super) async fn next(&mut self) -> Option<Result<AggregatedMessage, ProtocolError>> {
        if self.broken.is_none() {
            match self.stream.next().await {
                Some(Err(error)) => self.broken = Some(error),
                other => return other,
            }
        }
        // The stream says that the connection broke before it gives what came just before: who
        // sends and hangs up at once would not be heard.
        match self.stream.next().now_or_never() {
            Some(Some(Ok(message))) => Some(Ok(message)),
            _ => self.broken.take().map(Err),
        }
    }
}
