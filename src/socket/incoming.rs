//! What a socket's other side has sent, to the last message.
//!
//! The web framework stops reading a connection when nobody takes what was read;
//! what is on its way when such a connection ends, it forgets. So what comes is
//! taken at once, up to a bound, also while an earlier message is dealt with. Beyond
//! the bound a client has to wait for the answer to its close frame, as they do, to
//! be sure that all was heard.

use std::collections::VecDeque;

use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use futures_util::{FutureExt, StreamExt};

/// What is taken ahead.
const MAX_AHEAD_BYTES: usize = 1 << 20;

/// Messages in their order; an error or the end comes after all that was read before.
pub(super) struct Incoming {
    stream: AggregatedMessageStream,
    ahead: VecDeque<AggregatedMessage>,
    num_bytes: usize,
    /// That the stream is over, and the error that is not told yet, if it broke.
    end: Option<Option<ProtocolError>>,
}

impl Incoming {
    pub(super) fn new(stream: AggregatedMessageStream) -> Self {
        Self {
            stream,
            ahead: VecDeque::new(),
            num_bytes: 0,
            end: None,
        }
    }

    /// Waits for the next message; may be given up and called again.
    pub(super) async fn next(&mut self) -> Option<Result<AggregatedMessage, ProtocolError>> {
        loop {
            if let Some(message) = self.ahead.pop_front() {
                self.num_bytes -= size(&message);
                return Some(Ok(message));
            }
            if let Some(error) = &mut self.end {
                return error.take().map(Err);
            }
            self.read().await;
        }
    }

    /// Does something, and takes what comes meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let has_room = self.num_bytes < MAX_AHEAD_BYTES && self.end.is_none();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.read(), if has_room => {}
            }
        }
    }

    /// Waits for something from the stream, and takes what is there.
    async fn read(&mut self) {
        let mut next = self.stream.next().await;
        loop {
            match next {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => return self.break_off(error),
                None => {
                    self.end = Some(None);
                    return;
                }
            }
            if self.num_bytes >= MAX_AHEAD_BYTES {
                return;
            }
            match self.stream.next().now_or_never() {
                Some(more) => next = more,
                None => return,
            }
        }
    }

    /// The stream says that the connection broke before it gives what came just before: who sends
    /// and hangs up at once would not be heard.
    fn break_off(&mut self, error: ProtocolError) {
        while let Some(Some(Ok(message))) = self.stream.next().now_or_never() {
            self.take(message);
        }
        self.end = Some(Some(error));
    }

    fn take(&mut self, message: AggregatedMessage) {
        self.num_bytes += size(&message);
        self.ahead.push_back(message);
    }
}

fn size(message: &AggregatedMessage) -> usize {
    match message {
        AggregatedMessage::Text(text) => text.len(),
        AggregatedMessage::Binary(bytes)
        | AggregatedMessage::Ping(bytes)
        | AggregatedMessage::Pong(bytes) => bytes.len(),
        AggregatedMessage::Close(_) => 0,
    }
}
