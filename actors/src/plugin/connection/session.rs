//! A session's life: accepted, drained, watched by the clock.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorContext, ActorFutureExt, AsyncContext, Context};
use tokio::time::Instant;

use super::actor::{PluginConnection, State, quote, to_millis, to_size};
use super::link::Link;
use super::unacknowledged::Unacknowledged;
use crate::plugin::messages::{Join, Refusal};
use crate::plugin::protocol::{
    CancelReason, CloseCode, DEFAULT_WINDOW, DELIVER, Hello, MAX_WINDOW, RESUME, ServerMessage,
    WelcomeMessage,
};

impl PluginConnection {
    /// Handles a `hello`: a worker connects, or comes back.
    pub(super) fn greet(&mut self, mut hello: Hello, ctx: &mut Context<Self>) {
        match hello.resume.take() {
            Some(claim) => self.claim(hello, claim, ctx),
            None => self.join(hello, ctx),
        }
    }

    /// Starts a session.
    pub(super) fn join(&mut self, hello: Hello, ctx: &mut Context<Self>) {
        let requested = hello.window.map_or(DEFAULT_WINDOW, to_size);
        self.window = requested.clamp(1, MAX_WINDOW);
        self.plugin = hello.plugin.as_str().into();
        let theirs = hello.max_message.map_or(usize::MAX, to_size);
        self.outbox.max_message = self.settings.max_message.min(theirs);
        self.negotiate(&hello.features);
        let join = Join {
            worker: self.id,
            plugin: hello.plugin,
            transport: self.outbox.transport(),
            label: quote(&hello.worker).to_owned(),
            sdk: quote(&hello.sdk).to_owned(),
            generation: hello.generation,
            session: Arc::clone(&self.session),
            window: self.window,
            from: hello.from,
            address: ctx.address(),
        };
        let is_clamped = self.window != requested;
        let answer = wrap_future::<_, Self>(self.plugins.send(join));
        // Nothing else is read or sent before the answer, which takes only a table lookup.
        ctx.wait(answer.map(move |answer, this, ctx| match answer {
            Ok(Ok(figures)) => {
                this.figures = figures;
                this.begin_session(is_clamped, ctx);
            }
            Ok(Err(Refusal { code, reason })) => this.close(code, &reason, ctx),
            Err(_) => this.close(CloseCode::Restart, "the server stops", ctx),
        }));
    }

    /// Records the features that both sides have.
    fn negotiate(&mut self, theirs: &[String]) {
        let mut ours = vec![DELIVER];
        if !self.settings.resume.is_zero() {
            ours.push(RESUME);
        }
        ours.retain(|feature| theirs.iter().any(|known| known == feature));
        self.features = ours;
        if self.has_feature(RESUME) {
            let settings = &self.settings;
            let unacknowledged = Unacknowledged::new(
                settings.max_unacknowledged,
                settings.max_unacknowledged_bytes,
            );
            self.outbox.keep(unacknowledged);
        }
    }

    pub(super) fn has_feature(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }

    fn begin_session(&mut self, is_clamped: bool, ctx: &mut Context<Self>) {
        self.state = State::Open;
        self.welcome(None, ctx);
        if is_clamped {
            self.warn(&format!("the window is now {}", self.window), ctx);
        }
    }

    /// Sends the session's limits; for a resumed session also what was received.
    pub(super) fn welcome(&mut self, received: Option<u64>, ctx: &mut Context<Self>) {
        let settings = Arc::clone(&self.settings);
        let (session, secret) = (Arc::clone(&self.session), self.secret.clone());
        let features = self.features.clone();
        let resume = if self.has_feature(RESUME) {
            settings.resume
        } else {
            Duration::ZERO
        };
        let welcome = ServerMessage::Welcome(WelcomeMessage {
            session: &session,
            secret: &secret,
            resumed: received.is_some(),
            received,
            server: &settings.server,
            heartbeat_ms: to_millis(settings.heartbeat),
            resume_ms: to_millis(resume),
            max_message: self.outbox.max_message,
            max_calls: settings.max_calls,
            max_depth: settings.max_depth,
            features: &features,
        });
        self.post(&welcome, ctx);
    }

