//! Tokens in redis, in v1's layout: a hash each, at `<prefix>:<token>`, or `<token>` without a
//! prefix.
//!
//! v1 set the time to live on the key without the prefix, so its prefixed tokens never expired.
//! Here it is set on the right key, and the stored expiry is checked again when the token is read.
//! The connection is opened at the first use and reopened when it is lost; meanwhile requests with
//! a token are answered with 503, because 104 would make clients forget their sessions.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{AsyncCommands, Client, RedisError, RedisResult};
use async_trait::async_trait;
use skytrail_actors::accounts::ports::{TokenClaims, Tokens};
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use super::stored::{StoredToken, is_token};

/// How long redis may take for an answer, and for a connection.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request waits in total, including lost connections.
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module's overview.
pub struct RedisTokens {
    connection: ConnectionManager,
    prefix: String,
    app_name: String,
    expiry: Option<Duration>,
}

impl RedisTokens {
    /// Prepares to use the redis at `url`; without `expiry` new tokens are valid for ever.
    ///
    /// # Errors
    /// The address is not a redis address.
    pub fn open(
        url: &str,
        prefix: &str,
        app_name: &str,
        expiry: Option<Duration>,
    ) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(200))
            .set_response_timeout(Some(TIMEOUT))
            .set_connection_timeout(Some(TIMEOUT));
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(Client::open(url)?, config)?,
            prefix: prefix.to_owned(),
            app_name: app_name.to_owned(),
            expiry,
        })
    }

    fn key(&self, token: &str) -> String {
        if self.prefix.is_empty() {
            token.to_owned()
        } else {
            format!("{}:{token}", self.prefix)
        }
    }
}

#[async_trait]
impl Tokens for RedisTokens {
    async fn issue(
        &self,
        user: &UserId,
        valid_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let token = StoredToken::issue(user, &self.app_name, valid_since, (now, self.expiry));
        let key = self.key(&token.access_token);
        let mut pipe = ::redis::pipe();
        pipe.atomic().hset_multiple(&key, &fields(&token)).ignore();
        if let Some(expiry) = self.expiry {
            let millis = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
            pipe.pexpire(&key, millis).ignore();
        }
        let mut connection = self.connection.clone();
        within_time(pipe.query_async::<()>(&mut connection)).await?;
        Ok(token.access_token)
    }

    async fn read(&self, token: &str, now: Timestamp) -> Result<Option<TokenClaims>, ApiError> {
        if !is_token(token) {
            return Ok(None);
        }
        let mut connection = self.connection.clone();
        let found: HashMap<String, String> =
            match within_redis(connection.hgetall(self.key(token))).await? {
                Ok(found) => found,
                // The key has another type of value.
                Err(error) if error.code() == Some("WRONGTYPE") => return Ok(None),
                Err(error) => return Err(unavailable(&error)),
            };
        Ok(stored(&found).claims(token, now))
    }

    async fn forget(&self, token: &str) -> Result<(), ApiError> {
        if !is_token(token) {
            return Ok(());
        }
        let mut connection = self.connection.clone();
        within_time(connection.del::<_, ()>(self.key(token))).await
    }
}

fn fields(token: &StoredToken) -> [(&'static str, String); 6] {
    let valid_since = token.token_valid_since.unwrap_or_default();
    [
        ("accessToken", token.access_token.clone()),
        ("expiredAt", token.expired_at.to_string()),
        ("issuedAt", token.issued_at.to_string()),
        ("tokenValidSince", valid_since.to_string()),
        ("appName", token.app_name.clone()),
        ("authInfoID", token.user.clone()),
    ]
}

/// Decodes a hash; if it does not exist, or is not a token's, the result matches no token.
fn stored(fields: &HashMap<String, String>) -> StoredToken {
    let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok());
    StoredToken {
        access_token: text("accessToken"),
        expired_at: number("expiredAt").unwrap_or_default(),
        issued_at: number("issuedAt").unwrap_or_default(),
        token_valid_since: number("tokenValidSince"),
        app_name: text("appName"),
        user: text("authInfoID"),
    }
}

async fn within_time<T>(work: impl Future<Output = RedisResult<T>>) -> Result<T, ApiError> {
    within_redis(work)
        .await?
        .map_err(|error| unavailable(&error))
}

async fn within_redis<T>(
    work: impl Future<Output = RedisResult<T>>,
) -> Result<RedisResult<T>, ApiError> {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.map_err(|_| {
        tracing::error!("redis does not answer");
        try_later()
    })
}

/// The error's text may contain parts of the command, so only its kind is logged.
fn unavailable(error: &RedisError) -> ApiError {
    tracing::error!(kind = %error.category(), "redis failed");
    try_later()
}

fn try_later() -> ApiError {
    ApiError::unexpected("the token store is not available, try again")
        .with_status(503)
        .with_info("retry_after_ms", 1000.into())
}
