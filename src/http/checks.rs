//! Who asks, and whether they are allowed to: the ordered checks before every action.
//!
//! Each check is one function over [`CheckedRequest`]. An action lists its checks in order, and the
//! first one that fails ends the request.

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::admission::bad_token;
use skytrail_actors::context::RequestContext;
use skytrail_actors::plugin::Readiness;
use skytrail_schema::caller::{KeyKind, Rights};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::UserState;
use skytrail_schema::id::{UserId, check_length};
use skytrail_schema::query::Scope;
use skytrail_schema::time::Timestamp;

use super::shown::Shown;
use crate::services::Services;

/// A check; see the functions of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is documented at its function")]
pub enum Check {
    AccessKey,
    Authenticator,
    InjectAuthId,
    InjectAuth,
    DropRefused,
    RequireAuth,
    RequireAuthSkipPwExpiry,
    RequireUser,
    CheckUser,
    RequireAdmin,
    RequireMaster,
    DevOnly,
    InjectDb,
    Notification,
    PluginReady,
}

/// Returns the checks that run before a plugin's lambda or handler.
pub fn of_point(key_required: bool, user_required: bool) -> &'static [Check] {
    use Check::{Authenticator, CheckUser, DropRefused, InjectAuthId, PluginReady, RequireAuth};
    match (user_required, key_required) {
        (true, _) => &[Authenticator, RequireAuth, CheckUser, PluginReady],
        (false, true) => &[Authenticator, DropRefused, PluginReady],
        (false, false) => &[InjectAuthId, DropRefused, PluginReady],
    }
}

/// Returns the user that the master key acts as, if the body names one.
fn named_user(body: &Map<String, Json>) -> Result<Option<UserId>, ApiError> {
    let id = match body.get("_user_id") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(id)) if id.is_empty() => return Ok(None),
        Some(Json::String(id)) => id,
        Some(_) => {
            let message = "_user_id must be a string: the id of a user";
            return Err(ApiError::new(Code::BadRequest, message));
        }
    };
    user_named(id, "_user_id").map(Some)
}

/// Reads the id of a user, whom `argument` names.
fn user_named(id: &str, argument: &str) -> Result<UserId, ApiError> {
    if id.starts_with("user/") {
        let message = format!("{argument} is the id of a user, and {id:?} is the id of a record");
        return Err(ApiError::new(Code::InvalidArgument, message));
    }
    check_length(argument, id)?;
    Ok(UserId::from(id))
}

/// Returns the user whose rights alone a request has, if its body says so.
///
/// # Errors
/// 107 for members of the wrong type, 108 for rights other than `user` and without a user.
pub fn limited_to(body: &Map<String, Json>) -> Result<Option<UserId>, ApiError> {
    match body.get("_rights") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(rights)) if rights == "user" => {}
        Some(Json::String(_)) => return Err(bad_rights("_rights can only be \"user\"")),
        Some(_) => {
            let message = "_rights must be a string: \"user\"";
            return Err(ApiError::new(Code::BadRequest, message));
        }
    }
    let named = named_user(body)?;
    let named = named.ok_or_else(|| bad_rights("_rights needs _user_id: whose rights they are"))?;
    Ok(Some(named))
}

fn bad_rights(why: &str) -> ApiError {
    ApiError::invalid_argument(why, &["_rights"])
}

/// Whether an expired password keeps its user out.
#[derive(Clone, Copy)]
enum PasswordAge {
    Counts,
    Ignored,
}

/// A request that is passing the checks.
pub struct CheckedRequest<'a> {
    /// All services.
    pub services: &'a Services,
    /// The body.
    pub body: &'a Map<String, Json>,
    /// The key that was shown; the header takes precedence over the body.
    pub key: Option<String>,
    /// The token that was shown; the header takes precedence over the body.
    pub token: Option<String>,
    /// The user whose rights alone the request has: its head names them, or else its body.
    rights_of: Option<String>,
    /// What is known so far.
    pub context: RequestContext,
    /// The database, once it is resolved.
    pub scope: Scope,
    /// The time as of which the token's user is judged.
    pub as_of: Option<Timestamp>,
}

