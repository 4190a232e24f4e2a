//! The server's requests to the worker, and the worker's own calls.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorContext, AsyncContext, Context, Handler};
use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::actor::{PluginConnection, State, quote, to_millis};
use super::requests::{id_of, ticket_of};
use crate::plugin::caller::{ApiReply, PluginCall};
use crate::plugin::errors::{Unavailable, response_timed_out, too_deep, unavailable};
use crate::plugin::gate::{Lineage, Via};
use crate::plugin::messages::{CallDone, Dispatch, Job, Lane, Notice, Report};
use crate::plugin::protocol::{
    CallMessage, CancelReason, CloseCode, DELIVER, Problem, RequestMessage, ServerMessage,
};
use crate::spawn::spawn_named;

/// How often a choked transport is checked.
const CHOKE_CHECK: Duration = Duration::from_millis(50);

/// How many problems of a registration are reported.
const MAX_PROBLEMS: usize = 100;

impl PluginConnection {
    fn dispatch(&mut self, mut job: Box<Job>, ctx: &mut Context<Self>) {
        if job.is_abandoned() {
            return self.report(Report::Freed { ticket: job.ticket });
        }
        if !self.has_room(&job) {
            return self.give_back(job, ctx);
        }
        let max_nested = self.window.max(1) * usize::try_from(self.settings.max_depth).unwrap_or(1);
        if job.lane != Lane::Window && self.requests.num_nested() >= max_nested {
            job.answer(Err(unavailable(&self.plugin, Unavailable::QueueFull)));
            return self.report(Report::Freed { ticket: job.ticket });
        }
        match self.send_request(&job) {
            Ok(()) => self.requests.insert(job),
            Err(error) => {
                job.answer(Err(error));
                self.report(Report::Freed { ticket: job.ticket });
            }
        }
        self.bound_outbox(ctx);
    }

    /// Returns whether the window and the transport have room for one more.
    fn has_room(&self, job: &Job) -> bool {
        match self.state {
            // A suspended worker is waited for: what is sent now is kept for it.
            State::Open | State::Draining { .. } if job.lane != Lane::Window => true,
            State::Open if self.is_suspended() => false,
            State::Open => {
                self.requests.num_plain() < self.window
                    && self.outbox.waiting_bytes() <= self.settings.send_buffer
            }
            _ => false,
        }
    }

    fn give_back(&mut self, job: Box<Job>, ctx: &mut Context<Self>) {
        let is_choked = self.outbox.waiting_bytes() > self.settings.send_buffer;
        if is_choked && !self.is_choked {
            self.is_choked = true;
            self.watch_choke(ctx);
        }
        let capacity = self.capacity();
        self.report(Report::Returned { job, capacity });
    }

    fn watch_choke(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(CHOKE_CHECK, |this, ctx| {
            if this.outbox.waiting_bytes() > this.settings.send_buffer / 2 {
                this.watch_choke(ctx);
            } else {
                this.is_choked = false;
                this.tell_capacity();
            }
        });
    }

    fn send_request(&mut self, job: &Job) -> Result<(), ApiError> {
        let rest = job.deadline.saturating_duration_since(Instant::now());
        let via = &job.lineage.via;
        let request = ServerMessage::Request(RequestMessage {
            id: &id_of(job.ticket),
            timeout_ms: to_millis(rest).max(1),
            kind: job.kind,
            name: &job.name,
            param: job.param.as_deref(),
            context: job.context.as_ref(),
            // Other workers' ids would mean nothing to this one.
            parent: via
                .iter()
                .rfind(|via| via.worker == self.id)
                .map(|via| &*via.call),
            // A request that no call caused is nested in nothing.
            depth: if via.is_empty() { 0 } else { job.lineage.depth },
            delivery: job
                .delivery
                .as_ref()
                .filter(|_| self.has_feature(DELIVER))
                .map(|lease| &lease.note),
        });
        self.outbox.send(&request, self.received())
    }

    /// Tells the worker to stop working on a request.
    pub(super) fn cancel_request(
        &mut self,
        ticket: u64,
        reason: CancelReason,
        ctx: &mut Context<Self>,
    ) {
        if self.requests.give_up(ticket, Instant::now()) {
            let id = id_of(ticket);
            self.post(&ServerMessage::Cancel { id: &id, reason }, ctx);
        }
    }

    /// Tells the worker to stop working on all requests.
    pub(super) fn cancel_all(&mut self, reason: CancelReason, ctx: &mut Context<Self>) {
        for ticket in self.requests.awaited() {
            self.cancel_request(ticket, reason, ctx);
        }
    }

    fn tell_registered(&mut self, outcome: Result<Json, Vec<Problem>>, ctx: &mut Context<Self>) {
        match outcome {
            Ok(points) => {
                let taken = ServerMessage::Registered {
                    ok: true,
                    points: Some(points),
                    problems: &[],
                };
                self.post(&taken, ctx);
            }
            Err(mut problems) => {
                problems.truncate(MAX_PROBLEMS);
                let refused = ServerMessage::Registered {
                    ok: false,
                    points: None,
                    problems: &problems,
                };
                self.post(&refused, ctx);
                self.close(CloseCode::RegistrationRefused, "registration refused", ctx);
            }
        }
    }

    fn begin_drain(
        &mut self,
        reason: &str,
        (workers, within): (Option<usize>, Option<Duration>),
        ctx: &mut Context<Self>,
    ) {
        let reconnect = workers.is_some();
        let code = if reconnect {
            CloseCode::Restart
        } else {
            CloseCode::Drained
        };
        let drain = ServerMessage::Drain {
            reason,
            reconnect,
            workers,
        };
        self.post(&drain, ctx);
        self.drain(Some(code), within, ctx);
    }

