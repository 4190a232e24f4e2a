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

/// What a session goes on over.
#[derive(Debug)]
pub(super) enum Link {
    /// The transport of the connection with this number.
    Up(WorkerId),
    /// Nothing, until the worker comes back or the timer ends the session.
    Down(SpawnHandle),
    /// This connection has no session of its own; what comes in is this session's.
    HandedOver(Addr<PluginConnection>),
}

impl PluginConnection {
    /// Looks for the session that a worker claims; begins one if that cannot go on.
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
        // Nothing else is read before the answer; both actors only look into their tables.
        ctx.wait(attached.map(|session, this, ctx| match session {
            Some(session) => this.hand_over(session),
            None => this.join(hello, ctx),
        }));
    }

    fn hand_over(&mut self, session: Addr<Self>) {
        self.outbox.detach();
        self.link = Link::HandedOver(session);
    }

    /// Goes on over the transport of another connection, if that is the worker's who had this
    /// session and nothing is lost.
    fn attach(&mut self, attach: Attach, ctx: &mut Context<Self>) -> bool {
        // Not even the time that it takes tells how much of it was right.
        let secret = attach.claim.secret.as_bytes();
        let is_mine: bool = self.secret.as_bytes().ct_eq(secret).into();
        if !is_mine || !self.can_come_back() {
            return false;
        }
        let received = attach.claim.received;
        if !self.outbox.can_go_on_after(received) {
            self.close(
                CloseCode::TakenOver,
                "what is missing is not kept any more",
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
        tracing::info!(plugin = %self.plugin, "worker back, session resumed");
        self.last_received = Instant::now();
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

    /// The transport is gone: the session waits for its worker, if that can come back.
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

    /// Hangs up on a transport over which nothing moves. The session waits for its worker.
    pub(super) fn hang_up(&mut self, reason: &str, ctx: &mut Context<Self>) {
        if !self.can_come_back() {
            return self.close(CloseCode::HeartbeatLost, reason, ctx);
        }
        self.outbox.close(CloseCode::HeartbeatLost, reason);
        self.lose_link(ctx);
    }

    /// Whether the worker may come back to this session. A server that restarts takes nobody.
    fn can_come_back(&self) -> bool {
        let is_taken = !matches!(self.state, State::Connected | State::Closed);
        is_taken && self.has_feature(RESUME) && !self.state.is_for_restart()
    }

    /// Whether the session waits for a worker that cannot come back.
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
            // A session that is over has said goodbye.
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