impl<'a> CheckedRequest<'a> {
    /// Builds a request about which nothing is known yet.
    pub fn new(
        services: &'a Services,
        body: &'a Map<String, Json>,
        shown: Shown,
        context: RequestContext,
    ) -> Self {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (key, token) = (given(shown.key), given(shown.token));
        Self {
            services,
            body,
            key,
            token,
            rights_of: shown.rights_of,
            context,
            scope: Scope::Public,
            as_of: None,
        }
    }

    /// Runs the checks in order.
    ///
    /// # Errors
    /// The error of the first check that fails; those of rights that a request cannot have, even
    /// if the checks ignore its key and token.
    pub async fn pass(&mut self, checks: &[Check]) -> Result<(), ApiError> {
        let limited = self.limit_rights()?;
        for check in checks {
            match check {
                Check::AccessKey => self.access_key()?,
                Check::Authenticator => self.authenticator(limited.as_ref()).await?,
                Check::InjectAuthId => self.inject_auth_id(limited.as_ref()).await,
                Check::InjectAuth => self.inject_auth().await?,
                Check::DropRefused => self.drop_refused().await?,
                Check::RequireAuth => self.require_auth(PasswordAge::Counts).await?,
                Check::RequireAuthSkipPwExpiry => self.require_auth(PasswordAge::Ignored).await?,
                Check::RequireUser => self.require_user().await?,
                Check::CheckUser => self.check_user().await?,
                Check::RequireAdmin => self.require_admin()?,
                Check::RequireMaster => self.require_master()?,
                Check::DevOnly => self.dev_only()?,
                Check::InjectDb => self.inject_db()?,
                Check::Notification => self.notification()?,
                Check::PluginReady => self.plugin_ready()?,
            }
        }
        let caller = &self.context.caller;
        self.context.may_migrate = self.services.settings.dev_mode || caller.is_master();
        Ok(())
    }

    /// Leaves the request only the rights of a user, if it asks for that. Returns the user.
    fn limit_rights(&mut self) -> Result<Option<UserId>, ApiError> {
        let named = match self.rights_of.as_deref() {
            Some("") => return Err(bad_rights("X-Skygear-Rights-Of must be the id of a user")),
            Some(id) => Some(user_named(id, "X-Skygear-Rights-Of")?),
            None => limited_to(self.body)?,
        };
        if named.is_none() {
            return Ok(None);
        }
        if self.classify_key()? != KeyKind::Master {
            return Err(bad_rights(
                "only the master key can act with a user's rights",
            ));
        }
        if self.token.is_some() {
            return Err(bad_rights(
                "a token names the user whose rights the request has",
            ));
        }
        self.context.caller.rights = Rights::User;
        Ok(named)
    }

    /// Returns whether the request shows the master key and has only a user's rights.
    ///
    /// Who asks for these relies on being told when the user may not act. The others show a token,
    /// and as in v1 some of their requests are answered as nobody's.
    fn is_limited(&self) -> bool {
        !self.context.caller.rights.are_of_key()
    }

    /// Requires a known key.
    fn access_key(&mut self) -> Result<(), ApiError> {
        let kind = self.classify_key()?;
        if kind == KeyKind::None {
            return Err(ApiError::new(Code::NotAuthenticated, "Api key is empty"));
        }
        self.context.caller.key = kind;
        Ok(())
    }

    /// Requires a key or a token. A key that is shown must be known, a token that is shown must be
    /// valid.
    async fn authenticator(&mut self, limited: Option<&UserId>) -> Result<(), ApiError> {
        let kind = self.classify_key()?;
        self.context.caller.key = kind;
        match &self.token {
            Some(token) => {
                let claims = self
                    .services
                    .accounts
                    .read_token(token)
                    .await?
                    .ok_or_else(bad_token)?;
                self.context.caller.user = Some(claims.user);
                self.as_of = claims.as_of;
            }
            None if kind == KeyKind::None => {
                let message = "Both api key and access token are empty";
                return Err(ApiError::new(Code::NotAuthenticated, message));
            }
            None if kind == KeyKind::Master => {
                self.context.caller.user = match limited {
                    Some(user) => Some(user.clone()),
                    None => named_user(self.body)?,
                };
            }
            None => {}
        }
        Ok(())
    }

    /// Does what [`CheckedRequest::authenticator`] does, but ignores an invalid key or token.
    async fn inject_auth_id(&mut self, limited: Option<&UserId>) {
        if self.authenticator(limited).await.is_err() {
            self.context.caller.user = None;
        }
    }

