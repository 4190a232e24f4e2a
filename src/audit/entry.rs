//! What an entry of the audit trail says.

use serde_json::{Map, Value as Json, json};
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

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
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: AuditEvent,
    pub(super) user: Option<UserId>,
    pub(super) remote: Remote,
    pub(super) data: Map<String, Json>,
    pub(super) time: Timestamp,
}

impl Entry {
    /// Returns when it happened, in seconds.
    pub(super) fn seconds(&self) -> i64 {
        self.time.micros().div_euclid(1_000_000)
    }

    /// Writes the entry with v1's names.
    pub(super) fn to_json(&self) -> Json {
        let peer = self.remote.peer.map(|peer| peer.to_string());
        json!({
            "event": self.event.name(),
            "auth_id": self.user.as_ref().map_or("", |user| user.as_str()),
            "data": self.data,
            "tcp_remote_addr": peer.unwrap_or_default(),
            "http_x_forwarded_for": self.remote.forwarded_for,
            "http_x_real_ip": self.remote.real_ip,
            "http_forwarded": self.remote.forwarded,
            "level": "info",
            "msg": "audit_trail",
            "time": self.time,
        })
    }
}
