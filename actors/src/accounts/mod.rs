//! Accounts: users, roles and relations, as events.

mod actor;
mod disable;
mod log_in;
pub mod messages;
pub mod ports;
mod relations;
mod roles;
pub mod service;
mod session;
mod sign_up;
mod sso;

pub use actor::{Accounts, AccountsState};
