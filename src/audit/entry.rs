//! The entries of the audit trail.

use serde_json::{Value as Json, json};
use skytrail_schema::event::Actor;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::http::remote::Remote;

/// Defines the events: variant, name, meaning.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// The kinds of events in the trail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AuditEvent {
            $($(#[$doc])* $variant,)*
        }

        impl AuditEvent {
            /// Returns the event's name in the trail.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

events! {
    /// Somebody signed up.
    Signup = "signup";
    /// Somebody signed in.
    LoginSuccess = "login_success";
    /// Somebody failed to sign in. Names the user if only the password was wrong.
    LoginFailure = "login_failure";
    /// Somebody signed out.
    Logout = "logout";
    /// A user changed their own password.
    ChangePassword = "change_password";
    /// A user gave a wrong old password.
    ChangePasswordFailure = "change_password_failure";
    /// A user was given a new password.
    ResetPassword = "reset_password";
    /// A user was locked out.
    DisableUser = "disable_user";
    /// A user was unlocked again.
    EnableUser = "enable_user";
    /// Roles were given to users or taken from them.
    ChangeRoles = "change_roles";
    /// The roles that everyone gets at sign-up were set.
    SetDefaultRoles = "set_default_roles";
    /// The roles that may use the administrators' actions were set.
    SetAdminRoles = "set_admin_roles";
    /// Roles were imported from another server.
    ImportRoles = "import_roles";
    /// Users were imported from another server.
    ImportUsers = "import_users";
    /// An account elsewhere was linked to a user.
    LinkAccount = "link_account";
    /// An account elsewhere was unlinked from a user.
    UnlinkAccount = "unlink_account";
    /// Somebody did what only administrators or the master key may do, and no other event covers
    /// it; or somebody took a large amount of data out of the server.
    Administration = "administration";
}

/// Where an event of the trail comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Who did it, as in the log's commits.
    pub actor: Actor,
    /// The request that did it.
    pub request: Uuid,
    /// The client's address.
    pub remote: Remote,
}

/// One entry of the trail.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: AuditEvent,
    pub(super) user: Option<UserId>,
    pub(super) source: Source,
    pub(super) data: Json,
    pub(super) time: Timestamp,
}

impl Entry {
    /// Returns the time of the entry, in seconds.
    pub(super) fn seconds(&self) -> i64 {
        self.time.micros().div_euclid(1_000_000)
    }

    /// Converts the entry to JSON with v1's names, plus the actor and the request.
    pub(super) fn to_json(&self) -> Json {
        let remote = &self.source.remote;
        let peer = remote.peer.map(|peer| peer.to_string());
        json!({
            "event": self.event.name(),
            "auth_id": self.user.as_ref().map_or("", |user| user.as_str()),
            "actor": self.source.actor,
            "request": self.source.request,
            "data": self.data,
            "tcp_remote_addr": peer.unwrap_or_default(),
            "http_x_forwarded_for": remote.forwarded_for,
            "http_x_real_ip": remote.real_ip,
            "http_forwarded": remote.forwarded,
            "level": "info",
            "msg": "audit_trail",
            "time": self.time,
        })
    }
}
