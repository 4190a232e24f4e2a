//! The actor of one worker connection: its session, its requests and its calls.
//!
//! It lives on the thread of its transport and never waits: what it cannot do at once it hands to a
//! task that reports back. Files: `actor` (start and end), `receive` (incoming messages), `session`
//! (its states), `link` (transports that are lost and come back), `dispatch` (requests and calls),
//! `outbox` (outgoing messages, numbered), `unacknowledged` (those that are not acknowledged), `requests`
//! (what the worker must answer), `calls` (what the server must answer).
//!
//! A session outlives its transport. The actor of the first transport owns the session until it
//! ends. When the worker comes back, the actor of the new transport hands its outgoing end over to
//! that actor and relays incoming messages.

mod actor;
mod calls;
mod dispatch;
mod link;
mod outbox;
mod receive;
mod requests;
mod session;
mod unacknowledged;

pub use actor::PluginConnection;
