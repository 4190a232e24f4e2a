//! What goes out to a worker: written, numbered and measured.

use tokio::time::Instant;

use crate::plugin::errors;
use crate::plugin::protocol::{CloseCode, ServerFrame, ServerMessage};
use crate::plugin::transport::{Outgoing, OutgoingSender};
use skytrail_schema::code::ApiError;

/// The outgoing half of a session.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: OutgoingSender,
    /// The last number given.
    seq: u64,
    /// The largest message that the worker takes.
    pub(super) max_message: usize,
    /// When something was last sent.
    pub(super) last_sent: Instant,
    /// When the transport was last seen to write, and how much it had written.
    progress: (Instant, u64),
}

impl Outbox {
    pub(super) fn new(sender: OutgoingSender, max_message: usize) -> Self {
        let now = Instant::now();
        Self {
            sender,
            seq: 0,
            max_message,
            last_sent: now,
            progress: (now, 0),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// 107 with HTTP 413 when the worker would not take it; nothing was sent then.
    pub(super) fn send(&mut self, message: &ServerMessage<'_>, ack: u64) -> Result<(), ApiError> {
        let seq = message.has_seq().then_some(self.seq + 1);
        let frame = ServerFrame {
            message,
            seq,
            ack: (ack > 0).then_some(ack),
        };
        let text = serde_json::to_string(&frame)
            .map_err(|error| ApiError::unexpected(format!("cannot write a message: {error}")))?;
        if text.len() > self.max_message {
            return Err(errors::too_large(text.len(), self.max_message));
        }
        self.seq = seq.unwrap_or(self.seq);
        self.last_sent = Instant::now();
        self.sender.push(Outgoing::Text(text));
        Ok(())
    }

    /// Says goodbye.
    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        self.sender.push(Outgoing::Close {
            code: code.number(),
            reason: reason.to_owned(),
        });
    }

    /// Returns how many bytes wait to be written.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.sender.waiting_bytes()
    }

    /// Returns since when messages wait and none was written, as far as this was called often.
    pub(super) fn stalled_since(&mut self, now: Instant) -> Option<Instant> {
        let written = self.sender.num_written();
        if written != self.progress.1 || self.waiting_bytes() == 0 {
            self.progress = (now, written);
            return None;
        }
        Some(self.progress.0)
    }
}
