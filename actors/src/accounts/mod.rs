//! Accounts: users, roles and relations, as events.

pub mod messages;