    /// Takes no new requests; with a code, closes when nothing is in flight.
    pub(super) fn drain(
        &mut self,
        closing: Option<CloseCode>,
        limit: Option<Duration>,
        ctx: &mut Context<Self>,
    ) {
        match &mut self.state {
            State::Closed => return,
            // The worker wanted to leave, and now the server wants it to leave, too.
            State::Draining {
                closing: earlier,
                is_announced,
            } => {
                *earlier = closing.or(*earlier);
                *is_announced &= closing.is_none();
                if self.is_cut_off() {
                    return self.end(ctx);
                }
                if let Some(limit) = limit {
                    self.end_drain_after(limit, ctx);
                }
                return self.end_drain_if_idle(ctx);
            }
            State::Connected | State::Open => {}
        }
        self.state = State::Draining {
            closing,
            is_announced: false,
        };
        self.tell_capacity();
        if self.is_cut_off() {
            return self.end(ctx);
        }
        let limit = limit.map_or(self.settings.drain, |limit| limit.min(self.settings.drain));
        self.end_drain_after(limit, ctx);
        self.end_drain_if_idle(ctx);
    }

    /// Ends a drain after some time, whatever is in flight.
    fn end_drain_after(&mut self, limit: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(limit, |this, ctx| {
            let State::Draining { closing, .. } = this.state else {
                return;
            };
            if closing == Some(CloseCode::Restart) {
                this.cancel_all(CancelReason::Shutdown, ctx);
            }
            let code = closing.unwrap_or(CloseCode::Drained);
            this.close(code, "drained as far as time allowed", ctx);
        });
    }

    /// Ends a drain when nothing is in flight.
    pub(super) fn end_drain_if_idle(&mut self, ctx: &mut Context<Self>) {
        let State::Draining {
            closing,
            is_announced: false,
        } = self.state
        else {
            return;
        };
        if !self.requests.is_empty() || !self.calls.is_empty() {
            return;
        }
        self.state = State::Draining {
            closing,
            is_announced: true,
        };
        self.post(&ServerMessage::Drained, ctx);
        if let Some(code) = closing {
            self.close(code, "drained", ctx);
        }
    }

    /// Does everything that depends on the time.
    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        let is_over = match &self.link {
            Link::HandedOver(session) => !session.connected(),
            // Without `Plugins`, nothing else tells the actor to stop.
            Link::Up(_) | Link::Down(_) => self.state == State::Closed && !self.plugins.connected(),
        };
        if is_over {
            return ctx.stop();
        }
        if self.state != State::Closed && matches!(self.link, Link::Up(_)) {
            self.watch_link(ctx);
        }
        if self.state != State::Closed {
            self.watch_requests(ctx);
        }
    }

    /// Checks whether anything moves on the transport.
    fn watch_link(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let limit = self.settings.heartbeat * 3;
        let is_silent = now.duration_since(self.last_received) >= limit;
        let stalled = self.outbox.stalled_since(now);
        if is_silent {
            return self.hang_up("nothing received", ctx);
        }
        if stalled.is_some_and(|since| now.duration_since(since) >= limit) {
            return self.hang_up("does not read", ctx);
        }
        // A worker that is only sent to is pinged, too: it may have nothing to say by itself.
        let last_heard = self.last_received.max(self.last_ping);
        let is_quiet = |since: Instant| now.duration_since(since) >= self.settings.heartbeat;
        if is_quiet(self.outbox.last_sent) || is_quiet(last_heard) {
            self.last_ping = now;
            self.post(&ServerMessage::Ping, ctx);
        }
    }

    /// Gives up what took too long.
    fn watch_requests(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for ticket in self.requests.overdue(now) {
            self.cancel_request(ticket, CancelReason::Deadline, ctx);
        }
        let num_stuck = self.requests.num_stuck(now, self.settings.stuck_after);
        // A worker that is away is not stuck.
        if num_stuck > 0 && num_stuck >= self.window && !self.is_suspended() {
            self.close(CloseCode::AllStuck, "no request is answered", ctx);
        }
    }
}
