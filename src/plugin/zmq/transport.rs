//! The transport: sends requests to the plugin's workers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::RawValue;
use skytrail_actors::plugin::TransportKind;
use skytrail_actors::plugin::protocol::MAX_WINDOW;
use skytrail_actors::spawn::spawn_named;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::endpoint::{Endpoint, Listener};
use super::pool::{Failure, Limits, Pool, Ticket, WorkerRequest};
use super::socket;
use super::workers::Workers;
use crate::plugin::transport::{
    Answer, Envelope, Notice, Transport, failure, unparsed, unparsed_text, unreached,
};

/// How often the pool's clock ticks.
const TICK: Duration = Duration::from_millis(100);
/// How many requests can wait for a worker.
const MAX_WAITING: usize = 1024;
/// How many of the workers' calls can wait to be handled.
const MAX_NOTICES: usize = 1024;

/// The rules for a plugin's workers.
pub(in crate::plugin) struct Rules {
    /// How long a request may take once a worker has it.
    pub(in crate::plugin) timeout: Duration,
    /// The highest bounce count.
    pub(in crate::plugin) max_bounce: u32,
    /// The largest message of a worker.
    pub(in crate::plugin) max_message: usize,
}

/// A plugin that has its workers connect to a ZeroMQ socket.
pub(in crate::plugin) struct Zmq {
    workers: Arc<Workers>,
    notices: Mutex<mpsc::Receiver<Notice>>,
    ending: CancellationToken,
}

/// Warns if others than the server's own user can connect: workers are not asked who they are.
fn warn_of_strangers(plugin: &str, listener: &Listener) {
    let Some(ip) = listener.ip() else { return };
    let address = listener.address();
    if ip.is_loopback() {
        tracing::warn!(
            plugin,
            address,
            "every user of this machine can connect here and gets the master key: listen on \
             ipc:///PATH if not all of them may have it"
        );
    } else {
        tracing::error!(
            plugin,
            address,
            "everybody who can reach this address gets the master key: listen on ipc:///PATH, or \
             on 127.0.0.1"
        );
    }
}

impl Zmq {
    /// Starts listening for workers; ends with the token, or when dropped.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(in crate::plugin) fn listen(
        plugin: &str,
        endpoint: &Endpoint,
        rules: &Rules,
        ending: &CancellationToken,
    ) -> Result<Self, String> {
        let listener = endpoint.bind();
        let listener = listener.map_err(|error| format!("cannot listen on {endpoint}: {error}"))?;
        let address = listener.address();
        tracing::info!(plugin, address, "listening for workers over zmq");
        warn_of_strangers(plugin, &listener);
        let pool = Pool::new(Limits {
            timeout: rules.timeout,
            max_bounce: rules.max_bounce,
            max_waiting: MAX_WAITING,
        });
        let (sender, notices) = mpsc::channel(MAX_NOTICES);
        let workers = Arc::new(Workers::new(plugin.into(), pool, sender));
        let ending = ending.child_token();
        let max_message = u64::try_from(rules.max_message).unwrap_or(u64::MAX);
        let listening = socket::listen(listener, Arc::clone(&workers), max_message, ending.clone());
        spawn_named("zmq listener", listening);
        spawn_named("zmq clock", keep_time(Arc::clone(&workers), ending.clone()));
        Ok(Self {
            workers,
            notices: Mutex::new(notices),
            ending,
        })
    }
}

impl Drop for Zmq {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

async fn keep_time(workers: Arc<Workers>, ending: CancellationToken) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        workers.tick();
    }
}

#[async_trait]
impl Transport for Zmq {
    fn kind(&self) -> TransportKind {
        TransportKind::Zmq
    }

    /// Returns the maximum, because the pool has a queue of its own.
    fn window(&self) -> u64 {
        u64::try_from(MAX_WINDOW).unwrap_or(u64::MAX)
    }

    async fn request(&self, envelope: &Envelope) -> Answer {
        let body = match envelope.to_json() {
            Ok(body) => body,
            Err(error) => return Answer::Given(unparsed(&error.to_string())),
        };
        let ticket: Ticket = envelope.id.as_str().into();
        let request = WorkerRequest {
            ticket: Arc::clone(&ticket),
            parent: envelope.parent.as_deref().map(Into::into),
            // Each call is one bounce, and the request that it causes is another.
            bounce: envelope.depth.saturating_mul(2),
            body,
        };
        let answer = self.workers.ask(request, envelope.is_initialisation());
        let _guard = Guard {
            workers: &self.workers,
            ticket,
        };
        match answer.await.unwrap_or(Err(Failure::TimedOut)) {
            Ok(body) => {
                let read = envelope.read_or_log(self.workers.plugin(), &body);
                Answer::Given(read.unwrap_or_else(|why| unparsed(&why)))
            }
            // A plugin that was absent has not heard it, and is told again.
            Err(why @ Failure::NotTaken) if envelope.is_initialisation() => {
                Answer::NotThere(why.to_string())
            }
            Err(why) if envelope.is_initialisation() => Answer::Lost {
                why: why.to_string(),
                is_gone: true,
            },
            Err(why @ (Failure::TooLarge(_) | Failure::NoRoom)) => {
                Answer::Given(failure(&unparsed_text(&why.to_string())))
            }
            Err(why @ Failure::NotTaken) => Answer::Given(unreached(&why.to_string())),
            Err(why) => Answer::Given(failure(&why.to_string())),
        }
    }

    async fn notice(&self) -> Notice {
        let notice = self.notices.lock().await.recv().await;
        match notice {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }

    fn crew(&self) -> Option<watch::Receiver<usize>> {
        Some(self.workers.crew())
    }

    /// As over HTTP, the text ends with a line break; there is no status.
    fn reply(&self, call: &str, _status: u16, body: &RawValue) {
        let body = format!("{body}\n").into_bytes();
        self.workers.reply(&call.into(), body);
    }
}

/// Cancels a request when its future is dropped.
struct Guard<'a> {
    workers: &'a Workers,
    ticket: Ticket,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.workers.cancel(&self.ticket);
    }
}
