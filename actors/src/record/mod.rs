//! Record types: one actor each, which sequences a write from command to commit.

pub mod apply;
pub mod live;
pub mod messages;
