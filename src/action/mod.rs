//! The actions of the API: each parses, asks, replies; nothing else lives here.
//!
//! [`ACTIONS`] names every action with its checks, in v1's order.

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

use crate::http::checks::Check::{
    self, AccessKey, Authenticator, CheckUser, DevOnly, InjectAuth, InjectDb, Notification,
    PluginReady, RequireAdmin, RequireAuth, RequireAuthSkipPwExpiry, RequireMaster, RequireUser,
};
use crate::http::remote::Remote;
use crate::http::reply::{Outcome, Reply};
use crate::services::Services;

/// A request that has passed its checks.
pub struct Call {
    /// Everything there is.
    pub services: Arc<Services>,
    /// Who asks.
    pub context: RequestContext,
    /// The database.
    pub scope: Scope,
    /// The body.
    pub body: Map<String, Json>,
    /// The token that was shown.
    pub token: Option<String>,
    /// As of when its user was judged, if that is known.
    pub as_of: Option<Timestamp>,
    /// Where the request came from.
    pub remote: Remote,
}

/// An action.
pub struct Action {
    /// Its name.
    pub name: &'static str,
    /// The tag that plugins are told.
    pub tag: &'static str,
    /// What is checked before it runs, in order.
    pub checks: &'static [Check],
    /// What it does.
    pub run: fn(Call) -> BoxFuture<'static, Outcome>,
}

const PUBLIC: &[Check] = &[];
const KEY: &[Check] = &[AccessKey, PluginReady];
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

macro_rules! actions {
    ($($name:literal $tag:literal $checks:ident => $run:path;)*) => {
        /// Every built-in action.
        pub const ACTIONS: &[Action] = &[
            $(Action { name: $name, tag: $tag, checks: $checks, run: |call| Box::pin($run(call)) },)*
        ];
    };
}

actions! {
    "" "" PUBLIC => status;
    "_status:healthz" "" READY => status;
    "asset:put" "asset" KEY => asset_put::run;
    "auth:signup" "auth" KEY => auth::sign_up;
    "auth:login" "auth" KEY => auth::log_in;
    "auth:logout" "auth" LOGOUT => auth::log_out;
    "auth:password" "auth" PASSWORD => auth::change_password;
    "auth:reset_password" "auth" RESET => auth::reset_password;
    "auth:disable:set" "auth" ADMIN => auth_disable::run;
    "auth:import" "auth" RESET => auth_import::run;
    "auth:export" "auth" MASTER => auth_export::run;
    "audit:changes" "audit" MASTER => audit::changes;
    "audit:readers" "audit" MASTER => audit::readers;
    "audit:refusals" "audit" MASTER => audit::refusals;
    "captured:list" "captured" MASTER => captured::list;
    "captured:retry" "captured" MASTER => captured::retry;
    "captured:discard" "captured" MASTER => captured::discard;
    "delivery:list" "delivery" MASTER => delivery::list;
    "delivery:pause" "delivery" MASTER => delivery::pause;
    "delivery:resume" "delivery" MASTER => delivery::resume;
    "delivery:rewind" "delivery" MASTER => delivery::rewind;
    "delivery:redeliver" "delivery" MASTER => delivery::redeliver;
    "delivery:dead_letters" "delivery" MASTER => delivery::dead_letters;
    "delivery:resend" "delivery" MASTER => delivery::resend;
    "delivery:drop" "delivery" MASTER => delivery::drop;
    "delivery:forget" "delivery" MASTER => delivery::forget;
    "device:register" "device" WRITE => device::register;
    "device:unregister" "device" WRITE => device::unregister;
    "erase:record" "erase" ADMIN => erase::record;
    "erase:event" "erase" ADMIN => erase::event;
    "erase:field" "erase" ADMIN => erase::field;
    "erase:user" "erase" ADMIN => erase::user;
    "erase:list" "erase" ADMIN => erase::list;
    "log:compact" "log" MASTER => erase::compact;
    "log:consumer:create" "log" MASTER => log::consumer::create;
    "log:consumer:delete" "log" MASTER => log::consumer::delete;
    "log:read" "log" MASTER => log::read;
    "me" "" USER => auth::me;
    "plugin:list" "plugin" MASTER => plugin::list;
    "plugin:calls" "plugin" MASTER => plugin::calls;
    "plugin:test" "plugin" MASTER => plugin::test;
    "plugin:replay" "plugin" MASTER => replay::run;
    "push:device" "push" PUSH => push::to_devices;
    "push:user" "push" PUSH => push::to_users;
    "push:web_key" "push" KEY => push::web_key;
    "pubsub:publish" "pubsub" MASTER => pubsub_publish::run;
    "record:save" "record" WRITE => record_save::run;
    "record:delete" "record" WRITE => record_delete::run;
    "history:list" "history" USER => history::list;
    "history:restore" "history" USER => history::restore;
    "record:export" "record" MASTER => record_export::run;
    "record:import" "record" MASTER => record_import::run;
    "record:fetch" "record" READ => record_fetch::run;
    "record:query" "record" READ => record_query::run;
    "relation:query" "relation" WRITE => relation::query;
    "relation:add" "relation" WRITE => relation::add;
    "relation:remove" "relation" WRITE => relation::remove;
    "role:default" "role" DEV => role::set_default;
    "role:admin" "role" DEV => role::set_admin;
    "role:assign" "role" ADMIN => role::assign;
    "role:revoke" "role" ADMIN => role::revoke;
    "role:get" "role" ROLES => role::get;
    "role:export" "role" MASTER => role::export;
    "role:import" "role" MASTER => role::import;
    "subscription:save" "subscription" WRITE => subscription::save;
    "subscription:fetch" "subscription" WRITE => subscription::fetch;
    "subscription:fetch_all" "subscription" WRITE => subscription::fetch_all;
    "subscription:delete" "subscription" WRITE => subscription::delete;
    "schema:create" "schema" SCHEMA => schema::create;
    "schema:fetch" "schema" SCHEMA => schema::fetch;
    "schema:rename" "schema" SCHEMA => schema::rename;
    "schema:delete" "schema" SCHEMA => schema::delete;
    "schema:field_access:get" "schema" ADMIN => schema::get_field_access;
    "schema:field_access:update" "schema" ADMIN => schema::set_field_access;
    "schema:access" "schema" SCHEMA => schema::access;
    "schema:default_access" "schema" SCHEMA => schema::default_access;
    "schema:temporal" "schema" SCHEMA => schema::temporal;
    "schema:retention" "schema" ADMIN => schema::retention;
    "schema:personal" "schema" ADMIN => schema::personal;
    "sso:custom_token:login" "sso" KEY => sso::custom_token_login;
    "sso:oauth:link" "sso" MASTER_READY => sso::oauth_link;
    "sso:oauth:login" "sso" MASTER_READY => sso::oauth_login;
    "sso:oauth:signup" "sso" MASTER_READY => sso::oauth_signup;
    "sso:oauth:unlink" "sso" MASTER_READY => sso::oauth_unlink;
    "task:list" "task" MASTER => task::list;
    "task:run" "task" MASTER => task::run;
    "task:pause" "task" MASTER => task::pause;
    "task:resume" "task" MASTER => task::resume;
}

const READY: &[Check] = &[PluginReady];

/// Finds an action by name.
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

/// Home and health: the server answers.
async fn status(_: Call) -> Outcome {
    Reply::new(&json!({"status": "OK"}))
}
