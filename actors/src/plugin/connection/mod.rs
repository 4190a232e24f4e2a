//! The actor of one worker connection: its session, its requests and its calls.
//!
//! It lives on the thread of its transport and never waits for anyone: what it cannot do at once
//! it hands to a task that reports back. Files: `actor` (its beginning and its end), `receive` (what
//! comes in), `session` (its states), `link` (transports that are lost and come back), `dispatch`
//! (requests, calls), `outbox` (what goes out, numbered), `kept` (what of it is not acknowledged),
//! `requests` (what the worker owes us), `calls` (what we owe it).
//!
//! A session outlives its transport. The first transport's actor owns the session to its end; when
//! the worker comes back, the actor of the new transport hands the outgoing end over to it and
//! passes on what comes in.

mod actor;
mod calls;
mod dispatch;
mod kept;
mod link;
mod outbox;
mod receive;
mod requests;
mod session;

pub use actor::PluginConnection;
