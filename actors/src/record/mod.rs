//! Record types: one actor each, which sequences a write from command to commit.

pub mod apply;
pub mod attempt;
pub mod decide;
pub mod draft;
pub mod env;
pub mod hooks;
pub mod live;
pub mod messages;
pub mod migrate;
pub mod save;
pub mod service;
pub mod types;
