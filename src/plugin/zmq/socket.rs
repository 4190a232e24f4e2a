//! Workers' connections: taken, greeted, read and written, each in a task of its own.
//!
//! What comes is brought to the desk; what is to be written waits in a queue with a bound. A worker
//! that does not read is cut off rather than waited for.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::spawn::spawn_named;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::endpoint::{Listener, Stream};
use super::message::{self, Identity};
use super::wire::{self, WireError};

/// How many connections there may be at once.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may take to say what it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a worker may take to take a message.
const WRITE: Duration = Duration::from_secs(10);
/// How many messages wait to be written to one worker: more than its stack has levels.
const MAX_UNWRITTEN: usize = 64;
/// When connections are taken again after that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to a worker; the connection ends when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    /// Never used twice.
    pub(super) number: u64,
    unwritten: mpsc::Sender<Vec<u8>>,
}

impl Link {
    /// Sends a message, or says that the worker does not read.
    pub(super) fn send(&self, frames: &[Vec<u8>]) -> bool {
        self.unwritten.try_send(wire::write_message(frames)).is_ok()
    }
}

/// Takes connections until the end.
pub(super) async fn listen(
    listener: Listener,
    desk: Arc<Desk>,
    max_message: u64,
    ending: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut number = 0;
    while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(plugin = desk.plugin(), %error, "no connection taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(plugin = desk.plugin(), "too many connections of workers");
            continue;
        };
        number += 1;
        let (desk, ending) = (Arc::clone(&desk), ending.clone());
        spawn_named("zmq worker", async move {
            let serving = serve(stream, number, &desk, max_message);
            if let Some(Err(error)) = ending.run_until_cancelled(serving).await
                && !is_goodbye(&error)
            {
                tracing::info!(plugin = desk.plugin(), %error, "connection of a worker ended");
            }
            drop(place);
        });
    }
}

/// Serves one connection to its end.
async fn serve(
    mut stream: Box<dyn Stream>,
    number: u64,
    desk: &Desk,
    max_message: u64,
) -> Result<(), WireError> {
    let shaken = timeout(HANDSHAKE, wire::shake_hands(&mut stream)).await;
    let identity = shaken.unwrap_or(Err(WireError::Handshake("it takes too long")))?;
    let identity = match identity.as_slice() {
        // Like ZeroMQ's own names: nobody else may begin with a zero.
        [] => [[0].as_slice(), &number.to_be_bytes()].concat(),
        _ => identity,
    };
    let identity = Identity(identity.into());
    let (reader, writer) = split(stream);
    let (unwritten, queue) = mpsc::channel(MAX_UNWRITTEN);
    let link = Link { number, unwritten };
    if !desk.admit(&identity, link) {
        return Ok(());
    }
    let _release = Release {
        desk,
        identity: &identity,
        number,
    };
    tokio::select! {
        ended = read(reader, &identity, number, (desk, max_message)) => ended,
        ended = write(writer, queue) => ended,
    }
}

/// Tells the desk that a connection is over, however it ends.
struct Release<'a> {
    desk: &'a Desk,
    identity: &'a Identity,
    number: u64,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.desk.release(self.identity, self.number);
    }
}

async fn read(
    reader: ReadHalf<Box<dyn Stream>>,
    identity: &Identity,
    number: u64,
    (desk, max_message): (&Desk, u64),
) -> Result<(), WireError> {
    let mut reader = BufReader::new(reader);
    loop {
        let frames = wire::read_message(&mut reader, max_message).await?;
        match message::parse(frames) {
            Ok(told) => {
                if !desk.hear(identity, number, told) {
                    return Ok(());
                }
            }
            Err(error) => {
                let plugin = desk.plugin();
                tracing::debug!(plugin, worker = ?identity, %error, "odd message dropped");
            }
        }
    }
}

async fn write(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> Result<(), WireError> {
    while let Some(bytes) = queue.recv().await {
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

/// Whether a connection ended as connections do.
fn is_goodbye(error: &WireError) -> bool {
    matches!(error, WireError::Io(error) if error.kind() == ErrorKind::UnexpectedEof)
}
