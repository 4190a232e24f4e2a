//! Accounts: users, roles and relations, as events.

mod actor;
pub mod messages;
pub mod ports;
mod relations;
pub mod service;
mod sign_up;

pub use actor::{Accounts, AccountsState};
