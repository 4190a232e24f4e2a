//! Who may follow queries, and for how long.

use std::future::pending;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use skytrail_actors::accounts::admission::bad_token;
use skytrail_actors::accounts::policy::password_expired;
use skytrail_actors::clock::wait_until;
use skytrail_actors::context::RequestContext;
use skytrail_actors::live::{Audience, Credential, LiveQuery};
use skytrail_actors::log::TimelinePosition;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::query::Scope;
use skytrail_schema::time::Timestamp;

use crate::action::request;
use crate::http::checks::{Check, CheckedRequest, limited_to};
use crate::http::shown::Shown;
use crate::services::Services;

const OF_USER: &[Check] = &[
    Check::Authenticator,
    Check::RequireAuth,
    Check::InjectDb,
    Check::CheckUser,
    Check::PluginReady,
];
const OF_KEY: &[Check] = &[
    Check::Authenticator,
    Check::InjectAuth,
    Check::InjectDb,
    Check::CheckUser,
    Check::PluginReady,
];

impl Shown {
    /// Runs the checks on a request. An invalid token is refused. Elsewhere it makes the caller
    /// anonymous; here the client would take the results for an anonymous caller for those of its
    /// user.
    ///
    /// # Errors
    /// As the checks of a query; a token that is not valid, even with a valid key; 108 for a body
    /// that asks for other rights than those of the connection.
    pub async fn pass<'a>(
        &self,
        services: &'a Services,
        body: &'a Map<String, Json>,
    ) -> Result<CheckedRequest<'a>, ApiError> {
        let limited = limited_to(body)?;
        if limited.is_some_and(|user| self.rights_of.as_deref() != Some(user.as_str())) {
            let why = "a connection has the rights that it was opened with";
            return Err(ApiError::invalid_argument(why, &["_rights"]));
        }
        let shown = self.clone();
        let mut checked = CheckedRequest::new(services, body, shown, RequestContext::system());
        let is_of_user = checked.token.is_some() || self.rights_of.is_some();
        let checks = if is_of_user { OF_USER } else { OF_KEY };
        checked.pass(checks).await?;
        Ok(checked)
    }
}

/// A client that may listen, and for how long.
pub struct Admitted {
    /// Who the client is.
    pub audience: Audience,
    /// The token it used.
    pub credential: Credential,
    /// When it ends.
    pub end: End,
}

/// When a client may no longer listen.
pub struct End {
    /// When its token expires.
    token: Option<Timestamp>,
    /// Whose password must be changed, and when.
    password: Option<(UserId, Timestamp)>,
}

impl End {
    /// Waits for the end, and returns the reason; for ever if there is none.
    pub async fn wait(self, services: &Services) -> ApiError {
        tokio::select! {
            biased;
            refusal = token_end(services, self.token) => refusal,
            refusal = password_end(services, self.password) => refusal,
        }
    }
}

async fn token_end(services: &Services, expiry: Option<Timestamp>) -> ApiError {
    let Some(at) = expiry else {
        return pending().await;
    };
    wait_until(&*services.clock, at).await;
    bad_token()
}

/// Waits until a password has expired. Changing it in time does not end a connection that has a
/// user's rights without their token.
async fn password_end(services: &Services, expiry: Option<(UserId, Timestamp)>) -> ApiError {
    let Some((user, mut at)) = expiry else {
        return pending().await;
    };
    let accounts = &services.accounts;
    loop {
        wait_until(&*services.clock, at).await;
        let state = match accounts.load_user(&user).await {
            Ok(state) => state,
            Err(error) => return error,
        };
        match state.and_then(|state| accounts.password_expiry(&state)) {
            Some(later) if later > at => at = later,
            Some(_) => return password_expired(),
            None => return pending().await,
        }
    }
}

/// Admits a client that has shown a key or a token.
///
/// # Errors
/// As the checks of a query; a token that is not valid, even with a valid key.
pub async fn admit(services: &Services, shown: &Shown) -> Result<Admitted, ApiError> {
    let nothing = Map::new();
    let checked = shown.pass(services, &nothing).await?;
    let caller = &checked.context.caller;
    let audience = Audience {
        is_master: caller.is_master(),
        user: caller.user.clone(),
    };
    let accounts = &services.accounts;
    let claims = match &checked.token {
        Some(token) => accounts.read_token(token).await?,
        None => None,
    };
    let is_of_user = checked.token.is_some() || !caller.rights.are_of_key();
    let mut password = None;
    if let Some(user) = caller.user.as_ref().filter(|_| is_of_user) {
        let state = accounts.load_user(user).await?;
        let expiry = state.and_then(|state| accounts.password_expiry(&state));
        password = expiry.map(|at| (user.clone(), at));
    }
    let credential = Credential {
        token: checked.token.as_deref().map(Arc::from),
        as_of: checked.as_of,
    };
    let token = claims.and_then(|claims| claims.expires_at);
    Ok(Admitted {
        audience,
        credential,
        end: End { token, password },
    })
}

/// How large a live query may be, as JSON: unlike other queries it is kept.
const MAX_QUERY_BYTES: usize = 64 << 10;

/// Parses a query within the limits.
///
/// # Errors
/// As [`LiveQuery::parse`]; 108 for a query that is too large.
pub fn read_query(
    services: &Services,
    body: &Map<String, Json>,
    scope: Scope,
) -> Result<LiveQuery, ApiError> {
    let limits = &services.settings.limits;
    limits.check_lists(body)?;
    let num_bytes = body
        .iter()
        .map(|(name, value)| name.len() + value.to_string().len());
    if num_bytes.sum::<usize>() > MAX_QUERY_BYTES {
        let why = format!("a live query can have at most {MAX_QUERY_BYTES} bytes");
        return Err(ApiError::invalid_argument(why, &["predicate"]));
    }
    let query = LiveQuery::parse(body, scope)?;
    limits.check_query(&query.query)?;
    Ok(query)
}

/// Reads the position from which a client resumes.
///
/// # Errors
/// 108 for an invalid position or timeline.
pub fn read_from(body: &Map<String, Json>) -> Result<Option<TimelinePosition>, ApiError> {
    let timeline = request::timeline(body)?;
    match body.get("from") {
        None | Some(Json::Null) => Ok(None),
        Some(from) => {
            let refusal = || ApiError::invalid_argument("from must be a position", &["from"]);
            let position = from.as_u64().ok_or_else(refusal)?;
            Ok(Some(TimelinePosition { position, timeline }))
        }
    }
}
