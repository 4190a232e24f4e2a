//! WebSocket doors: pub/sub and live queries for clients, the plugins' transport, and the log.

pub mod followers;
mod incoming;
pub mod live;
pub mod log;
mod outgoing;
pub mod plugin;
pub mod pubsub;
pub mod seats;
pub mod text_frame;
mod upgrade;
