//! The channel from a connection's actor to its transport.
//!
//! The actor must never wait for a worker that does not read, so the channel itself has no
//! backpressure. It counts what is waiting in it instead: above its limit the actor sends no more
//! requests, and it closes connections on which nothing moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use super::settings::TransportKind;

/// What a transport must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// Send a text message.
    Text(String),
    /// Send a close message and hang up.
    Close {
        /// The code.
        code: u16,
        /// The reason, for people.
        reason: String,
    },
}

/// The actor's end. A clone is the same end; it exists while another actor takes the end over.
#[derive(Clone, Debug)]
pub struct OutgoingSender {
    kind: TransportKind,
    sender: mpsc::UnboundedSender<Outgoing>,
    meter: Arc<Meter>,
}

/// The transport's end.
#[derive(Debug)]
pub struct OutgoingReceiver {
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    meter: Arc<Meter>,
    under_way: usize,
}

#[derive(Debug, Default)]
struct Meter {
    waiting_bytes: AtomicUsize,
    num_written: AtomicU64,
    /// Notified when the close message was pushed.
    goodbye: Notify,
}

/// Creates a channel for a transport of a kind.
pub fn channel(kind: TransportKind) -> (OutgoingSender, OutgoingReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let meter = Arc::new(Meter::default());
    let sender = OutgoingSender {
        kind,
        sender,
        meter: Arc::clone(&meter),
    };
    let receiver = OutgoingReceiver {
        receiver,
        meter,
        under_way: 0,
    };
    (sender, receiver)
}

impl OutgoingSender {
    /// Returns the transport's kind.
    pub fn kind(&self) -> TransportKind {
        self.kind
    }

    /// Puts a message into the channel; a message for a transport that is gone is lost.
    pub fn push(&self, outgoing: Outgoing) {
        if matches!(outgoing, Outgoing::Close { .. }) {
            self.meter.goodbye.notify_one();
        }
        let size = size_of(&outgoing);
        self.meter.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        if self.sender.send(outgoing).is_err() {
            self.meter.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Returns how many bytes have not been written yet.
    pub fn waiting_bytes(&self) -> usize {
        self.meter.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Returns how many messages have been written.
    pub fn num_written(&self) -> u64 {
        self.meter.num_written.load(Ordering::Relaxed)
    }
}

impl OutgoingReceiver {
    /// Waits for the next message; asking for it means that the previous one was written. Returns
    /// `None` when the actor is gone and everything was taken.
    pub async fn next(&mut self) -> Option<Outgoing> {
        self.count_written();
        let outgoing = self.receiver.recv().await?;
        self.under_way = size_of(&outgoing);
        Some(outgoing)
    }

    /// Waits until the close message was pushed, whether or not it has been taken: a transport that
    /// cannot write must give up some time after this.
    pub fn goodbye(&self) -> impl Future<Output = ()> + use<> {
        let meter = Arc::clone(&self.meter);
        async move { meter.goodbye.notified().await }
    }

    fn count_written(&mut self) {
        let written = std::mem::take(&mut self.under_way);
        if written > 0 {
            self.meter
                .waiting_bytes
                .fetch_sub(written, Ordering::Relaxed);
            self.meter.num_written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn size_of(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Text(text) => text.len(),
        Outgoing::Close { reason, .. } => reason.len() + 2,
    }
}
