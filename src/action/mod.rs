//! The actions of the API. Each one parses the body, asks the domain and replies; nothing else
//! belongs here.
//!
//! [`ACTIONS`] lists every action with its checks, in v1's order. Actions that v1 has are marked
//! `as v1`.

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

use crate::audit::AuditReporter;
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
    pub audit_reporter: AuditReporter,
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
    Mutates,
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
        matches!(self.effect, Effect::Exports | Effect::Mutates)
            && self.checks.iter().any(is_for_few)
    }
}

const READS: Effect = Effect::Reads;
const EXPORTS: Effect = Effect::Exports;
const SENDS: Effect = Effect::Sends;
const MUTATES: Effect = Effect::Mutates;

const THEN: AsOf = AsOf::Then;
const NOW: AsOf = AsOf::Now;

macro_rules! actions {
    (@sandbox) => { None };
    (@sandbox $as_of:ident) => { Some($as_of) };
    (@run $run:path) => { |call| Box::pin($run(call)) };
    (@run $run:path, v1) => { |call| Box::pin(as_v1($run(call))) };
    ($(
        $name:literal $tag:literal $checks:ident $effect:ident $($as_of:ident)?
            => $run:path $(as $form:tt)?;
    )*) => {
        /// Every built-in action.
        pub const ACTIONS: &[Action] = &[
            $(Action {
                name: $name,
                tag: $tag,
                checks: $checks,
                effect: $effect,
                sandbox: actions!(@sandbox $($as_of)?),
                run: actions!(@run $run $(, $form)?),
            },)*
        ];
    };
}

