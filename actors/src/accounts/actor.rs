//! The accounts actor: users, roles and relations.
//!
//! It decides as record actors do: reads at a known position, then appends what
//! rests on it. Passwords are hashed elsewhere ([`super::ports`]) and never get here
//! other than as hashes; tokens never get into the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::value::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::disable::refuse_disabled;
use super::messages::{
    Arrival, ChangeRelations, ChangeRoles, LinkAccount, ListRelated, LogIn, LogInWithAccount,
    RelatedUsers, Session, SetFlaggedRoles, SignUp, SignUpWithAccount, UnlinkAccount,
};
use super::ports::{PasswordHasher, Tokens};
use super::service::{AccountService, TokenClaims};
use super::{relations, sign_up, sso};
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, until_settled};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

/// See the module's overview.
pub struct Accounts {
    pub(super) env: RecordEnv,
    pub(super) hasher: Arc<dyn PasswordHasher>,
    pub(super) tokens: Arc<dyn Tokens>,
    /// Alternatives of auth keys, in configured order.
    pub(super) auth_keys: Vec<Vec<String>>,
    pub(super) turn: Mutex<()>,
}

/// What the accounts say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountsState {
    /// How many roles there are.
    pub num_roles: usize,
}

/// A user's auth row with the version of its stream.
pub(super) type VersionedUser = (u32, UserState);

impl Accounts {
    /// Builds the accounts; `auth_keys` are the alternatives of fields that identify a user.
    pub fn new(
        env: RecordEnv,
        hasher: Arc<dyn PasswordHasher>,
        tokens: Arc<dyn Tokens>,
        auth_keys: Vec<Vec<String>>,
    ) -> Self {
        Self {
            env,
            hasher,
            tokens,
            auth_keys,
            turn: Mutex::new(()),
        }
    }

    /// Returns the accounts' state.
    pub fn state(&self) -> AccountsState {
        AccountsState {
            num_roles: self.env.live.get_roles().len(),
        }
    }

    /// Loads a user's auth row as of the present.
    pub(super) async fn load(&self, id: &UserId) -> Result<(u64, Option<VersionedUser>), ApiError> {
        let (position, known) = self.env.live.get_user(id);
        if let Some(known) = known {
            return Ok((position, known.as_deref().cloned()));
        }
        self.env.applied.wait_for(position).await?;
        let loaded = self.env.store.load_users(std::slice::from_ref(id)).await?;
        let user = loaded.into_iter().next().flatten();
        self.env
            .live
            .keep_user(id.clone(), user.clone().map(Arc::new), position);
        Ok((position, user))
    }

    /// Returns a fresh user id.
    pub(super) fn new_user_id() -> UserId {
        UserId::new(Uuid::new_v4().to_string())
    }
}

#[async_trait]
impl AccountService for Accounts {
    async fn sign_up(&self, command: SignUp) -> Result<Session, ApiError> {
        sign_up::sign_up(self, command).await
    }

    async fn log_in(&self, command: LogIn) -> Result<Session, ApiError> {
        self.log_in_with_password(command).await
    }

    async fn me(&self, context: RequestContext) -> Result<Session, ApiError> {
        self.session_of_caller(context).await
    }

    async fn read_token(&self, token: &str) -> Result<Option<TokenClaims>, ApiError> {
        self.tokens.read(token, self.env.clock.now()).await
    }

    async fn forget_token(&self, token: &str) -> Result<(), ApiError> {
        self.tokens.forget(token).await
    }

    async fn find_user(
        &self,
        auth_data: &BTreeMap<String, Value>,
    ) -> Result<Option<UserId>, ApiError> {
        match sign_up::effective_alternative(&self.auth_keys, auth_data) {
            Some(alternative) => self.find(&alternative, auth_data).await,
            None => Ok(None),
        }
    }

    async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError> {
        Ok(self.load(id).await?.1.map(|(_, state)| state))
    }

    async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError> {
        until_settled(&self.turn, |_| async {
            let (position, user) = self.load(id).await?;
            if let Some((_, state)) = user {
                return Ok(Outcome::Done(state));
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

    fn refuse_disabled(&self, state: &UserState) -> Result<(), ApiError> {
        refuse_disabled(state, self.env.clock.now())
    }

    async fn change_roles(&self, command: ChangeRoles) -> Result<(), ApiError> {
        self.give_or_take_roles(command).await
    }

    async fn set_flagged_roles(&self, command: SetFlaggedRoles) -> Result<(), ApiError> {
        self.flag_roles(command).await
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
