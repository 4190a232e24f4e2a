//! The session and its transports: suspended when one is lost, resumed over another.

use actix::fut::wrap_future;
use actix::{
    ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Response, SpawnHandle,
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::actor::{PluginConnection, State};
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{
    Attach, FindSession, FromTransport, Relayed, Report, TransportEvent,
};
use crate::plugin::protocol::{CloseCode, Hello, RESUME, Resume};

/// What a session runs over.
#[derive(Debug)]
pub(super) enum Link {
    /// The transport of the connection with this number.
    Up(WorkerId),
    /// No transport, until the worker comes back or the timer ends the session.
    Down(SpawnHandle),
    /// This connection has no session of its own; incoming messages belong to this one.
    HandedOver(Addr<PluginConnection>),
}

impl PluginConnection {
    /// Looks for the session that a worker claims; starts a new one if that session cannot
    /// continue.
    pub(super) fn claim(&mut self, hello: Hello, claim: Resume, ctx: &mut Context<Self>) {
        let Some(sender) = self.outbox.sender() else {
            return;
        };
        let find = FindSession {
            plugin: hello.plugin.clone(),
            session: claim.session.clone(),
        };
        let attach = Attach {
            link: self.id,
            sender,
            claim,
            window: hello.window,
        };
        let plugins = self.plugins.clone();
        let attached = wrap_future::<_, Self>(async move {
            let session = plugins.send(find).await.ok().flatten()?;
            let is_attached = session.send(attach).await.unwrap_or(false);
            is_attached.then_some(session)
        });
        // Nothing else is read before the answer; both actors only do table lookups.
        ctx.wait(attached.map(|session, this, ctx| match session {
            Some(session) => this.hand_over(session),
            None => this.join(hello, ctx),
        }));
    }

    fn hand_over(&mut self, session: Addr<Self>) {
        self.outbox.detach();
        self.link = Link::HandedOver(session);
    }

    /// Continues over the transport of another connection, if the claim is valid and nothing is
    /// lost.
    fn attach(&mut self, attach: Attach, ctx: &mut Context<Self>) -> bool {
        // Not even the time that it takes may tell how much of the secret was right.
        let secret = attach.claim.secret.as_bytes();
        let is_mine: bool = self.secret.as_bytes().ct_eq(secret).into();
        if !is_mine || !self.can_come_back() {
            return false;
        }
        let received = attach.claim.received;
        if !self.outbox.can_go_on_after(received) {
            self.close(
                CloseCode::TakenOver,
                "the missing messages are no longer kept",
                ctx,
            );
            return false;
        }
        match std::mem::replace(&mut self.link, Link::Up(attach.link)) {
            Link::Down(timer) => {
                ctx.cancel_future(timer);
            }
            Link::Up(_) | Link::HandedOver(_) => {
                self.outbox
                    .close(CloseCode::TakenOver, "taken over by a newer connection");
            }
        }
        tracing::info!(plugin = %self.plugin, "worker reconnected, session resumed");
        self.last_received = Instant::now();
        self.received_before_resume = self.received;
        self.outbox.attach(attach.sender);
        self.welcome(Some(self.received()), ctx);
        self.outbox.send_again(received);
        self.report(Report::Resumed);
        self.tell_capacity();
        if let Some(window) = attach.window {
            self.set_window(window, ctx);
        }
        true
    }

    /// Handles the loss of the transport: the session waits for its worker, if it can come back.
    pub(super) fn lose_link(&mut self, ctx: &mut Context<Self>) {
        self.outbox.detach();
        if !self.can_come_back() {
            return self.end(ctx);
        }
        tracing::info!(plugin = %self.plugin, "worker connection lost, session suspended");
        let timer = ctx.run_later(self.settings.resume, |this, ctx| {
            this.end(ctx);
        });
        self.link = Link::Down(timer);
        self.tell_capacity();
    }

    /// Hangs up on a transport on which nothing moves. The session waits for its worker.
    pub(super) fn hang_up(&mut self, reason: &str, ctx: &mut Context<Self>) {
        if !self.can_come_back() {
            return self.close(CloseCode::HeartbeatLost, reason, ctx);
        }
        self.outbox.close(CloseCode::HeartbeatLost, reason);
        self.lose_link(ctx);
    }

    /// Returns whether the worker can come back to this session. A server that is stopping accepts
    /// nobody.
    fn can_come_back(&self) -> bool {
        let is_taken = !matches!(self.state, State::Connected | State::Closed);
        is_taken && self.has_feature(RESUME) && !self.state.is_for_restart()
    }

    /// Returns whether the session waits for a worker that cannot come back.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_suspended() && self.state.is_for_restart()
    }

    pub(super) fn is_suspended(&self) -> bool {
        matches!(self.link, Link::Down(_))
    }
}

impl Handler<FromTransport> for PluginConnection {
    type Result = Response<()>;

    fn handle(&mut self, message: FromTransport, ctx: &mut Context<Self>) -> Response<()> {
        let (link, event) = (self.id, message.0);
        let Link::HandedOver(session) = &self.link else {
            self.receive(link, event, ctx);
            return Response::reply(());
        };
        let is_over = matches!(event, TransportEvent::Closed | TransportEvent::Goodbye);
        let relayed = session.send(Relayed { link, event });
        if is_over {
            ctx.stop();
        }
        Response::fut(async move {
            // A session that has ended has already sent its close message.
            let _ = relayed.await;
        })
    }
}

impl Handler<Relayed> for PluginConnection {
    type Result = ();

    fn handle(&mut self, message: Relayed, ctx: &mut Context<Self>) {
        self.receive(message.link, message.event, ctx);
    }
}

impl Handler<Attach> for PluginConnection {
    type Result = bool;

    fn handle(&mut self, attach: Attach, ctx: &mut Context<Self>) -> bool {
        Self::attach(self, attach, ctx)
    }
}
