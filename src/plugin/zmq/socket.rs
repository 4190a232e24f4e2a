//! Workers' connections: accepted, greeted, read and written, each in a task of its own.
//!
//! Incoming messages go to the `Workers`; outgoing ones wait in a bounded queue. A worker that does
//! not read is cut off rather than waited for.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::spawn::spawn_named;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, FREE_BYTES};
use super::endpoint::{Listener, Stream};
use super::message::{self, Identity};
use super::pool::Failure;
use super::wire::{self, Incoming, WireError};
use super::workers::Workers;
use crate::plugin::accept::next_connection;

/// The maximum number of connections at once.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a worker may take to accept a message.
const WRITE: Duration = Duration::from_secs(10);
/// How many messages can wait to be written to one worker, next to those that it can be sent at
/// once.
const MAX_UNWRITTEN: usize = 64;
/// How many of these are left for heartbeats and requests while nothing is read from a worker.
const SPARE: usize = 16;
/// How many messages of the maximum size can be read at once, of all workers.
const MAX_LARGE: u64 = 32;
/// The largest message of a connection that has not become a worker, and may be anyone's.
const MAX_OF_STRANGERS: u64 = FREE_BYTES;
/// How much of an oversized message is skipped, as a multiple of the maximum size.
const MAX_SKIPPED: u64 = 16;

/// The link to a worker; the connection ends when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    /// Never reused.
    pub(super) number: u64,
    unwritten: mpsc::Sender<Vec<u8>>,
}

impl Link {
    /// Creates a link with a queue for what a worker can be sent at once, and some more.
    pub(super) fn new(number: u64, max_at_once: usize) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let max_unwritten = MAX_UNWRITTEN.saturating_add(max_at_once);
        let (unwritten, queue) = mpsc::channel(max_unwritten.min(Semaphore::MAX_PERMITS));
        (Self { number, unwritten }, queue)
    }

    /// Sends a message; returns false if the worker does not read.
    pub(super) fn send(&self, frames: &[Vec<u8>]) -> bool {
        self.unwritten.try_send(wire::write_message(frames)).is_ok()
    }
}

/// Accepts connections until the end.
pub(super) async fn listen(
    listener: Listener,
    workers: Arc<Workers>,
    max_message: u64,
    ending: CancellationToken,
) {
    let budget = Arc::new(Budget::new(max_message.saturating_mul(MAX_LARGE)));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut number = 0;
    let next = || next_connection(|| listener.accept(), workers.plugin());
    while let Some(stream) = ending.run_until_cancelled(next()).await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(plugin = workers.plugin(), "too many connections of workers");
            continue;
        };
        number += 1;
        let (workers, ending) = (Arc::clone(&workers), ending.clone());
        let budget = Arc::clone(&budget);
        spawn_named("zmq worker", async move {
            let serving = serve(stream, number, &workers, (max_message, &budget));
            if let Some(Err(error)) = ending.run_until_cancelled(serving).await
                && !is_goodbye(&error)
            {
                tracing::info!(plugin = workers.plugin(), %error, "connection of a worker ended");
            }
            drop(place);
        });
    }
}

/// Serves one connection until it ends.
async fn serve(
    mut stream: Box<dyn Stream>,
    number: u64,
    workers: &Workers,
    (max_message, budget): (u64, &Budget),
) -> Result<(), WireError> {
    let shaken = timeout(HANDSHAKE, wire::shake_hands(&mut stream)).await;
    let identity = shaken.unwrap_or(Err(WireError::Handshake("it takes too long")))?;
    let identity = match identity.as_slice() {
        // Like ZeroMQ's own names: no chosen identity may begin with a zero.
        [] => [[0].as_slice(), &number.to_be_bytes()].concat(),
        _ => identity,
    };
    let identity = Identity(identity.into());
    let (reader, writer) = split(stream);
    let (link, queue) = Link::new(number, workers.max_told_at_once());
    let room = Room {
        unwritten: link.unwritten.downgrade(),
        written: Notify::new(),
        min_capacity: workers.max_told_at_once().saturating_add(SPARE),
    };
    if !workers.admit(&identity, link) {
        return Ok(());
    }
    let _release = Release {
        workers,
        identity: &identity,
        number,
    };
    tokio::select! {
        ended = read(reader, (&identity, number), &room, (workers, max_message, budget)) => ended,
        ended = write(writer, queue, &room) => ended,
    }
}

/// Whether the answers to what a worker says would find room in its queue.
///
/// A worker can say much in one piece, and many answers are known at once. One that reads must not
/// be cut off because they were not written yet.
struct Room {
    unwritten: mpsc::WeakSender<Vec<u8>>,
    written: Notify,
    min_capacity: usize,
}

impl Room {
    /// Waits until there is room, or the link is gone.
    async fn wait(&self) {
        let is_full = |it: mpsc::Sender<Vec<u8>>| it.capacity() < self.min_capacity;
        while self.unwritten.upgrade().is_some_and(is_full) {
            self.written.notified().await;
        }
    }
}

/// Tells the `Workers` that a connection has ended, however it ends.
struct Release<'a> {
    workers: &'a Workers,
    identity: &'a Identity,
    number: u64,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.workers.release(self.identity, self.number);
    }
}

async fn read(
    reader: ReadHalf<Box<dyn Stream>>,
    (identity, number): (&Identity, u64),
    room: &Room,
    (workers, max_message, budget): (&Workers, u64, &Budget),
) -> Result<(), WireError> {
    let mut reader = BufReader::new(reader);
    let mut is_worker = false;
    loop {
        room.wait().await;
        is_worker = is_worker || workers.knows(identity);
        let max_bytes = match is_worker {
            true => max_message,
            false => max_message.min(MAX_OF_STRANGERS),
        };
        let incoming = wire::read_message(&mut reader, max_bytes, budget).await?;
        let (message, refused) = match incoming {
            Incoming::Message(frames) => (message::parse(frames), None),
            Incoming::TooLarge(frames, rest) => {
                let why = Failure::TooLarge(max_bytes);
                (message::parse_head(frames), Some((why, rest)))
            }
            Incoming::NoRoom(frames, rest) => {
                (message::parse_head(frames), Some((Failure::NoRoom, rest)))
            }
        };
        let still_counts = match (message, &refused) {
            (Ok(message), None) => workers.hear(identity, number, message),
            (Ok(message), Some((why, _))) => workers.refuse(identity, number, message, *why),
            (Err(error), Some((why, _))) => {
                let plugin = workers.plugin();
                tracing::warn!(
                    plugin, worker = ?identity, %error, %why,
                    "a message that is too large is dropped"
                );
                true
            }
            (Err(error), None) => {
                let plugin = workers.plugin();
                tracing::debug!(plugin, worker = ?identity, %error, "malformed message dropped");
                true
            }
        };
        if !still_counts {
            return Ok(());
        }
        if let Some((_, rest)) = refused {
            let max_skipped = max_message.saturating_mul(MAX_SKIPPED);
            wire::skip(&mut reader, rest, max_skipped).await?;
        }
    }
}

async fn write(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    room: &Room,
) -> Result<(), WireError> {
    while let Some(bytes) = queue.recv().await {
        room.written.notify_one();
        let written = timeout(WRITE, async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        });
        written
            .await
            .unwrap_or_else(|late| Err(std::io::Error::from(late)))?;
    }
    Ok(())
}

/// Returns whether a connection ended in the usual way.
fn is_goodbye(error: &WireError) -> bool {
    matches!(error, WireError::Io(error) if error.kind() == ErrorKind::UnexpectedEof)
}
