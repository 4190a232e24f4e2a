//! The actor: the parts of a session, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context};
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::Calls;
use super::link::Link;
use super::outbox::Outbox;
use super::requests::Requests;
use crate::plugin::broker::Plugins;
use crate::plugin::caller::ApiCaller;
use crate::plugin::errors::{Unavailable, unavailable};
use crate::plugin::figures::RequestStats;
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{Capacity, FromWorker, Report};
use crate::plugin::protocol::{CloseCode, MAX_WINDOW, ServerMessage};
use crate::plugin::settings::{PluginsSettings, TransportKind};
use crate::plugin::transport::OutgoingSender;
use crate::spawn::spawn_named;

/// How many odd messages per minute are tolerated.
const MAX_ODDITIES: u32 = 100;

/// How much of a worker's text a warning quotes.
const MAX_QUOTE_BYTES: usize = 100;

/// One worker's connection. See the module.
pub struct PluginConnection {
    pub(super) id: WorkerId,
    pub(super) plugin: Arc<str>,
    pub(super) settings: Arc<PluginsSettings>,
    /// The plugin's figures, once the plugin is known.
    pub(super) figures: Arc<RequestStats>,
    pub(super) api: Arc<dyn ApiCaller>,
    pub(super) plugins: Addr<Plugins>,
    pub(super) state: State,
    pub(super) link: Link,
    /// The session's id, known to the worker.
    pub(super) session: Arc<str>,
    /// What the worker must present when it comes back.
    pub(super) secret: String,
    /// The features that both sides have.
    pub(super) features: Vec<&'static str>,
    pub(super) outbox: Outbox,
    pub(super) window: usize,
    /// How many processes share its requests, if it said so.
    pub(super) crew: Option<usize>,
    pub(super) is_unreachable: bool,
    pub(super) requests: Requests,
    pub(super) calls: Calls,
    pub(super) is_choked: bool,
    /// How many capacities `Plugins` was told.
    num_capacities: u64,
    /// The highest number received.
    pub(super) received: u64,
    /// The highest number received before the session was last resumed.
    pub(super) received_before_resume: u64,
    /// The size of what was received and not yet acknowledged.
    pub(super) unacknowledged_bytes: usize,
    pub(super) last_received: Instant,
    pub(super) last_ping: Instant,
    /// Since when odd messages are counted, and their number.
    oddities: (Instant, u32),
}

/// The state of a session. `Plugins` decides what a worker can be sent while it is `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No `hello` yet.
    Connected,
    /// Accepted.
    Open,
    /// No new requests are sent. With a code, the server closes the connection when nothing is in
    /// flight; without one, the worker does.
    Draining {
        closing: Option<CloseCode>,
        is_announced: bool,
    },
    /// Over; the actor waits for the last requests that were already on their way to it.
    Closed,
}

impl State {
    /// Returns whether the server is stopping.
    pub(super) fn is_for_restart(self) -> bool {
        let State::Draining { closing, .. } = self else {
            return false;
        };
        closing == Some(CloseCode::Restart)
    }
}

impl PluginConnection {
    /// Starts the actor of a new connection on the caller's thread.
    pub(in crate::plugin) fn begin(
        id: WorkerId,
        sender: OutgoingSender,
        settings: Arc<PluginsSettings>,
        plugins: Addr<Plugins>,
        api: Arc<dyn ApiCaller>,
    ) -> Addr<Self> {
        let now = Instant::now();
        Self {
            id,
            plugin: "".into(),
            outbox: Outbox::new(sender, settings.max_message),
            settings,
            figures: Arc::default(),
            api,
            plugins,
            state: State::Connected,
            link: Link::Up(id),
            session: format!("s-{}", Uuid::new_v4().simple()).into(),
            secret: Uuid::new_v4().simple().to_string(),
            features: Vec::new(),
            window: 0,
            crew: None,
            is_unreachable: false,
            requests: Requests::default(),
            calls: Calls::default(),
            is_choked: false,
            num_capacities: 0,
            received: 0,
            received_before_resume: 0,
            unacknowledged_bytes: 0,
            last_received: now,
            last_ping: now,
            oddities: (now, 0),
        }
        .start()
    }

    pub(super) fn set_window(&mut self, size: u64, ctx: &mut Context<Self>) {
        let requested = to_size(size);
        let before = std::mem::replace(&mut self.window, requested.min(MAX_WINDOW));
        if self.window != requested {
            self.warn(&format!("the window is now {}", self.window), ctx);
        }
        if self.window != before {
            self.tell_capacity();
        }
    }

