//! Incoming messages: counted, sorted, and handled.

use actix::Context;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::actor::{PluginConnection, State, quote};
use super::link::Link;
use super::requests::{Answered, ticket_of};
use crate::plugin::errors::{result_of, unreadable_code};
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{Job, Report, Silence, TransportEvent};
use crate::plugin::protocol::{
    CloseCode, Outcome, ResponseMessage, ServerMessage, WorkerFrame, WorkerMessage,
};

impl PluginConnection {
    /// Handles what a transport delivers, unless the session continues without that transport.
    pub(super) fn receive(
        &mut self,
        link: WorkerId,
        event: TransportEvent,
        ctx: &mut Context<Self>,
    ) {
        let is_current = matches!(self.link, Link::Up(current) if current == link);
        if self.state == State::Closed || !is_current {
            return;
        }
        self.last_received = Instant::now();
        match event {
            TransportEvent::Frame(Ok(frame)) => self.receive_frame(frame, ctx),
            TransportEvent::Frame(Err(error)) => self.break_off(&error.to_string(), ctx),
            TransportEvent::Binary => self.break_off("a binary frame", ctx),
            TransportEvent::TooLarge => self.refuse_size(ctx),
            TransportEvent::Closed => self.lose_link(ctx),
            TransportEvent::Goodbye => self.end(ctx),
            TransportEvent::Crew(size) => {
                self.crew = Some(size);
                self.tell_capacity();
            }
            TransportEvent::Reachable(is_reachable) => {
                self.is_unreachable = !is_reachable;
                self.tell_capacity();
            }
        }
    }

    fn refuse_size(&mut self, ctx: &mut Context<Self>) {
        self.close(CloseCode::TooLarge, "message too large", ctx);
    }

    fn receive_frame(&mut self, frame: WorkerFrame, ctx: &mut Context<Self>) {
        if frame.size > self.outbox.max_message {
            return self.refuse_size(ctx);
        }
        if !self.outbox.acknowledge(frame.ack.unwrap_or_default()) {
            self.warn("an ack for a message that was never sent", ctx);
        }
        if self.outbox.acknowledged() == self.received {
            self.unacknowledged_bytes = 0;
        }
        self.unacknowledged_bytes += frame.size;
        self.sort_frame(frame, ctx);
        self.acknowledge_soon(ctx);
    }

    /// Acknowledges with a ping when much was received and nothing else was sent. Until it is
    /// acknowledged, a worker keeps what it has sent.
    fn acknowledge_soon(&mut self, ctx: &mut Context<Self>) {
        const MAX_MESSAGES: u64 = 100;
        const MAX_BYTES: usize = 1024 * 1024;
        let num_messages = self.received - self.outbox.acknowledged();
        if num_messages >= MAX_MESSAGES
            || (num_messages > 0 && self.unacknowledged_bytes >= MAX_BYTES)
        {
            self.post(&ServerMessage::Ping, ctx);
        }
    }

    fn sort_frame(&mut self, frame: WorkerFrame, ctx: &mut Context<Self>) {
        match (self.state, frame.message) {
            (State::Connected, WorkerMessage::Hello(hello)) => self.greet(*hello, ctx),
            (State::Connected, _) => self.break_off("hello should be the first message", ctx),
            (_, WorkerMessage::Hello(_)) => self.break_off("a second hello", ctx),
            (_, WorkerMessage::Ping) => self.post(&ServerMessage::Pong, ctx),
            (_, WorkerMessage::Pong) => {}
            (_, message) => match self.count(frame.seq, &message) {
                Ok(true) => self.receive_message(message, ctx),
                Ok(false) => self.note_repeated(frame.seq.unwrap_or_default(), ctx),
                Err(reason) => self.break_off(&reason, ctx),
            },
        }
    }

