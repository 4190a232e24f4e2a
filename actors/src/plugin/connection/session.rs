//! A session's life: taken, drained, watched by the clock.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorContext, ActorFutureExt, AsyncContext, Context};
use tokio::time::Instant;
use uuid::Uuid;

use super::actor::{PluginConnection, State, quote, to_millis, to_size};
use crate::plugin::messages::{Join, Refusal, Report};
use crate::plugin::protocol::{
    CancelReason, CloseCode, DEFAULT_WINDOW, Hello, MAX_WINDOW, ServerMessage, WelcomeMessage,
};

impl PluginConnection {
    pub(super) fn join(&mut self, hello: Hello, ctx: &mut Context<Self>) {
        let asked = hello.window.map_or(DEFAULT_WINDOW, to_size);
        self.window = asked.clamp(1, MAX_WINDOW);
        self.plugin = hello.plugin.as_str().into();
        let theirs = hello.max_message.map_or(usize::MAX, to_size);
        self.outbox.max_message = self.settings.max_message.min(theirs);
        let join = Join {
            worker: self.id,
            plugin: hello.plugin,
            label: quote(&hello.worker).to_owned(),
            sdk: quote(&hello.sdk).to_owned(),
            generation: hello.generation,
            window: self.window,
            address: ctx.address(),
        };
        let is_clamped = self.window != asked;
        let answer = wrap_future::<_, Self>(self.plugins.send(join));
        // Nothing else is read or sent before the answer, which is only a look into a table away.
        ctx.wait(answer.map(move |answer, this, ctx| match answer {
            Ok(Ok(())) => this.welcome(is_clamped, ctx),
            Ok(Err(Refusal { code, reason })) => this.close(code, &reason, ctx),
            Err(_) => this.close(CloseCode::Restart, "the server stops", ctx),
        }));
    }

    fn welcome(&mut self, is_clamped: bool, ctx: &mut Context<Self>) {
        self.state = State::Open;
        let settings = Arc::clone(&self.settings);
        let welcome = ServerMessage::Welcome(WelcomeMessage {
            session: &format!("s-{}", Uuid::new_v4().simple()),
            secret: &Uuid::new_v4().simple().to_string(),
            resumed: false,
            server: &settings.server,
            heartbeat_ms: to_millis(settings.heartbeat),
            // Sessions are not resumed: what a broken connection had is lost at once.
            resume_ms: 0,
            max_message: self.outbox.max_message,
            max_calls: settings.max_calls,
            max_depth: settings.max_depth,
            features: &[],
        });
        self.post(&welcome, ctx);
        if is_clamped {
            self.warn(&format!("window is {} now", self.window), ctx);
        }
    }

    /// Takes no new requests; with a code, closes when nothing runs any more.
    pub(super) fn drain(
        &mut self,
        closing: Option<CloseCode>,
        limit: Option<Duration>,
        ctx: &mut Context<Self>,
    ) {
        match &mut self.state {
            State::Closed => return,
            // The worker wanted to leave, and now the server does, too.
            State::Draining {
                closing: known,
                is_announced,
            } => {
                *known = known.or(closing);
                *is_announced &= closing.is_none();
                return self.settle(ctx);
            }
            State::Connected | State::Open => {}
        }
        self.state = State::Draining {
            closing,
            is_announced: false,
        };
        self.report(Report::Draining);
        let limit = limit.map_or(self.settings.drain, |limit| limit.min(self.settings.drain));
        ctx.run_later(limit, move |this, ctx| {
            let code = closing.unwrap_or(CloseCode::Drained);
            this.close(code, "drained as far as time allowed", ctx);
        });
        self.settle(ctx);
    }

    /// Ends a drain when nothing is in flight.
    pub(super) fn settle(&mut self, ctx: &mut Context<Self>) {
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

    /// Looks after everything that time brings.
    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.state == State::Closed {
            // Without `Plugins` nobody else tells the actor to stop.
            if !self.plugins.connected() {
                ctx.stop();
            }
            return;
        }
        let now = Instant::now();
        let limit = self.settings.heartbeat * 3;
        let is_silent = now.duration_since(self.last_received) >= limit;
        let stalled = self.outbox.stalled_since(now);
        if is_silent {
            return self.close(CloseCode::HeartbeatLost, "nothing received", ctx);
        }
        if stalled.is_some_and(|since| now.duration_since(since) >= limit) {
            return self.close(CloseCode::HeartbeatLost, "does not read", ctx);
        }
        if now.duration_since(self.outbox.last_sent) >= self.settings.heartbeat {
            self.post(&ServerMessage::Ping, ctx);
        }
        for ticket in self.requests.overdue(now) {
            self.cancel_request(ticket, CancelReason::Deadline, ctx);
        }
        let num_stuck = self.requests.num_stuck(now, self.settings.stuck_after);
        if num_stuck > 0 && num_stuck >= self.window {
            self.close(CloseCode::AllStuck, "no slot is answered", ctx);
        }
    }
}
