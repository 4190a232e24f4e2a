//! Record types: one actor each, which sequences a write from command to commit.

pub mod apply;
pub mod decide;
pub mod draft;
pub mod env;
pub mod live;
pub mod messages;
pub mod migrate;
