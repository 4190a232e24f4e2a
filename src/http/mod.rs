//! The HTTP door: envelope, credentials, checks, routing.
//!
//! A request goes through `frame` (request id, CORS, headers of every answer),
//! `router` (which action), `checks` (who asks, and may he), and then to an action.

mod body;
pub mod checks;
pub mod connection;
mod contents;
pub mod counters;
pub mod error;
mod files;
pub mod frame;
pub mod health;
mod limits;
pub mod mask;
mod metrics;
pub mod remote;
pub mod reply;
pub mod router;
pub mod server;
pub mod trace;