    pub(super) fn receive_call(&mut self, call: CallMessage, ctx: &mut Context<Self>) {
        let id: Arc<str> = call.id.as_str().into();
        if self.calls.len() >= self.settings.max_calls {
            return self.reply(&id, &too_many_calls(), ctx);
        }
        let Some((lineage, deadline, over)) = self.lineage_of(&call, &id) else {
            return self.reply(&id, &error_reply(&parent_ended("nothing was done")), ctx);
        };
        if lineage.depth > self.settings.max_depth {
            return self.reply(&id, &error_reply(&too_deep()), ctx);
        }
        if !self.calls.insert(&id) {
            let message = format!("a call with the id {:?} is in flight", quote(&id));
            return self.warn(&message, ctx);
        }
        let call = PluginCall {
            plugin: Arc::clone(&self.plugin),
            payload: call.payload,
            lineage,
            deadline: Some(deadline),
        };
        let api = Arc::clone(&self.api);
        let connection = ctx.address();
        // In a task of its own, so that an action never delays answers.
        spawn_named("plugin call", async move {
            let reply = tokio::select! {
                biased;
                () = over.cancelled() => None,
                reply = timeout_at(deadline, api.call(call)) => reply.ok(),
            };
            let reply = reply.unwrap_or_else(|| error_reply(&unended(deadline)));
            // The worker may be gone; then nothing waits for the reply.
            let _ = connection.send(CallDone { id, reply }).await;
        });
    }

    /// Returns a call's lineage, its deadline, and the token that ends it early: when the request
    /// that it is made for ends. Returns `None` if that request has been answered, or was never
    /// made.
    fn lineage_of(
        &self,
        call: &CallMessage,
        id: &Arc<str>,
    ) -> Option<(Lineage, Instant, CancellationToken)> {
        let limit = call.timeout.unwrap_or(self.settings.call_timeout);
        let own = Instant::now() + limit.min(self.settings.call_timeout);
        let Some(parent) = &call.parent else {
            let lineage = Lineage {
                depth: 1,
                ..Lineage::default()
            };
            return Some((lineage, own, CancellationToken::new()));
        };
        let (parent, over) = self.requests.get(ticket_of(parent)?)?;
        let mut lineage = parent.lineage.clone();
        lineage.depth += 1;
        lineage.via.push(Via {
            worker: self.id,
            call: Arc::clone(id),
        });
        Some((lineage, own.min(parent.deadline), over.clone()))
    }

    pub(super) fn cancel_call(&mut self, id: &str, ctx: &mut Context<Self>) {
        if self.calls.cancel(id) {
            let error = ApiError::unexpected("cancelled; the action may have happened");
            let reply = error_reply(&error.with_status(499));
            self.reply(id, &reply, ctx);
        }
    }

    fn reply(&mut self, id: &str, reply: &ApiReply, ctx: &mut Context<Self>) {
        let message = ServerMessage::Reply {
            id,
            status: reply.status,
            body: &reply.body,
        };
        if self.state == State::Closed {
            return;
        }
        if self.outbox.send(&message, self.received()).is_err() {
            let size = reply.body.to_string().len();
            let refusal = error_reply(&self.outbox.too_large(size));
            let message = ServerMessage::Reply {
                id,
                status: refusal.status,
                body: &refusal.body,
            };
            self.post(&message, ctx);
        }
        self.bound_outbox(ctx);
    }
}

fn too_many_calls() -> ApiReply {
    let error = ApiError::unexpected("too many calls at once").with_status(429);
    error_reply(&error.with_info("retry_after_ms", json!(100)))
}

/// Returns the error of a call that did not finish.
fn unended(deadline: Instant) -> ApiError {
    if Instant::now() >= deadline {
        return response_timed_out();
    }
    parent_ended("the action may have happened")
}

/// Returns the error of a call whose request has ended.
fn parent_ended(what_of_the_action: &str) -> ApiError {
    let message = format!("the call's request has ended; {what_of_the_action}");
    ApiError::unexpected(message).with_status(499)
}

fn error_reply(error: &ApiError) -> ApiReply {
    ApiReply {
        status: error.status(),
        body: json!({"error": error.to_wire()}),
    }
}

impl Handler<Dispatch> for PluginConnection {
    type Result = ();

    fn handle(&mut self, message: Dispatch, ctx: &mut Context<Self>) {
        self.dispatch(message.0, ctx);
    }
}

impl Handler<Notice> for PluginConnection {
    type Result = ();

    fn handle(&mut self, notice: Notice, ctx: &mut Context<Self>) {
        match notice {
            Notice::Cancel(abandon) => self.cancel_request(abandon.ticket, abandon.reason, ctx),
            Notice::Registered(outcome) => self.tell_registered(outcome, ctx),
            Notice::Ready => self.post(&ServerMessage::Ready { state: "ready" }, ctx),
            Notice::Drain {
                reason,
                reconnect,
                within,
            } => self.begin_drain(reason, (reconnect, within), ctx),
            Notice::Outdated if self.is_suspended() => self.end(ctx),
            Notice::Outdated => {}
            Notice::Stop => ctx.stop(),
        }
    }
}

impl Handler<CallDone> for PluginConnection {
    type Result = ();

    fn handle(&mut self, done: CallDone, ctx: &mut Context<Self>) {
        if self.calls.finish(&done.id) {
            self.reply(&done.id, &done.reply, ctx);
        }
        self.end_drain_if_idle(ctx);
    }
}
