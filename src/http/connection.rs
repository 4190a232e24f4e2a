//! Connections: counts them, and ends those of clients that send or receive nothing.
//!
//! The web framework limits the time for the head of a first request and for an idle connection.
//! Two cases are left. A client that begins a later request and stops sending is found by a sweep
//! over all connections. A client that does not read its answer is left to the kernel, which knows
//! what the client has received.

use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use actix_web::web::Bytes;
use parking_lot::Mutex;
use skytrail_actors::spawn::spawn_named;
use socket2::{SockRef, Socket};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counters::{Connected, DoorCounters, Unsent};
use super::descriptors::Descriptors;

/// Answers are sent in pieces of this size, so that a large answer is not copied whole for a slow
/// client.
const PIECE_BYTES: usize = 64 << 10;

/// A connection, from when it is accepted until it is closed.
pub struct Connection(Arc<Inner>);

struct Inner {
    /// A duplicate of the socket, used to end the connection from outside; `None` if duplicating
    /// failed, or once the connection is left alone.
    socket: Mutex<Option<Socket>>,
    descriptors: Arc<Descriptors>,
    is_busy: AtomicBool,
    quiet_since: Mutex<Instant>,
    _counted: Connected,
}

/// All connections.
pub struct Connections {
    counters: Arc<DoorCounters>,
    descriptors: Arc<Descriptors>,
    /// How long a client may receive nothing.
    send_timeout: Duration,
    /// How long a connection may exist without a complete request.
    quiet_limit: Duration,
    open: Mutex<Vec<Weak<Inner>>>,
    _ending: DropGuard,
}

impl Connections {
    /// Starts watching connections.
    pub fn start(
        (counters, descriptors): (Arc<DoorCounters>, Descriptors),
        send_timeout: Duration,
        quiet_limit: Duration,
    ) -> Arc<Self> {
        let ending = CancellationToken::new();
        let connections = Arc::new(Self {
            counters,
            descriptors: Arc::new(descriptors),
            send_timeout,
            quiet_limit,
            open: Mutex::default(),
            _ending: ending.clone().drop_guard(),
        });
        let swept = Arc::downgrade(&connections);
        let period = (quiet_limit / 8).clamp(Duration::from_millis(100), Duration::from_secs(5));
        spawn_named("connection sweep", async move {
            let pause = || ending.run_until_cancelled(tokio::time::sleep(period));
            while pause().await.is_some() {
                let Some(connections) = swept.upgrade() else {
                    break;
                };
                connections.sweep(Instant::now());
            }
        });
        connections
    }

    /// Accepts a connection, and puts what its requests need of it into `data`.
    pub fn take(&self, stream: &dyn std::any::Any, data: &mut Extensions) {
        let Some(stream) = stream.downcast_ref::<TcpStream>() else {
            return;
        };
        let socket = SockRef::from(stream);
        if !self.descriptors.take() {
            if self.counters.count_refused(Instant::now()) {
                let connections = self.descriptors.num_connections();
                tracing::warn!(
                    connections,
                    "new connections are closed: the limit of file descriptors (ulimit -n) allows \
                     no more; raise it, and restart the server"
                );
            }
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
        if let Err(error) = socket.set_tcp_user_timeout(Some(self.send_timeout)) {
            tracing::debug!(%error, "no limit for slow readers could be set on a connection");
        }
        let socket = socket.try_clone().ok();
        if socket.is_none() {
            self.descriptors.give_back(1);
        }
        let inner = Arc::new(Inner {
            socket: Mutex::new(socket),
            descriptors: Arc::clone(&self.descriptors),
            is_busy: AtomicBool::new(false),
            quiet_since: Mutex::new(Instant::now()),
            _counted: self.counters.connected(),
        });
        self.open.lock().push(Arc::downgrade(&inner));
        data.insert(Connection(inner));
    }

    /// Ends connections that have been quiet for too long, and forgets closed ones.
    fn sweep(&self, now: Instant) {
        self.open.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            let quiet = now.saturating_duration_since(*connection.quiet_since.lock());
            if !connection.is_busy.load(Ordering::Acquire) && quiet > self.quiet_limit {
                // Shutting down a socket that is already closed does no harm.
                let socket = connection.socket.lock();
                let _ = socket
                    .as_ref()
                    .map(|socket| socket.shutdown(Shutdown::Both));
            }
            true
        });
    }
}

impl Connection {
    /// Stops watching a connection that no longer carries requests and answers. It then uses one
    /// descriptor less.
    pub fn leave_alone(&self) {
        if self.0.socket.lock().take().is_some() {
            self.0.descriptors.give_back(1);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let is_two = self.socket.get_mut().is_some();
        self.descriptors.give_back(1 + usize::from(is_two));
    }
}

/// A request of a connection; the connection is quiet once this is dropped.
pub struct Busy(Option<Weak<Inner>>);

impl Busy {
    /// Marks the connection as having a request in flight.
    pub fn begin(connection: Option<&Connection>) -> Self {
        Self(connection.map(|Connection(inner)| {
            inner.is_busy.store(true, Ordering::Release);
            Arc::downgrade(inner)
        }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(inner) = self.0.as_ref().and_then(Weak::upgrade) {
            *inner.quiet_since.lock() = Instant::now();
            inner.is_busy.store(false, Ordering::Release);
        }
    }
}

/// The body of an answer; the connection is busy until it has been sent.
pub struct Answer {
    body: BoxBody,
    /// The rest of a chunk that was too large for one piece.
    rest: Bytes,
    _busy: Busy,
    _unsent: Option<Unsent>,
}

impl Answer {
    /// Wraps a body.
    pub fn new(body: BoxBody, busy: Busy, counters: &Arc<DoorCounters>) -> Self {
        // A body without a size is generated while it is sent.
        let unsent = match body.size() {
            BodySize::Sized(size) => usize::try_from(size).ok(),
            BodySize::None | BodySize::Stream => None,
        };
        Self {
            body,
            rest: Bytes::new(),
            _busy: busy,
            _unsent: unsent.map(|size| counters.unsent(size)),
        }
    }
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}
