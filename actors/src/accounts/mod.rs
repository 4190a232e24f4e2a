//! Accounts: users, roles and relations, as events.
//!
//! Accounts decide as record actors do, but without a mailbox: they read at a known position, then
//! append what rests on it. Passwords are hashed elsewhere ([`ports`]), and only their hashes are
//! stored; tokens never get into the log.

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
mod user;

use std::sync::Arc;

use serde::Serialize;
use skytrail_schema::auth_keys::AuthKeys;
use tokio::sync::Mutex;

use self::policy::PasswordPolicy;
use self::ports::{PasswordHasher, Tokens};
use crate::record::env::RecordEnv;
use crate::record::turns::Turns;

pub(crate) use sso::plan_release;

/// See the module's overview.
pub struct Accounts {
    env: RecordEnv,
    hasher: Arc<dyn PasswordHasher>,
    tokens: Arc<dyn Tokens>,
    settings: AccountSettings,
    turn: Mutex<()>,
    /// For saves of users' records.
    turns: Turns,
}

/// The settings of accounts.
#[derive(Clone, Debug, Default)]
pub struct AccountSettings {
    /// What identifies a user.
    pub auth_keys: AuthKeys,
    /// Which passwords are refused.
    pub policy: PasswordPolicy,
    /// Whether only users whose record says `is_verified` may use records.
    pub is_verification_required: bool,
}

/// What the accounts report about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountsState {
    /// The number of roles.
    pub num_roles: usize,
}

impl Accounts {
    /// Builds the accounts.
    pub fn new(
        env: RecordEnv,
        hasher: Arc<dyn PasswordHasher>,
        tokens: Arc<dyn Tokens>,
        settings: AccountSettings,
    ) -> Self {
        Self {
            env,
            hasher,
            tokens,
            settings,
            turn: Mutex::new(()),
            turns: Turns::default(),
        }
    }

    /// Returns the accounts' state.
    pub fn state(&self) -> AccountsState {
        AccountsState {
            num_roles: self.env.model.get_roles().len(),
        }
    }
}
