//! What an entry of the audit trail says.

use serde_json::{Value as Json, json};
use skytrail_schema::event::Actor;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::http::remote::Remote;

/// Defines the events: variant, name, meaning.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AuditEvent {
            $($(#[$doc])* $variant,)*
        }

        impl AuditEvent {
            /// Returns the name in the trail.
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
    /// Somebody tried to sign in. Names the user when only the password was wrong.
    LoginFailure = "login_failure";
    /// Somebody signed out.
    Logout = "logout";
    /// Somebody changed his own password.
    ChangePassword = "change_password";
    /// Somebody gave a wrong old password.
    ChangePasswordFailure = "change_password_failure";
    /// A user was given a new password.
    ResetPassword = "reset_password";
    /// A user was locked out.
    DisableUser = "disable_user";
    /// A user was let in again.
    EnableUser = "enable_user";
    /// Roles were given or taken.
    ChangeRoles = "change_roles";
    /// The roles that everyone gets at sign-up were set.
    SetDefaultRoles = "set_default_roles";
    /// The roles that open the administrators' actions were set.
    SetAdminRoles = "set_admin_roles";
    /// Roles were taken over from another server.
    ImportRoles = "import_roles";
    /// Users were taken over from another server.
    ImportUsers = "import_users";
    /// An account elsewhere was linked to a user.
    LinkAccount = "link_account";
    /// An account elsewhere was unlinked from a user.
    UnlinkAccount = "unlink_account";
    /// Somebody did what only administrators or the master key may, and there is no event of its own
    /// for that; or what takes much out of the house.
    Administration = "administration";
}

/// Where what happened comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Who did it, as the log's commits say.
    pub actor: Actor,
    /// In which request.
    pub request: Uuid,
    /// From where.
    pub remote: Remote,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: AuditEvent,
    pub(super) user: Option<UserId>,
    pub(super) source: Source,
    pub(super) data: Json,
    pub(super) time: Timestamp,
}

impl Entry {
    /// Returns when it happened, in seconds.
    pub(super) fn seconds(&self) -> i64 {
        self.time.micros().div_euclid(1_000_000)
    }

    /// Writes the entry with v1's names, and with who did it and in which request.
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
