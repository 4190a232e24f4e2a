//! The accounts actor: users, roles and relations.
//!
//! It decides as record actors do: reads at a known position, then appends what
//! rests on it. Passwords are hashed elsewhere ([`super::ports`]) and never get here
//! other than as hashes; tokens never get into the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use skytrail_schema::auth_keys::{AuthData, AuthKeys};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, RoleFlags, Stream, UserState};
use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::messages::{
    Arrival, ChangePassword, ChangeRelations, ChangeRoles, ImportRoles, ImportUser, LinkAccount,
    ListRelated, LogIn, LogInWithAccount, RelatedUsers, ResetPassword, Session, SetDisabled,
    SetFlaggedRoles, SignUp, SignUpWithAccount, UnlinkAccount,
};
use super::policy::PasswordPolicy;
use super::ports::{PasswordHasher, Tokens};
use super::service::{AccountService, TokenClaims};
use super::{admission, import, relations, sign_up, sso};
use crate::context::RequestContext;
use crate::import::Outcome as ImportOutcome;
use crate::record::apply::VersionedUser;
use crate::record::attempt::{Outcome, commit, turn_of, until_settled};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

/// See the module's overview.
pub struct Accounts {
    pub(super) env: RecordEnv,
    pub(super) hasher: Arc<dyn PasswordHasher>,
    pub(super) tokens: Arc<dyn Tokens>,
    pub(super) settings: AccountSettings,
    pub(super) turn: Mutex<()>,
}

/// How accounts work here.
#[derive(Clone, Debug, Default)]
pub struct AccountSettings {
    /// What identifies a user.
    pub auth_keys: AuthKeys,
    /// Which passwords are refused.
    pub policy: PasswordPolicy,
    /// Whether only users whose record says `is_verified` may use records.
    pub is_verification_required: bool,
}

/// What the accounts say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountsState {
    /// How many roles there are.
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

    /// Loads a user's auth row as of the present.
    pub(super) async fn load(&self, id: &UserId) -> Result<(u64, Option<VersionedUser>), ApiError> {
        load(&self.env, id).await
    }

    /// Returns a fresh user id.
    pub(super) fn new_user_id() -> UserId {
        UserId::new(Uuid::new_v4().to_string())
    }
}

/// Loads a user's auth row as of the present, and as of which position that is.
pub(crate) async fn load(
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

#[async_trait]
impl AccountService for Accounts {
    async fn sign_up(&self, command: SignUp) -> Result<Session, ApiError> {
        sign_up::sign_up(self, command).await
    }

    async fn log_in(&self, command: LogIn) -> Result<Session, ApiError> {
        self.log_in_with_password(command).await
    }

    async fn me(
        &self,
        context: RequestContext,
        as_of: Option<Timestamp>,
    ) -> Result<Session, ApiError> {
        self.session_of_caller(context, as_of).await
    }

    async fn read_token(&self, token: &str) -> Result<Option<TokenClaims>, ApiError> {
        self.tokens.read(token, self.env.clock.now()).await
    }

    async fn log_out(&self, token: Option<&str>, context: &RequestContext) -> Result<(), ApiError> {
        self.end_session(token, context).await
    }

    async fn find_user(&self, auth_data: &AuthData) -> Result<Option<UserId>, ApiError> {
        match self.settings.auth_keys.effective(auth_data) {
            Some(alternative) => self.find(alternative, auth_data).await,
            None => Ok(None),
        }
    }

    async fn find_named(&self, name: &str) -> Result<Option<UserId>, ApiError> {
        for key in self.settings.auth_keys.single() {
            let value = Value::String(name.to_owned());
            let auth_data = AuthData::from([(key.to_owned(), value)]);
            if let Some(found) = self.find_user(&auth_data).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError> {
        Ok(self.load(id).await?.1.map(|(_, state)| state))
    }

    async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError> {
        until_settled(turn_of(&self.turn, context), |_| async {
            let (position, user) = self.load(id).await?;
            if let Some((_, state)) = user {
                return Ok(Outcome::Done(state));
            }
            // Whoever is late to hear of him must not bring him back.
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

    fn refuse_erased(&self, id: &UserId) -> Result<(), ApiError> {
        let Some(at) = self.env.assets.erasures.time_of_user(id) else {
            return Ok(());
        };
        let message =
            format!("the user {id} was erased at {at}, and only auth:import makes one of that id");
        Err(ApiError::new(Code::ResourceNotFound, message))
    }

    fn admit(&self, user: &UserState, as_of: Option<Timestamp>) -> Result<(), ApiError> {
        admission::refuse_disabled(user, self.env.clock.now())?;
        admission::refuse_revoked(user, as_of)
    }

    fn refuse_expired_password(&self, user: &UserState) -> Result<(), ApiError> {
        self.settings
            .policy
            .refuse_expired(user, self.env.clock.now())
    }

    fn password_expiry(&self, user: &UserState) -> Option<Timestamp> {
        self.settings.policy.expiry(user)
    }

    async fn require_user_record(&self, context: &RequestContext) -> Result<(), ApiError> {
        self.require_record(context).await
    }

    async fn check_verified(&self, context: &RequestContext) -> Result<(), ApiError> {
        self.refuse_unverified(context).await
    }

    async fn change_password(&self, command: ChangePassword) -> Result<Session, ApiError> {
        self.change_own_password(command).await
    }

    async fn reset_password(&self, command: ResetPassword) -> Result<Session, ApiError> {
        self.reset_users_password(command).await
    }

    async fn set_disabled(&self, command: SetDisabled) -> Result<(), ApiError> {
        self.lock(command).await
    }

    async fn import_user(&self, command: ImportUser) -> Result<(), ApiError> {
        import::import(self, command).await
    }

    async fn change_roles(&self, command: ChangeRoles) -> Result<(), ApiError> {
        self.give_or_take_roles(command).await
    }

    async fn set_flagged_roles(&self, command: SetFlaggedRoles) -> Result<(), ApiError> {
        self.flag_roles(command).await
    }

    fn list_roles(&self) -> BTreeMap<RoleName, RoleFlags> {
        let roles = self.env.model.get_roles().into_iter();
        roles.map(|(name, (_, flags))| (name, flags)).collect()
    }

    async fn import_roles(&self, command: ImportRoles) -> Result<Vec<ImportOutcome>, ApiError> {
        import::import_roles(self, &command).await
    }

    async fn roles_of(
        &self,
        users: &[UserId],
    ) -> Result<BTreeMap<UserId, BTreeSet<RoleName>>, ApiError> {
        self.load_roles(users).await
    }

    fn is_admin(&self, roles: &BTreeSet<RoleName>) -> bool {
        self.has_admin_role(roles)
    }

    async fn change_relations(
        &self,
        command: ChangeRelations,
    ) -> Result<relations::Changed, ApiError> {
        relations::change(self, command).await
    }

    async fn list_related(&self, command: ListRelated) -> Result<RelatedUsers, ApiError> {
        relations::list(self, command).await
    }

    async fn log_in_with_account(&self, command: LogInWithAccount) -> Result<Arrival, ApiError> {
        sso::log_in(self, command).await
    }

    async fn sign_up_with_account(&self, command: SignUpWithAccount) -> Result<Session, ApiError> {
        sso::sign_up(self, command).await
    }

    async fn link_account(&self, command: LinkAccount) -> Result<(), ApiError> {
        sso::link(self, command).await
    }

    async fn unlink_account(&self, command: UnlinkAccount) -> Result<(), ApiError> {
        sso::unlink(self, command).await
    }
}
