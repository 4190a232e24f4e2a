//! What accounts are asked, and what they answer.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value as Json;
use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::event::{Disabled, PastPassword, RoleFlags, Service};
use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::predicate::{Direction, Relation};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;

use crate::context::RequestContext;

/// A password as a user typed it; never empty, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a string; an empty one is not a password.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        Some(text.into()).filter(|text| !text.is_empty()).map(Self)
    }

    /// Returns the string, for code that hashes or judges it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Creates a user: auth row and `user` record in one commit.
#[derive(Clone, Debug)]
pub struct SignUp {
    /// The request's context.
    pub context: RequestContext,
    /// Values of auth keys, `username` and `email` by default; empty for an anonymous user.
    pub auth_data: AuthData,
    /// The password; `None` for an anonymous user.
    pub password: Option<Password>,
    /// Further fields of the user record.
    pub profile: Fields,
}

/// Signs a user in.
#[derive(Clone, Debug)]
pub struct LogIn {
    /// The request's context.
    pub context: RequestContext,
    /// Values of auth keys.
    pub auth_data: AuthData,
    /// The password; `None` counts as a wrong one.
    pub password: Option<Password>,
}

/// Changes the caller's own password.
#[derive(Clone, Debug)]
pub struct ChangePassword {
    /// The request's context.
    pub context: RequestContext,
    /// The present password.
    pub old: Password,
    /// The new one.
    pub new: Password,
}

/// Gives a user a new password.
#[derive(Clone, Debug)]
pub struct ResetPassword {
    /// The request's context; only the master key is allowed.
    pub context: RequestContext,
    /// The user.
    pub user: UserId,
    /// The new password.
    pub new: Password,
}

/// Locks a user out, or lets them in again.
#[derive(Clone, Debug)]
pub struct SetDisabled {
    /// The request's context.
    pub context: RequestContext,
    /// The user.
    pub user: UserId,
    /// Why and until when; `None` lets the user in again.
    pub disabled: Option<Disabled>,
}

/// Imports a user from another server, with their state there; no hooks run.
#[derive(Clone, Debug)]
pub struct ImportUser {
    /// The request's context; only the master key is allowed.
    pub context: RequestContext,
    /// The id, which the user keeps.
    pub user: UserId,
    /// Values of auth keys; empty for a user who signs in by other means.
    pub auth_data: AuthData,
    /// Argon2id or bcrypt hash of the password; `None` for a user without one.
    pub password_hash: Option<String>,
    /// The hashes of the user's past passwords, the newest first, with or without the present one.
    /// As much is kept as the password policy here requires.
    pub password_history: Vec<PastPassword>,
    /// Further fields of the user record.
    pub profile: Fields,
    /// Roles; created if missing.
    pub roles: BTreeSet<RoleName>,
    /// Accounts elsewhere with which the user can sign in.
    pub accounts: Vec<Account>,
    /// Tokens issued before are refused.
    pub token_valid_since: Option<Timestamp>,
    /// When the user was last seen.
    pub last_seen_at: Option<Timestamp>,
    /// Whether, why and until when the user is locked out.
    pub disabled: Option<Disabled>,
}

/// The answer of sign-up, login and `me`.
#[derive(Clone, Debug)]
pub struct Session {
    /// The user.
    pub user: UserId,
    /// The user record, as the user may read it.
    pub profile: Option<Record>,
    /// Roles.
    pub roles: BTreeSet<RoleName>,
    /// A fresh token.
    pub access_token: String,
    /// The login before this one.
    pub last_login_at: Option<Timestamp>,
    /// When the user was last seen before this.
    pub last_seen_at: Option<Timestamp>,
}

/// A change of users' roles.
#[derive(Clone, Debug)]
pub struct ChangeRoles {
    /// The request's context.
    pub context: RequestContext,
    /// The users; unknown ones are ignored.
    pub users: Vec<UserId>,
    /// The roles; created if missing.
    pub roles: BTreeSet<RoleName>,
    /// Whether the roles are given rather than taken.
    pub is_assignment: bool,
}