actions! {
    "" "" PUBLIC READS => status;
    "_status:healthz" "" READY READS => status;
    "asset:put" "asset" FILE MUTATES => asset_put::run as v1;
    "auth:signup" "auth" KEY MUTATES => auth::sign_up as v1;
    "auth:login" "auth" KEY MUTATES => auth::log_in as v1;
    "auth:logout" "auth" LOGOUT MUTATES => auth::log_out as v1;
    "auth:password" "auth" PASSWORD MUTATES => auth::change_password as v1;
    "auth:reset_password" "auth" RESET MUTATES => auth::reset_password as v1;
    "auth:disable:set" "auth" ADMIN MUTATES => auth_disable::run as v1;
    "auth:import" "auth" RESET MUTATES => auth_import::run;
    "auth:export" "auth" MASTER EXPORTS => auth_export::run;
    "audit:changes" "audit" MASTER READS => audit::changes;
    "audit:readers" "audit" MASTER READS => audit::readers;
    "audit:refusals" "audit" MASTER READS => audit::refusals;
    "captured:list" "captured" MASTER READS => captured::list;
    "captured:retry" "captured" MASTER MUTATES => captured::retry;
    "captured:discard" "captured" MASTER MUTATES => captured::discard;
    "delivery:list" "delivery" MASTER READS => delivery::list;
    "delivery:pause" "delivery" MASTER MUTATES => delivery::pause;
    "delivery:resume" "delivery" MASTER MUTATES => delivery::resume;
    "delivery:rewind" "delivery" MASTER MUTATES => delivery::rewind;
    "delivery:redeliver" "delivery" MASTER MUTATES => delivery::redeliver;
    "delivery:dead_letters" "delivery" MASTER READS => delivery::dead_letters;
    "delivery:resend" "delivery" MASTER MUTATES => delivery::resend;
    "delivery:drop" "delivery" MASTER MUTATES => delivery::drop;
    "delivery:forget" "delivery" MASTER MUTATES => delivery::forget;
    "device:register" "device" WRITE MUTATES => device::register as v1;
    "device:unregister" "device" WRITE MUTATES => device::unregister as v1;
    "erase:record" "erase" ADMIN MUTATES => erase::record;
    "erase:event" "erase" ADMIN MUTATES => erase::event;
    "erase:field" "erase" ADMIN MUTATES => erase::field;
    "erase:user" "erase" ADMIN MUTATES => erase::user;
    "erase:list" "erase" ADMIN READS => erase::list;
    "log:compact" "log" MASTER MUTATES => erase::compact;
    "log:consumer:create" "log" MASTER MUTATES => log::consumer::create;
    "log:consumer:delete" "log" MASTER MUTATES => log::consumer::delete;
    "log:read" "log" MASTER READS => log::read;
    "me" "" USER MUTATES => auth::me as v1;
    "plugin:list" "plugin" MASTER READS => plugin::list;
    "plugin:calls" "plugin" MASTER READS => plugin::calls;
    "plugin:test" "plugin" MASTER MUTATES => plugin::test;
    "plugin:init" "plugin" MASTER MUTATES => plugin::init;
    "plugin:replay" "plugin" MASTER MUTATES => replay::run;
    "push:device" "push" PUSH SENDS => push::to_devices as v1;
    "push:user" "push" PUSH SENDS => push::to_users as v1;
    "push:list" "push" MASTER READS => push::list;
    "push:withdraw" "push" MASTER MUTATES => push::withdraw;
    "push:retry" "push" MASTER MUTATES => push::retry;
    "push:web_key" "push" KEY READS => push::web_key;
    "pubsub:publish" "pubsub" MASTER SENDS => pubsub_publish::run;
    "record:save" "record" WRITE MUTATES => record_save::run as v1;
    "record:delete" "record" WRITE MUTATES => record_delete::run as v1;
    "history:list" "history" USER READS => history::list;
    "history:restore" "history" USER MUTATES => history::restore;
    "record:export" "record" MASTER EXPORTS => record_export::run;
    "record:import" "record" MASTER MUTATES => record_import::run;
    "record:fetch" "record" READ READS THEN => record_fetch::run as v1;
    "record:query" "record" READ READS THEN => record_query::run as v1;
    "relation:query" "relation" WRITE READS NOW => relation::query as v1;
    "relation:add" "relation" WRITE MUTATES => relation::add as v1;
    "relation:remove" "relation" WRITE MUTATES => relation::remove as v1;
    "relation:delete" "relation" WRITE MUTATES => relation::remove as v1;
    "role:default" "role" DEV MUTATES => role::set_default as v1;
    "role:admin" "role" DEV MUTATES => role::set_admin as v1;
    "role:assign" "role" ADMIN MUTATES => role::assign as v1;
    "role:revoke" "role" ADMIN MUTATES => role::revoke as v1;
    "role:get" "role" ROLES READS NOW => role::get as v1;
    "role:export" "role" MASTER READS => role::export;
    "role:import" "role" MASTER MUTATES => role::import;
    "subscription:save" "subscription" WRITE MUTATES => subscription::save as v1;
    "subscription:fetch" "subscription" WRITE READS => subscription::fetch as v1;
    "subscription:fetch_all" "subscription" WRITE READS => subscription::fetch_all as v1;
    "subscription:delete" "subscription" WRITE MUTATES => subscription::delete as v1;
    "schema:create" "schema" SCHEMA MUTATES => schema::create as v1;
    "schema:fetch" "schema" SCHEMA READS NOW => schema::fetch as v1;
    "schema:rename" "schema" SCHEMA MUTATES => schema::rename as v1;
    "schema:delete" "schema" SCHEMA MUTATES => schema::delete as v1;
    "schema:field_access:get" "schema" ADMIN READS => schema::get_field_access as v1;
    "schema:field_access:update" "schema" ADMIN MUTATES => schema::set_field_access as v1;
    "schema:access" "schema" SCHEMA MUTATES => schema::access as v1;
    "schema:default_access" "schema" SCHEMA MUTATES => schema::default_access as v1;
    "schema:temporal" "schema" SCHEMA MUTATES => schema::temporal;
    "schema:retention" "schema" ADMIN MUTATES => schema::retention;
    "schema:personal" "schema" ADMIN MUTATES => schema::personal;
    "schema:unique" "schema" SCHEMA MUTATES => schema::unique;
    "schema:settings" "schema" SCHEMA READS NOW => schema::settings;
    "sso:custom_token:login" "sso" KEY MUTATES => sso::custom_token_login as v1;
    "sso:oauth:link" "sso" MASTER_READY MUTATES => sso::oauth_link as v1;
    "sso:oauth:login" "sso" MASTER_READY MUTATES => sso::oauth_login as v1;
    "sso:oauth:signup" "sso" MASTER_READY MUTATES => sso::oauth_signup as v1;
    "sso:oauth:unlink" "sso" MASTER_READY MUTATES => sso::oauth_unlink as v1;
    "task:list" "task" MASTER READS => task::list;
    "task:run" "task" MASTER MUTATES => task::run;
    "task:pause" "task" MASTER MUTATES => task::pause;
    "task:resume" "task" MASTER MUTATES => task::resume;
}

const READY: &[Check] = &[PluginReady];

/// Answers an action that v1 has: as in v1, an error does not name the member that cannot be read.
async fn as_v1(answered: impl Future<Output = Outcome>) -> Outcome {
    answered.await.map_err(request::as_v1)
}

/// Finds an action by name.
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

/// Home and health: answers that the server is up.
async fn status(_: Call) -> Outcome {
    Reply::new(&json!({"status": "OK"}))
}