    /// Sends a message; closes the connection when far too much is waiting to be written.
    pub(super) fn post(&mut self, message: &ServerMessage<'_>, ctx: &mut Context<Self>) {
        if self.state == State::Closed {
            return;
        }
        if let Err(error) = self.outbox.send(message, self.received) {
            tracing::warn!(plugin = %self.plugin, %error, "message not sent");
        }
        self.bound_outbox(ctx);
    }

    /// Hangs up on a worker that lets replies pile up. One message more than the bound can wait,
    /// because the largest message may be larger than the buffer.
    pub(super) fn bound_outbox(&mut self, ctx: &mut Context<Self>) {
        const REPLIES: usize = 4;
        let limit = self.settings.send_buffer * REPLIES + self.settings.max_message;
        if self.outbox.waiting_bytes() > limit {
            self.hang_up("does not read", ctx);
        }
    }

    /// Returns the highest number received, which acknowledges everything up to it.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Tells the worker that it did something odd; ends the connection when that happens often.
    pub(super) fn warn(&mut self, message: &str, ctx: &mut Context<Self>) {
        const MINUTE: Duration = Duration::from_secs(60);
        let now = Instant::now();
        if now.duration_since(self.oddities.0) >= MINUTE {
            self.oddities = (now, 0);
        }
        self.oddities.1 += 1;
        tracing::debug!(plugin = %self.plugin, message, "unexpected message from a worker");
        if self.oddities.1 > MAX_ODDITIES {
            self.break_off("too many unexpected messages", ctx);
        } else {
            self.post(&ServerMessage::Warning { message }, ctx);
        }
    }

    pub(super) fn break_off(&mut self, reason: &str, ctx: &mut Context<Self>) {
        self.close(CloseCode::ProtocolError, reason, ctx);
    }

    /// Sends a close message and ends the session.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str, ctx: &mut Context<Self>) {
        if self.state == State::Closed {
            return;
        }
        // Without a connection, the reason for a refused registration is logged, and nothing else
        // happened.
        let has_connection = self.outbox.transport() == TransportKind::WebSocket;
        if has_connection || code != CloseCode::RegistrationRefused {
            let (plugin, code) = (&self.plugin, code.number());
            tracing::info!(%plugin, code, reason, "worker connection closed");
        }
        self.outbox.close(code, reason);
        self.end(ctx);
    }

    /// Ends the session: the worker's requests are lost, except those that can be sent again.
    pub(super) fn end(&mut self, ctx: &mut Context<Self>) {
        if self.state == State::Closed {
            return;
        }
        let was_known = self.state != State::Connected;
        self.state = State::Closed;
        let mut retry = Vec::new();
        for mut job in self.requests.take_waiting() {
            if job.is_idempotent {
                retry.push(job);
            } else {
                job.answer(Err(unavailable(&self.plugin, Unavailable::WorkerLost)));
            }
        }
        if was_known && self.plugins.connected() {
            self.report(Report::Gone { retry });
        } else {
            ctx.stop();
        }
    }

    /// Returns the worker's capacity.
    pub(super) fn capacity(&mut self) -> Capacity {
        self.num_capacities += 1;
        Capacity {
            number: self.num_capacities,
            window: self.window,
            crew: self.crew,
            is_choked: self.is_choked,
            is_draining: matches!(self.state, State::Draining { .. }),
            is_suspended: self.is_suspended(),
            is_unreachable: self.is_unreachable,
        }
    }

    /// Tells `Plugins` the worker's capacity.
    pub(super) fn tell_capacity(&mut self) {
        let capacity = self.capacity();
        self.report(Report::Capacity(capacity));
    }

    /// Sends a report to `Plugins`; a full mailbox delays it but does not lose it.
    pub(super) fn report(&self, report: Report) {
        let message = FromWorker {
            worker: self.id,
            report,
        };
        if let Err(error) = self.plugins.try_send(message) {
            let message = error.into_inner();
            let plugins = self.plugins.clone();
            spawn_named("plugin report", async move {
                // A closed mailbox means that the server is stopping.
                let _ = plugins.send(message).await;
            });
        }
    }
}

impl Actor for PluginConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // A worker may have a full window of answers in flight.
        ctx.set_mailbox_capacity(MAX_WINDOW);
        ctx.run_later(self.settings.hello_timeout, |this, ctx| {
            if this.state == State::Connected && matches!(this.link, Link::Up(_)) {
                this.close(CloseCode::NoHello, "no hello", ctx);
            }
        });
        ctx.run_interval(self.settings.heartbeat / 4, Self::tick);
    }
}

/// Returns as much of a worker's text as fits into a log line.
pub(super) fn quote(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_QUOTE_BYTES);
    text.get(..end).unwrap_or_default()
}

pub(super) fn to_size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
