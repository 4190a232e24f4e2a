//! Outgoing messages to a worker: serialized, numbered, measured, and kept until acknowledged.

use tokio::time::Instant;

use super::unacknowledged::Unacknowledged;
use crate::plugin::errors;
use crate::plugin::protocol::{CloseCode, ServerFrame, ServerMessage};
use crate::plugin::settings::TransportKind;
use crate::plugin::transport::{Outgoing, OutgoingSender};
use skytrail_schema::code::ApiError;

/// The outgoing half of a session. It outlives its transports: without one, messages are numbered
/// and kept.
#[derive(Debug)]
pub(super) struct Outbox {
    transport: TransportKind,
    sender: Option<OutgoingSender>,
    /// The last number assigned.
    seq: u64,
    /// Only for workers that can come back.
    unacknowledged: Option<Unacknowledged>,
    /// The highest received number that was acknowledged to the worker.
    acknowledged: u64,
    /// The largest message: the smaller of both sides' limits.
    pub(super) max_message: usize,
    /// The server's own limit.
    own_limit: usize,
    /// When something was last sent.
    pub(super) last_sent: Instant,
    /// When the transport was last seen to make progress, and how much it had written.
    progress: (Instant, u64),
}

impl Outbox {
    pub(super) fn new(sender: OutgoingSender, max_message: usize) -> Self {
        let now = Instant::now();
        Self {
            transport: sender.kind(),
            sender: Some(sender),
            seq: 0,
            unacknowledged: None,
            acknowledged: 0,
            max_message,
            own_limit: max_message,
            last_sent: now,
            progress: (now, 0),
        }
    }

    /// Returns the kind of the transport.
    pub(super) fn transport(&self) -> TransportKind {
        self.transport
    }

    /// Keeps unacknowledged messages from now on.
    pub(super) fn keep(&mut self, unacknowledged: Unacknowledged) {
        self.unacknowledged = Some(unacknowledged);
    }

    /// Returns the refusal of a message that is too large.
    pub(super) fn too_large(&self, size: usize) -> ApiError {
        errors::too_large(size, self.max_message, self.own_limit)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// 107 with HTTP 413 when the message is too large for the worker; nothing was sent then.
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
            return Err(self.too_large(text.len()));
        }
        if let Some(seq) = seq {
            self.seq = seq;
            if let Some(unacknowledged) = &mut self.unacknowledged {
                unacknowledged.push(seq, text.clone());
            }
        }
        self.acknowledged = ack;
        self.push(text);
        Ok(())
    }

    fn push(&mut self, text: String) {
        if let Some(sender) = &self.sender {
            self.last_sent = Instant::now();
            sender.push(Outgoing::Text(text));
        }
    }

    /// Handles an acknowledgement up to a number; returns whether that number was ever sent.
    pub(super) fn acknowledge(&mut self, ack: u64) -> bool {
        if let Some(unacknowledged) = &mut self.unacknowledged {
            unacknowledged.acknowledge(ack.min(self.seq));
        }
        ack <= self.seq
    }

    /// Returns the highest received number that was acknowledged to the worker.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Returns whether a worker that has received everything up to a number can continue from
    /// there.
    pub(super) fn can_go_on_after(&self, received: u64) -> bool {
        let unacknowledged = self.unacknowledged.as_ref();
        received <= self.seq
            && unacknowledged.is_some_and(|unacknowledged| unacknowledged.has_all_after(received))
    }

    /// Continues over another transport.
    pub(super) fn attach(&mut self, sender: OutgoingSender) {
        self.progress = (Instant::now(), sender.num_written());
        self.sender = Some(sender);
    }

    /// Sends again what the worker has not received.
    pub(super) fn send_again(&mut self, received: u64) {
        self.acknowledge(received);
        if let (Some(unacknowledged), Some(sender)) = (&self.unacknowledged, &self.sender) {
            for text in unacknowledged.after(received) {
                sender.push(Outgoing::Text(text.to_owned()));
            }
        }
    }

    /// Returns the transport's sender, for a session that continues over it.
    pub(super) fn sender(&self) -> Option<OutgoingSender> {
        self.sender.clone()
    }

    /// Sends a close message, if there is a transport, and releases the transport.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        if let Some(sender) = self.detach() {
            sender.push(Outgoing::Close {
                code: code.number(),
                reason: reason.to_owned(),
            });
        }
    }

    /// Releases the transport.
    pub(super) fn detach(&mut self) -> Option<OutgoingSender> {
        self.sender.take()
    }

    /// Returns how many bytes are waiting to be written.
    pub(super) fn waiting_bytes(&self) -> usize {
        let sender = self.sender.as_ref();
        sender.map_or(0, OutgoingSender::waiting_bytes)
    }

    /// Returns since when messages have been waiting with none written; exact only if this is
    /// called often.
    pub(super) fn stalled_since(&mut self, now: Instant) -> Option<Instant> {
        let sender = self.sender.as_ref();
        let written = sender.map_or(0, OutgoingSender::num_written);
        if written != self.progress.1 || self.waiting_bytes() == 0 {
            self.progress = (now, written);
            return None;
        }
        Some(self.progress.0)
    }
}
