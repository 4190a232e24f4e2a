//! Which worker has which request: v1's broker as a state machine without sockets and without a
//! clock.
//!
//! The inputs are requests of the server ([`Pool::ask`], [`Pool::cancel`]), its replies to workers'
//! calls ([`Pool::reply`]), messages from workers ([`Pool::hear`]), connections that come and go
//! ([`Pool::link`], [`Pool::unlink`]), and the passing of time ([`Pool::tick`]). The resulting
//! actions are returned by [`Pool::take_actions`].
//!
//! 1. A worker that said READY and has nothing to do is *idle*. A request goes to the idle worker
//!    that was heard last. Without one, it waits for as long as v1 retries, and then times out.
//! 2. A worker has one request at a time, and on top of it a *stack*: its own call, the request
//!    that this call caused, its call for that one, and so on. All share the id; each is one bounce
//!    further. A request that a call caused goes to the worker that made the call, because that is
//!    where the runtime waits with its only thread.
//! 3. Every request is answered once: by its worker, or when its time is over, or when its worker
//!    is lost. Later answers are dropped.
//! 4. A worker that is busy may be silent. An idle worker that is silent is dropped, and so is a
//!    worker that has lost its connection and does not come back soon.
//!
//! Files: `state` (requests, replies, connections), `hearing` (messages from workers), `time`,
//! `worker` (one worker).

mod hearing;
mod state;
mod time;
mod worker;

pub(super) use state::{Action, CallId, Failure, Limits, Pool, Ticket, WorkerRequest};

#[cfg(test)]
mod tests;
