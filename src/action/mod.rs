//! The actions of the API. Each one parses the body, asks the domain and replies; nothing else
//! belongs here.
//!
//! [`ACTIONS`] lists every action with its checks, in v1's order.

pub mod asset_put;
mod audit;
mod auth;
mod auth_disable;
mod auth_export;
mod auth_import;
mod captured;
mod delivery;
mod device;
mod erase;
mod history;
pub mod lambda;
pub(crate) mod log;
mod plugin;
mod provider;
mod pubsub_publish;
mod push;
mod record_delete;
mod record_export;
mod record_fetch;
mod record_import;
mod record_query;
mod record_save;
mod relation;
mod replay;
pub(crate) mod request;
mod role;
mod schema;
mod sso;
mod subscription;
mod task;
mod typed;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::context::RequestContext;
use skytrail_schema::query::Scope;
use skytrail_schema::time::Timestamp;

use crate::audit::Witness;
use crate::http::checks::Check::{
    self, AccessKey, Authenticator, CheckUser, DevOnly, DropRefused, InjectAuth, InjectAuthId,
    InjectDb, Notification, PluginReady, RequireAdmin, RequireAuth, RequireAuthSkipPwExpiry,
    RequireMaster, RequireUser,
};
use crate::http::remote::Remote;
use crate::http::reply::{Outcome, Reply};
use crate::services::Services;

/// A request that has passed its checks.
pub struct Call {
    /// All services.
    pub services: Arc<Services>,
    /// Who asks.
    pub context: RequestContext,
    /// The database.
    pub scope: Scope,
    /// The body.
    pub body: Map<String, Json>,
    /// The token that was shown.
    pub token: Option<String>,
    /// The time as of which the token's user was judged, if known.
    pub as_of: Option<Timestamp>,
    /// Where the request came from.
    pub remote: Remote,
    /// Reports the request to the audit trail.
    pub witness: Witness,
}

/// What an action changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: a client whose answer is refused can ask again.
    Reads,
    /// Nothing, but a large part of the server's data may have been copied out.
    Exports,
    /// Nothing that is stored, but it sends messages.
    Sends,
    /// Stored data or other state.
    Acts,
}

/// The point in time that answers reflect for a plugin that is tried on past writes in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// The time of the write.
    Then,
    /// The present: the log cannot give this answer as of an earlier time.
    Now,
}

/// An action.
pub struct Action {
    /// Its name.
    pub name: &'static str,
    /// The tag that is passed to plugins.
    pub tag: &'static str,
    /// The checks that run before it, in order.
    pub checks: &'static [Check],
    /// What it changes.
    pub effect: Effect,
    /// The point in time for answers to a plugin in a sandbox; `None` if the action is refused
    /// there.
    pub sandbox: Option<AsOf>,
    /// Its implementation.
    pub run: fn(Call) -> BoxFuture<'static, Outcome>,
}

const PUBLIC: &[Check] = &[];
const KEY: &[Check] = &[AccessKey, PluginReady];
/// A client that uploads a file is identified if it shows a token, but does not have to be.
pub(crate) const UPLOADER: &[Check] = &[AccessKey, InjectAuthId, DropRefused];
const FILE: &[Check] = &[AccessKey, InjectAuthId, DropRefused, PluginReady];
const LOGOUT: &[Check] = &[Authenticator, PluginReady];
const USER: &[Check] = &[Authenticator, RequireAuth, RequireUser, PluginReady];
const PASSWORD: &[Check] = &[
    Authenticator,
    RequireAuthSkipPwExpiry,
    RequireUser,
    PluginReady,
];
const RESET: &[Check] = &[AccessKey, PluginReady, RequireMaster];
const WRITE: &[Check] = &[Authenticator, RequireAuth, InjectDb, CheckUser, PluginReady];
const READ: &[Check] = &[Authenticator, InjectAuth, InjectDb, CheckUser, PluginReady];
const ADMIN: &[Check] = &[Authenticator, InjectAuth, RequireAdmin, PluginReady];
const ROLES: &[Check] = &[Authenticator, InjectAuth, PluginReady];
const DEV: &[Check] = &[AccessKey, DevOnly, PluginReady];
const MASTER: &[Check] = &[AccessKey, RequireMaster];
const MASTER_READY: &[Check] = &[AccessKey, PluginReady, RequireMaster];
const PUSH: &[Check] = &[AccessKey, InjectDb, Notification, PluginReady];
const SCHEMA: &[Check] = &[AccessKey, DevOnly, InjectDb, PluginReady];

