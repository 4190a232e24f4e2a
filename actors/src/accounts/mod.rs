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

use std::sync::Arc;

use serde::Serialize;
use skytrail_schema::auth_keys::AuthKeys;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::id::UserId;
use tokio::sync::Mutex;
use uuid::Uuid;

use self::policy::PasswordPolicy;
use self::ports::{PasswordHasher, Tokens};
use crate::context::RequestContext;
use crate::record::apply::VersionedUser;
use crate::record::attempt::{Outcome, commit, turn_of, until_settled};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

pub(crate) use sso::plan_release;

/// See the module's overview.
pub struct Accounts {
    env: RecordEnv,
    hasher: Arc<dyn PasswordHasher>,
    tokens: Arc<dyn Tokens>,
    settings: AccountSettings,
    turn: Mutex<()>,
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
        }
    }

    /// Returns the accounts' state.
    pub fn state(&self) -> AccountsState {
        AccountsState {
            num_roles: self.env.model.get_roles().len(),
        }
    }

    /// Loads a user's auth row.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError> {
        Ok(self.load(id).await?.1.map(|(_, state)| state))
    }

    /// Creates the auth row of a user whom the master key names, if it is missing. A sandbox stores
    /// nothing, but gets the same answer.
    ///
    /// # Errors
    /// Those of [`Accounts::refuse_erased`]; overload.
    pub async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError> {
        until_settled(turn_of(&self.turn, context), |_| async {
            let (position, user) = self.load(id).await?;
            if let Some((_, state)) = user {
                return Ok(Outcome::Done(state));
            }
            // A caller that has not heard of the erasure must not bring the user back.
            self.refuse_erased(id)?;
            if context.is_sandboxed {
                return Ok(Outcome::Done(UserState::default()));
            }
            let mut plan = Plan::default();
            let body = EventBody::UserCreated(UserState::default());
            plan.push(Stream::User(id.clone()), 1, body);
            Ok(
                match commit(&self.env.log, plan, position, context).await? {
                    Outcome::Done(_) => Outcome::Done(UserState::default()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    /// Loads a user's auth row as of the present.
    async fn load(&self, id: &UserId) -> Result<(u64, Option<VersionedUser>), ApiError> {
        load_user(&self.env, id).await
    }

    /// Returns a fresh user id.
    fn new_user_id() -> UserId {
        UserId::new(Uuid::new_v4().to_string())
    }
}

/// Loads a user's auth row as of the present, and returns that position.
pub(crate) async fn load_user(
    env: &RecordEnv,
    id: &UserId,
) -> Result<(u64, Option<VersionedUser>), ApiError> {
    let (position, known) = env.model.get_user(id);
    if let Some(known) = known {
        return Ok((position, known.as_deref().cloned()));
    }
    env.applied.wait_for(position).await?;
    let loaded = env.store.load_users(std::slice::from_ref(id)).await?;
    let user = loaded.into_iter().next().flatten();
    let kept = user.clone().map(Arc::new);
    env.model.keep_user(id.clone(), kept, position);
    Ok((position, user))
}