/// An account elsewhere, and what the service there says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Who vouches for the user.
    pub service: Service,
    /// The account's id there.
    pub principal: String,
    /// What the service says about it; null if nothing.
    pub profile: Json,
}

/// Signs in the user to whom an account elsewhere is linked.
#[derive(Clone, Debug)]
pub struct LogInWithAccount {
    /// The request's context.
    pub context: RequestContext,
    /// The account; the caller vouches for it.
    pub account: Account,
    /// Fields that are merged into the user record.
    pub fields: Fields,
    /// Whether a user is created for an account that is linked to nobody.
    pub may_sign_up: bool,
}

/// A user who signed in with an account elsewhere.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The session.
    pub session: Session,
    /// Whether the user was created just now.
    pub is_new: bool,
}

/// Creates a user for an account elsewhere.
#[derive(Clone, Debug)]
pub struct SignUpWithAccount {
    /// The request's context.
    pub context: RequestContext,
    /// The account; the caller vouches for it.
    pub account: Account,
    /// Fields of the user record.
    pub fields: Fields,
}

/// Links an account elsewhere to an existing user.
#[derive(Clone, Debug)]
pub struct LinkAccount {
    /// The request's context.
    pub context: RequestContext,
    /// The user.
    pub user: UserId,
    /// The account.
    pub account: Account,
}

/// Unlinks a user's account at a service.
#[derive(Clone, Debug)]
pub struct UnlinkAccount {
    /// The request's context.
    pub context: RequestContext,
    /// The user.
    pub user: UserId,
    /// The service.
    pub service: Service,
}

/// Which flag of roles is set as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleFlag {
    /// Given at sign-up.
    Default,
    /// Opens the administrators' actions.
    Admin,
}

/// Makes exactly these roles carry a flag.
#[derive(Clone, Debug)]
pub struct SetFlaggedRoles {
    /// The request's context.
    pub context: RequestContext,
    /// The flag.
    pub flag: RoleFlag,
    /// The roles; created if missing.
    pub roles: BTreeSet<RoleName>,
}

/// Imports roles from another server.
#[derive(Clone, Debug)]
pub struct ImportRoles {
    /// The request's context; only the master key is allowed.
    pub context: RequestContext,
    /// The roles, with their flags there.
    pub roles: Vec<(RoleName, RoleFlags)>,
    /// Whether the outcomes are only returned, and nothing is stored.
    pub is_dry: bool,
}

/// Creates or ends relations from the caller to others.
#[derive(Clone, Debug)]
pub struct ChangeRelations {
    /// The request's context; the relations are the caller's.
    pub context: RequestContext,
    /// The kind.
    pub relation: Relation,
    /// The other users.
    pub targets: Vec<UserId>,
    /// Whether the relations are created rather than ended.
    pub is_addition: bool,
}

/// Lists users that are related to the caller.
#[derive(Clone, Debug)]
pub struct ListRelated {
    /// The request's context; the relations are the caller's.
    pub context: RequestContext,
    /// The kind.
    pub relation: Relation,
    /// Which way they point; `Mutual` for both ways.
    pub direction: Direction,
    /// How many at most; `None` for all.
    pub limit: Option<u64>,
    /// How many are skipped, in the order of ids.
    pub offset: u64,
}

/// A user who is related to the caller.
#[derive(Clone, Debug)]
pub struct RelatedUser {
    /// The user.
    pub id: UserId,
    /// The user record, as the caller may see it, if there is one.
    pub profile: Option<Record>,
}

/// A page of related users.
#[derive(Clone, Debug)]
pub struct RelatedUsers {
    /// The page.
    pub users: Vec<RelatedUser>,
    /// How many there are in all.
    pub count: u64,
}