impl Action {
    /// Returns whether the action leaves everything unchanged.
    pub fn is_read(&self) -> bool {
        matches!(self.effect, Effect::Reads | Effect::Exports)
    }

    /// Returns whether the audit trail records it: administrative changes and large exports.
    pub fn is_audited(&self) -> bool {
        let is_for_few = |check: &Check| matches!(check, RequireAdmin | RequireMaster | DevOnly);
        matches!(self.effect, Effect::Exports | Effect::Acts) && self.checks.iter().any(is_for_few)
    }
}

const READS: Effect = Effect::Reads;
const EXPORTS: Effect = Effect::Exports;
const SENDS: Effect = Effect::Sends;
const ACTS: Effect = Effect::Acts;

const THEN: AsOf = AsOf::Then;
const NOW: AsOf = AsOf::Now;

macro_rules! actions {
    (@sandbox) => { None };
    (@sandbox $as_of:ident) => { Some($as_of) };
    ($($name:literal $tag:literal $checks:ident $effect:ident $($as_of:ident)? => $run:path;)*) => {
        /// Every built-in action.
        pub const ACTIONS: &[Action] = &[
            $(Action {
                name: $name,
                tag: $tag,
                checks: $checks,
                effect: $effect,
                sandbox: actions!(@sandbox $($as_of)?),
                run: |call| Box::pin($run(call)),
            },)*
        ];
    };
}

