//! Accounts: users, roles and relations, as events.

pub mod messages;
pub mod ports;
pub mod service;