    /// Loads the user's auth row. A user who is disabled, has a revoked token or has an expired
    /// password becomes anonymous; if the request has the user's rights without a token, it is
    /// refused.
    async fn inject_auth(&mut self) -> Result<(), ApiError> {
        if let Some(user) = self.load_user().await? {
            match self.refuse(&user, PasswordAge::Counts) {
                Ok(()) => self.context.caller.roles = user.roles,
                Err(refused) if self.is_limited() => return Err(refused),
                Err(_) => self.context.caller.user = None,
            }
        }
        Ok(())
    }

    /// Makes the caller anonymous if the user of a token may not act or does not exist, or if the
    /// user that the master key names has been erased. Refuses the request if that is the user whose
    /// rights it has. Nothing more is loaded about any other caller.
    async fn drop_refused(&mut self) -> Result<(), ApiError> {
        let Some(id) = &self.context.caller.user else {
            return Ok(());
        };
        let accounts = &self.services.accounts;
        let is_of_user = self.token.is_some() || self.is_limited();
        let admitted = match (accounts.load_user(id).await?, is_of_user) {
            (Some(user), true) => self.refuse(&user, PasswordAge::Counts),
            (Some(_), false) => Ok(()),
            (None, true) => Err(bad_token()),
            (None, false) => accounts.refuse_erased(id),
        };
        match admitted {
            Err(refused) if self.is_limited() => return Err(refused),
            Err(_) => self.context.caller.user = None,
            Ok(()) => {}
        }
        Ok(())
    }

    /// Does what [`CheckedRequest::inject_auth`] does, but requires a user who may act.
    async fn require_auth(&mut self, password_age: PasswordAge) -> Result<(), ApiError> {
        let user = self.load_user().await?.ok_or_else(login_required)?;
        self.refuse(&user, password_age)?;
        self.context.caller.roles = user.roles;
        Ok(())
    }

    /// Loads the auth row of the user that is known so far. With the master key, a missing row is
    /// created, unless nothing can be written at present.
    async fn load_user(&mut self) -> Result<Option<UserState>, ApiError> {
        let is_master = self.context.caller.is_master();
        if self.context.caller.user.is_none() && is_master {
            self.context.caller.user = Some(UserId::god());
        }
        let Some(id) = self.context.caller.user.clone() else {
            return Ok(None);
        };
        let accounts = &self.services.accounts;
        match accounts.load_user(&id).await? {
            Some(user) => Ok(Some(user)),
            None if is_master => match accounts.ensure_user(&id, &self.context).await {
                // Reads do not need it, and writes are refused for the same reason.
                Err(error) if matches!(error.status(), 503 | 507) => Ok(Some(UserState::default())),
                ensured => ensured.map(Some),
            },
            // This makes clients sign out.
            None => Err(bad_token()),
        }
    }

    /// Refuses a user who may not act at present, and says why.
    fn refuse(&self, user: &UserState, password_age: PasswordAge) -> Result<(), ApiError> {
        let accounts = &self.services.accounts;
        let (refusals, id) = (&self.services.refusals, self.context.caller.user.as_ref());
        // The master key's own user cannot be kept out.
        if self.context.caller.is_master() && id == Some(&UserId::god()) {
            return Ok(());
        }
        accounts
            .admit(user, self.as_of)
            .inspect_err(|refused| refusals.note(id, "token", refused))?;
        match password_age {
            PasswordAge::Counts => accounts.refuse_expired_password(user),
            PasswordAge::Ignored => Ok(()),
        }
    }

    /// Requires the user's record, and that the user is verified where the settings demand it.
    async fn require_user(&self) -> Result<(), ApiError> {
        let accounts = &self.services.accounts;
        accounts.require_user_record(&self.context).await
    }

    /// Requires a caller who is a user to be verified, where the settings demand it.
    async fn check_user(&self) -> Result<(), ApiError> {
        self.services.accounts.check_verified(&self.context).await
    }

    /// Requires the master key, or a user with an administrator role.
    fn require_admin(&self) -> Result<(), ApiError> {
        let caller = &self.context.caller;
        if caller.is_master() || self.services.accounts.is_admin(&caller.roles) {
            return Ok(());
        }
        if caller.user.is_none() {
            let message = "User is required for this action, please login.";
            return Err(ApiError::new(Code::NotAuthenticated, message));
        }
        let message = "no permission to perform this action";
        Err(ApiError::new(Code::PermissionDenied, message).with_status(401))
    }

