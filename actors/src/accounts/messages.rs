//! What the accounts actor is asked, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::id::{RoleName, UserId};
use skytrail_schema::predicate::{Direction, Relation};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use crate::context::RequestContext;

/// Creates a user: auth row and `user` record in one commit.
#[derive(Clone, Debug)]
pub struct SignUp {
    /// Who asks.
    pub context: RequestContext,
    /// Values of auth keys, `username` and `email` by default; empty for an anonymous user.
    pub auth_data: BTreeMap<String, Value>,
    /// The password; none for an anonymous user.
    pub password: Option<String>,
    /// Further fields of the user record.
    pub profile: Fields,
}

/// Signs a user in.
#[derive(Clone, Debug)]
pub struct LogIn {
    /// Who asks.
    pub context: RequestContext,
    /// Values of auth keys.
    pub auth_data: BTreeMap<String, Value>,
    /// The password.
    pub password: String,
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
    /// When the user was seen before this.
    pub last_seen_at: Option<Timestamp>,
}

/// A change of users' roles.
#[derive(Clone, Debug)]
pub struct ChangeRoles {
    /// Who asks.
    pub context: RequestContext,
    /// The users; unknown ones are ignored.
    pub users: Vec<UserId>,
    /// The roles; made when missing.
    pub roles: BTreeSet<RoleName>,
    /// Given, or else taken.
    pub is_assignment: bool,
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
    /// Who asks.
    pub context: RequestContext,
    /// The flag.
    pub flag: RoleFlag,
    /// The roles; made when missing.
    pub roles: BTreeSet<RoleName>,
}

/// Makes or ends relations from the caller to others.
#[derive(Clone, Debug)]
pub struct ChangeRelations {
    /// Who asks; the relations are the caller's.
    pub context: RequestContext,
    /// The kind.
    pub relation: Relation,
    /// Which way they point; `Mutual` makes both.
    pub direction: Direction,
    /// The other users.
    pub targets: Vec<UserId>,
    /// Made, or else ended.
    pub is_addition: bool,
}