actions! {
    "" "" PUBLIC READS => status;
    "_status:healthz" "" READY READS => status;
    "asset:put" "asset" FILE ACTS => asset_put::run;
    "auth:signup" "auth" KEY ACTS => auth::sign_up;
    "auth:login" "auth" KEY ACTS => auth::log_in;
    "auth:logout" "auth" LOGOUT ACTS => auth::log_out;
    "auth:password" "auth" PASSWORD ACTS => auth::change_password;
    "auth:reset_password" "auth" RESET ACTS => auth::reset_password;
    "auth:disable:set" "auth" ADMIN ACTS => auth_disable::run;
    "auth:import" "auth" RESET ACTS => auth_import::run;
    "auth:export" "auth" MASTER EXPORTS => auth_export::run;
    "audit:changes" "audit" MASTER READS => audit::changes;
    "audit:readers" "audit" MASTER READS => audit::readers;
    "audit:refusals" "audit" MASTER READS => audit::refusals;
    "captured:list" "captured" MASTER READS => captured::list;
    "captured:retry" "captured" MASTER ACTS => captured::retry;
    "captured:discard" "captured" MASTER ACTS => captured::discard;
    "delivery:list" "delivery" MASTER READS => delivery::list;
    "delivery:pause" "delivery" MASTER ACTS => delivery::pause;
    "delivery:resume" "delivery" MASTER ACTS => delivery::resume;
    "delivery:rewind" "delivery" MASTER ACTS => delivery::rewind;
    "delivery:redeliver" "delivery" MASTER ACTS => delivery::redeliver;
    "delivery:dead_letters" "delivery" MASTER READS => delivery::dead_letters;
    "delivery:resend" "delivery" MASTER ACTS => delivery::resend;
    "delivery:drop" "delivery" MASTER ACTS => delivery::drop;
    "delivery:forget" "delivery" MASTER ACTS => delivery::forget;
    "device:register" "device" WRITE ACTS => device::register;
    "device:unregister" "device" WRITE ACTS => device::unregister;
    "erase:record" "erase" ADMIN ACTS => erase::record;
    "erase:event" "erase" ADMIN ACTS => erase::event;
    "erase:field" "erase" ADMIN ACTS => erase::field;
    "erase:user" "erase" ADMIN ACTS => erase::user;
    "erase:list" "erase" ADMIN READS => erase::list;
    "log:compact" "log" MASTER ACTS => erase::compact;
    "log:consumer:create" "log" MASTER ACTS => log::consumer::create;
    "log:consumer:delete" "log" MASTER ACTS => log::consumer::delete;
    "log:read" "log" MASTER READS => log::read;
    "me" "" USER ACTS => auth::me;
    "plugin:list" "plugin" MASTER READS => plugin::list;
    "plugin:calls" "plugin" MASTER READS => plugin::calls;
    "plugin:test" "plugin" MASTER ACTS => plugin::test;
    "plugin:replay" "plugin" MASTER ACTS => replay::run;
    "push:device" "push" PUSH SENDS => push::to_devices;
    "push:user" "push" PUSH SENDS => push::to_users;
    "push:web_key" "push" KEY READS => push::web_key;
    "pubsub:publish" "pubsub" MASTER SENDS => pubsub_publish::run;
    "record:save" "record" WRITE ACTS => record_save::run;
    "record:delete" "record" WRITE ACTS => record_delete::run;
    "history:list" "history" USER READS => history::list;
    "history:restore" "history" USER ACTS => history::restore;
    "record:export" "record" MASTER EXPORTS => record_export::run;
    "record:import" "record" MASTER ACTS => record_import::run;
    "record:fetch" "record" READ READS THEN => record_fetch::run;
    "record:query" "record" READ READS THEN => record_query::run;
    "relation:query" "relation" WRITE READS NOW => relation::query;
    "relation:add" "relation" WRITE ACTS => relation::add;
    "relation:remove" "relation" WRITE ACTS => relation::remove;
    "role:default" "role" DEV ACTS => role::set_default;
    "role:admin" "role" DEV ACTS => role::set_admin;
    "role:assign" "role" ADMIN ACTS => role::assign;
    "role:revoke" "role" ADMIN ACTS => role::revoke;
    "role:get" "role" ROLES READS NOW => role::get;
    "role:export" "role" MASTER READS => role::export;
    "role:import" "role" MASTER ACTS => role::import;
    "subscription:save" "subscription" WRITE ACTS => subscription::save;
    "subscription:fetch" "subscription" WRITE READS => subscription::fetch;
    "subscription:fetch_all" "subscription" WRITE READS => subscription::fetch_all;
    "subscription:delete" "subscription" WRITE ACTS => subscription::delete;
    "schema:create" "schema" SCHEMA ACTS => schema::create;
    "schema:fetch" "schema" SCHEMA READS NOW => schema::fetch;
    "schema:rename" "schema" SCHEMA ACTS => schema::rename;
    "schema:delete" "schema" SCHEMA ACTS => schema::delete;
    "schema:field_access:get" "schema" ADMIN READS => schema::get_field_access;
    "schema:field_access:update" "schema" ADMIN ACTS => schema::set_field_access;
    "schema:access" "schema" SCHEMA ACTS => schema::access;
    "schema:default_access" "schema" SCHEMA ACTS => schema::default_access;
    "schema:temporal" "schema" SCHEMA ACTS => schema::temporal;
    "schema:retention" "schema" ADMIN ACTS => schema::retention;
    "schema:personal" "schema" ADMIN ACTS => schema::personal;
    "sso:custom_token:login" "sso" KEY ACTS => sso::custom_token_login;
    "sso:oauth:link" "sso" MASTER_READY ACTS => sso::oauth_link;
    "sso:oauth:login" "sso" MASTER_READY ACTS => sso::oauth_login;
    "sso:oauth:signup" "sso" MASTER_READY ACTS => sso::oauth_signup;
    "sso:oauth:unlink" "sso" MASTER_READY ACTS => sso::oauth_unlink;
    "task:list" "task" MASTER READS => task::list;
    "task:run" "task" MASTER ACTS => task::run;
    "task:pause" "task" MASTER ACTS => task::pause;
    "task:resume" "task" MASTER ACTS => task::resume;
}

const READY: &[Check] = &[PluginReady];

/// Finds an action by name.
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

/// Home and health: answers that the server is up.
async fn status(_: Call) -> Outcome {
    Reply::new(&json!({"status": "OK"}))
}
