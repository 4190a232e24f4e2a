//! WebSocket doors: pub/sub for clients, and the plugins' transport.

mod incoming;
pub mod plugin;
pub mod pubsub;
