//! WebSocket doors: pub/sub for clients, and the plugins' transport.

mod incoming;
mod outgoing;
pub mod plugin;
pub mod pubsub;
pub mod seats;
pub mod text_frame;
