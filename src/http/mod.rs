//! The HTTP door: envelope, credentials, checks, routing.
//!
//! A request passes `frame` (request id, CORS, headers of every answer), `router` (which handler or
//! action) and `checks` (who asks, and whether they are allowed to). Then a plugin (`handler`) or
//! an action answers it.

mod body;
pub mod checks;
pub mod connection;
mod contents;
pub mod counters;
mod deadline;
pub mod descriptors;
pub mod error;
mod files;
pub mod frame;
mod handler;
pub mod health;
mod limits;
pub mod live;
mod log;
mod log_search;
pub mod mask;
mod metrics;
pub mod origins;
mod path;
pub mod remote;
pub mod reply;
pub mod router;
pub mod sandbox;
pub mod server;
mod shown;
pub mod sse;
pub mod trace;
