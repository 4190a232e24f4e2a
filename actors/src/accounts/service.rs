//! The port through which actions reach the accounts.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{RoleFlags, UserState};
use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::time::Timestamp;

use super::messages::{
    Arrival, ChangePassword, ChangeRelations, ChangeRoles, ImportRoles, ImportUser, LinkAccount,
    ListRelated, LogIn, LogInWithAccount, RelatedUser, RelatedUsers, ResetPassword, Session,
    SetDisabled, SetFlaggedRoles, SignUp, SignUpWithAccount, UnlinkAccount,
};
use crate::context::RequestContext;
use crate::import::Outcome as ImportOutcome;

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// The user.
    pub user: UserId,
    /// As of when its user was judged, if that is known: a password that was set later ends it.
    pub as_of: Option<Timestamp>,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
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
    /// `as_of` is that of the token that was shown, if one was.
    ///
    /// # Errors
    /// 10001 without such a user; 104 when he has got a new password meanwhile.
    async fn me(
        &self,
        context: RequestContext,
        as_of: Option<Timestamp>,
    ) -> Result<Session, ApiError>;

    /// Reads a token; `None` when it is not one of ours, expired, or not valid any more as such.
    ///
    /// # Errors
    /// The tokens cannot be asked for at present.
    async fn read_token(&self, token: &str) -> Result<Option<TokenClaims>, ApiError>;

    /// Signs the caller out: his token is forgotten, where tokens are stored, and the log told.
    ///
    /// # Errors
    /// As [`AccountService::read_token`].
    async fn log_out(&self, token: Option<&str>, context: &RequestContext) -> Result<(), ApiError>;

    /// Finds the user whom auth data names.
    ///
    /// # Errors
    /// The store failed.
    async fn find_user(&self, auth_data: &AuthData) -> Result<Option<UserId>, ApiError>;

    /// Finds the user whom one value names, whichever kind of auth data it is, such as `username`.
    ///
    /// # Errors
    /// The store failed.
    async fn find_named(&self, name: &str) -> Result<Option<UserId>, ApiError>;

    /// Loads a user's auth row.
    ///
    /// # Errors
    /// The store failed.
    async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError>;

    /// Makes the auth row of a user whom the master key names, if it is missing. In a sandbox nothing
    /// is stored: there it is answered as it would be.
    ///
    /// # Errors
    /// As [`AccountService::refuse_erased`]; overload.
    async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError>;

    /// Refuses somebody who was erased, and is not there, to whoever names him.
    ///
    /// # Errors
    /// 110 with the time.
    fn refuse_erased(&self, id: &UserId) -> Result<(), ApiError>;

    /// Whether a user may act at present, with a token issued at that time, if it is known.
    ///
    /// # Errors
    /// 127 with the reason and the time when it ends, if they are known; 104 for a token from
    /// before the password was set.
    fn admit(&self, user: &UserState, as_of: Option<Timestamp>) -> Result<(), ApiError>;

    /// Whether a user's password is still good.
    ///
    /// # Errors
    /// 126 (401) when it must be changed.
    fn refuse_expired_password(&self, user: &UserState) -> Result<(), ApiError>;

    /// Returns when a user's password must be changed, if it ever must.
    fn password_expiry(&self, user: &UserState) -> Option<Timestamp>;

    /// Makes the caller's user record if it is missing; where users must be verified, he must be.
    ///
    /// # Errors
    /// 10005 without a user, 128, and whatever a hook of the `user` type refuses with.
    async fn require_user_record(&self, context: &RequestContext) -> Result<(), ApiError>;

    /// Refuses a caller who is a user and not verified, where users must be.
    ///
    /// # Errors
    /// 128; as [`AccountService::require_user_record`].
    async fn check_verified(&self, context: &RequestContext) -> Result<(), ApiError>;

    /// Changes the caller's own password; tokens issued before are refused from then on.
    ///
    /// # Errors
    /// 105 for a wrong old password, 126 for one that the policy refuses.
    async fn change_password(&self, command: ChangePassword) -> Result<Session, ApiError>;

    /// Gives a user a new password; tokens issued before are refused from then on.
    ///
    /// # Errors
    /// 10001 without such a user, 10005 without his record, 126.
    async fn reset_password(&self, command: ResetPassword) -> Result<Session, ApiError>;

    /// Locks a user out, or in again.
    ///
    /// # Errors
    /// 110 without such a user.
    async fn set_disabled(&self, command: SetDisabled) -> Result<(), ApiError>;

    /// Takes over a user of another server. Durable when it returns.
    ///
    /// # Errors
    /// 109 for a user who is there already or auth data that is taken, 108 for what is no hash.
    async fn import_user(&self, command: ImportUser) -> Result<(), ApiError>;

    /// Signs in whoever an account elsewhere is linked to; makes a user for it where that is allowed.
    ///
    /// # Errors
    /// 105 when it is linked to nobody and no user is made, 127 for a disabled user, and whatever
    /// saving the user record refuses with.
    async fn log_in_with_account(&self, command: LogInWithAccount) -> Result<Arrival, ApiError>;

    /// Creates a user without a password for an account elsewhere.
    ///
    /// # Errors
    /// 108 when the account is linked already, and as [`AccountService::sign_up`].
    async fn sign_up_with_account(&self, command: SignUpWithAccount) -> Result<Session, ApiError>;

    /// Links an account elsewhere to a user.
    ///
    /// # Errors
    /// 108 when the account is linked, or the user has one at the service; 110 without such a user.
    async fn link_account(&self, command: LinkAccount) -> Result<(), ApiError>;

    /// Unlinks a user's account at a service.
    ///
    /// # Errors
    /// 110 without such a user, or such an account.
    async fn unlink_account(&self, command: UnlinkAccount) -> Result<(), ApiError>;

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

    /// Returns all roles, with what they open.
    fn list_roles(&self) -> BTreeMap<RoleName, RoleFlags>;

    /// Takes over roles of another server; says of each what became of it. Those that are here stay as
    /// they are. Durable when it returns.
    ///
    /// # Errors
    /// Overload.
    async fn import_roles(&self, command: ImportRoles) -> Result<Vec<ImportOutcome>, ApiError>;

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
    ) -> Result<Vec<Result<RelatedUser, ApiError>>, ApiError>;

    /// Lists users that are related to the caller.
    ///
    /// # Errors
    /// The store failed.
    async fn list_related(&self, command: ListRelated) -> Result<RelatedUsers, ApiError>;
}