    /// Requires the master key.
    fn require_master(&self) -> Result<(), ApiError> {
        if self.context.caller.is_master() {
            return Ok(());
        }
        let message = "no permission to this action";
        Err(ApiError::new(Code::PermissionDenied, message).with_status(401))
    }

    /// Requires the master key or development mode.
    fn dev_only(&self) -> Result<(), ApiError> {
        if self.services.settings.dev_mode || self.context.caller.is_master() {
            return Ok(());
        }
        Err(ApiError::new(
            Code::PermissionDenied,
            "Attempt to access dev only end-point",
        ))
    }

    /// Requires a configured push service.
    fn notification(&self) -> Result<(), ApiError> {
        if self.services.push.is_configured() {
            return Ok(());
        }
        Err(push_not_configured())
    }

    /// Selects the database that `database_id` names.
    fn inject_db(&mut self) -> Result<(), ApiError> {
        let name = match self.body.get("database_id") {
            None | Some(Json::Null) => "",
            Some(Json::String(name)) => name.as_str(),
            // As an absent one, it would make a private record public.
            Some(_) => {
                let message = "database_id must be a string";
                return Err(ApiError::new(Code::BadRequest, message)
                    .with_info("arguments", json!(["database_id"])));
            }
        };
        let caller = &self.context.caller;
        let unauthenticated = |message: &str| Err(ApiError::new(Code::NotAuthenticated, message));
        self.scope = match (name, &caller.user) {
            ("" | "_public", _) => Scope::Public,
            ("_private", Some(user)) => Scope::Private(user.clone()),
            ("_private", None) => {
                return unauthenticated("Authentication is needed for private DB access");
            }
            ("_union", _) if caller.is_master() => Scope::Union,
            ("_union", _) => return unauthenticated("Master key is needed for union DB access"),
            (name, _) if name.starts_with('_') => {
                return Err(ApiError::invalid_argument(
                    "invalid database ID",
                    &["database_id"],
                ));
            }
            (name, user) => {
                check_length("database_id", name)?;
                let id = UserId::from(name);
                if !caller.is_master() && user.as_ref() != Some(&id) {
                    let message = "The selected DB cannot be accessed because permission is denied";
                    return Err(ApiError::new(Code::PermissionDenied, message));
                }
                Scope::Private(id)
            }
        };
        Ok(())
    }

    /// Requires the plugins to be ready; while they start they can call the server themselves.
    /// Until they are ready, a wrong key is an error even where it would otherwise be ignored.
    fn plugin_ready(&self) -> Result<(), ApiError> {
        let readiness = self.services.plugins.points().readiness;
        if readiness == Readiness::Ready {
            return Ok(());
        }
        let is_master = self.classify_key()? == KeyKind::Master;
        let is_from_plugin = self.body.get("_from_plugin") == Some(&Json::Bool(true));
        readiness.check(is_master && is_from_plugin)
    }

    fn classify_key(&self) -> Result<KeyKind, ApiError> {
        kind_of_key(self.services, self.key.as_deref())
    }
}

/// Returns the kind of the key that was shown, if one was.
///
/// # Errors
/// 103 for a key that is none of the app's.
pub(super) fn kind_of_key(services: &Services, shown: Option<&str>) -> Result<KeyKind, ApiError> {
    let Some(key) = shown else {
        return Ok(KeyKind::None);
    };
    services.kind_of_key(key).ok_or_else(|| {
        let message = format!("Cannot verify api key: `{key}`");
        ApiError::new(Code::AccessKeyNotAccepted, message)
    })
}

/// Returns the error for a push when no push service is configured.
pub fn push_not_configured() -> ApiError {
    let message = "Unable to send push notification because APNS is not configured or there was a \
                   problem configuring the APNS.\n";
    ApiError::new(Code::UnexpectedPushNotificationNotConfigured, message)
}

/// Returns the error for a caller without a user.
pub fn login_required() -> ApiError {
    let message = "Authentication is required for this action, please login.";
    ApiError::new(Code::NotAuthenticated, message)
}