    /// Checks the numbering; returns whether the message is new.
    fn count(&mut self, seq: Option<u64>, message: &WorkerMessage) -> Result<bool, String> {
        let expected = self.received + 1;
        match seq {
            Some(0) => Err("seq starts at 1".to_owned()),
            Some(seq) if seq < expected => Ok(false),
            Some(seq) if seq == expected => {
                self.received = seq;
                Ok(true)
            }
            Some(seq) => Err(format!("a gap in seq: got {seq}, expected {expected}")),
            // A future type may be one without a number.
            None if matches!(message, WorkerMessage::Unknown(_)) => Ok(true),
            None => Err(format!("seq is missing, expected {expected}")),
        }
    }

    /// Handles a number that was received already. After a resume a worker may repeat what it has
    /// sent before; any other repetition is a mistake in its numbering, which it is told of.
    fn note_repeated(&mut self, seq: u64, ctx: &mut Context<Self>) {
        if seq > self.received_before_resume {
            self.warn(&format!("seq {seq} was received already"), ctx);
        }
    }

    fn receive_message(&mut self, message: WorkerMessage, ctx: &mut Context<Self>) {
        match message {
            WorkerMessage::Response(response) => self.receive_response(response, ctx),
            WorkerMessage::Call(call) => self.receive_call(call, ctx),
            WorkerMessage::Cancel(id) => self.cancel_call(&id, ctx),
            WorkerMessage::Window(size) => self.set_window(size, ctx),
            WorkerMessage::Drain(limit) => self.drain(None, limit, ctx),
            WorkerMessage::Warning(message) => {
                let message = quote(&message);
                tracing::warn!(plugin = %self.plugin, message, "a worker sent a warning");
            }
            WorkerMessage::Unknown(kind) => {
                self.warn(&format!("unknown type {:?}", quote(&kind)), ctx);
            }
            WorkerMessage::Progress(id) => {
                if let Some(ticket) = ticket_of(&id) {
                    self.requests.extend(ticket, self.last_received);
                }
            }
            WorkerMessage::Hello(_) | WorkerMessage::Ping | WorkerMessage::Pong => {}
        }
    }

    /// Tells the worker and the log that an error's code does not count. Not among the unexpected
    /// messages that end a session: the error itself is answered.
    fn complain_of_code(&mut self, job: &Job, code: &Json, ctx: &mut Context<Self>) {
        let code = code.to_string();
        let code = quote(&code);
        let (plugin, kind, name) = (&self.plugin, job.kind, &job.name);
        tracing::warn!(%plugin, kind, name, code, "an error's code should be a whole number");
        let message =
            format!("the code of the error for {name:?} should be a whole number, not {code}");
        let message = &message;
        self.post(&ServerMessage::Warning { message }, ctx);
    }

    fn receive_response(&mut self, response: ResponseMessage, ctx: &mut Context<Self>) {
        let ticket = ticket_of(&response.id);
        match ticket.map_or(Answered::Unknown, |ticket| self.requests.answer(ticket)) {
            Answered::InTime(mut job) => {
                if let Some(silence) = Silence::of(&response.outcome) {
                    // Set once, because a request is answered once.
                    let _ = job.silence.set(silence);
                }
                if response.outcome == Outcome::Malformed {
                    self.warn("a response has either result or error", ctx);
                }
                if let Some(code) = unreadable_code(&response.outcome) {
                    self.complain_of_code(&job, code, ctx);
                }
                job.answer(result_of(response.outcome, self.settings.dev_mode));
                self.report(Report::Freed { ticket: job.ticket });
            }
            Answered::Late(job) => {
                tracing::debug!(plugin = %self.plugin, name = job.name, "late answer dropped");
                self.figures.count_late();
                self.report(Report::Freed { ticket: job.ticket });
            }
            Answered::Unknown => {
                self.figures.count_stray();
                let id = quote(&response.id);
                self.warn(&format!("nobody waits for an answer to {id:?}"), ctx);
            }
        }
        self.end_drain_if_idle(ctx);
    }
}
