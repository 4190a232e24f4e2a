//! The port through which actions reach the accounts.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::UserState;
use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::time::Timestamp;

use super::messages::{ChangeRelations, ChangeRoles, LogIn, Session, SetFlaggedRoles, SignUp};
use crate::context::RequestContext;

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// The user.
    pub user: UserId,
    /// When it was issued.
    pub issued_at: Option<Timestamp>,
}

/// Users, roles and relations.
#[async_trait]
pub trait AccountService: Send + Sync + 'static {
    /// Creates a user and signs it in.
    ///
    /// # Errors
    /// 108 for auth data that is not one of the configured forms, 109 for one that is taken,
    /// 114, and whatever a hook of the `user` type refuses with.
    async fn sign_up(&self, command: SignUp) -> Result<Session, ApiError>;

    /// Signs a user in.
    ///
    /// # Errors
    /// 108, 110 without such a user, 105 for a wrong password, 127 for a disabled user.
    async fn log_in(&self, command: LogIn) -> Result<Session, ApiError>;

    /// Returns the caller's session with a fresh token; makes the user record if it is missing.
    ///
    /// # Errors
    /// 10001 without such a user.
    async fn me(&self, context: RequestContext) -> Result<Session, ApiError>;

    /// Reads a token; `None` when it is not one of ours, expired, or not valid any more as such.
    fn read_token(&self, token: &str) -> Option<TokenClaims>;

    /// Loads a user's auth row.
    ///
    /// # Errors
    /// The store failed.
    async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError>;

    /// Makes the auth row of a user whom the master key names, if it is missing.
    ///
    /// # Errors
    /// Overload.
    async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError>;

    /// Whether a user is locked out at present.
    ///
    /// # Errors
    /// 127, with the reason and the time when it ends, if they are known.
    fn refuse_disabled(&self, state: &UserState) -> Result<(), ApiError>;

    /// Gives or takes roles.
    ///
    /// # Errors
    /// Overload.
    async fn change_roles(&self, command: ChangeRoles) -> Result<(), ApiError>;

    /// Sets which roles carry a flag.
    ///
    /// # Errors
    /// Overload.
    async fn set_flagged_roles(&self, command: SetFlaggedRoles) -> Result<(), ApiError>;

    /// Returns users' roles; users that do not exist have none.
    ///
    /// # Errors
    /// The store failed.
    async fn roles_of(
        &self,
        users: &[UserId],
    ) -> Result<BTreeMap<UserId, BTreeSet<RoleName>>, ApiError>;

    /// Whether one of the roles opens the administrators' actions.
    fn is_admin(&self, roles: &BTreeSet<RoleName>) -> bool;

    /// Makes or ends relations; one result per target.
    ///
    /// # Errors
    /// Overload.
    async fn change_relations(
        &self,
        command: ChangeRelations,
    ) -> Result<Vec<Result<UserId, ApiError>>, ApiError>;
}
