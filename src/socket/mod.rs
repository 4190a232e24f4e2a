//! WebSocket doors: pub/sub for clients, and the plugins' transport.

pub mod plugin;
pub mod pubsub;
