//! The actor of one worker connection: its session, its requests and its calls.
//!
//! It lives on the thread of its transport and never waits for anyone: what it cannot do at once
//! it hands to a task that reports back. Files: `actor` (what comes in), `session` (its states),
//! `dispatch` (requests, calls), `outbox` (what goes out, numbered), `requests` (what the worker
//! owes us), `calls` (what we owe it).

mod actor;
mod calls;
mod dispatch;
mod outbox;
mod requests;
mod session;

pub use actor::PluginConnection;
