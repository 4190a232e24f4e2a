//! Accounts: users, roles and relations, as events.

mod actor;
pub mod admission;
mod import;
mod log_in;
pub mod messages;
mod password;
pub mod policy;
pub mod ports;
mod relations;
mod roles;
mod session;
mod sign_up;
mod sso;
mod undo;

pub use actor::{AccountSettings, Accounts, AccountsState};

pub(crate) use actor::load as load_user;
pub(crate) use sso::plan_release;
