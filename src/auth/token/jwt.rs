//! Access tokens that are signed, not stored. They have the form of v1's JWT store, so tokens that
//! the original signed with the same secret are accepted.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skytrail_actors::accounts::ports::{TokenClaims, Tokens};
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::auth::signed::{self, Times, Validity};

/// How many tokens with verified signatures are cached: clients show the same token with every
/// request.
const MAX_VERIFIED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// Longer tokens are verified each time; the server never issues one.
const MAX_REMEMBERED_BYTES: usize = 1024;

/// See the module's overview.
pub struct JwtTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    app_name: String,
    expiry: Option<Duration>,
    verified: Mutex<LruCache<String, Arc<Shown>>>,
}

/// The contents of a new token.
#[derive(Debug, Serialize)]
struct Issued<'a> {
    jti: String,
    iat: i64,
    iss: &'a str,
    sub: &'a str,
    /// In microseconds, 0 if there is none; v1 ignores it.
    token_valid_since: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// The parts of a token that are read; the rest is ignored.
#[derive(Debug, Deserialize)]
struct Shown {
    sub: String,
    #[serde(flatten)]
    times: Times,
    /// Absent in v1's tokens, for which only the second of issue is known.
    #[serde(default)]
    token_valid_since: Option<i64>,
}

impl Shown {
    /// Returns whether the token is valid at present.
    ///
    /// This server's own tokens remain valid if the clock is set back after they were issued:
    /// clients discard a token that is refused. A new password ends them all the same, because
    /// `token_valid_since` does not depend on the clock. For v1's tokens only the time of issue
    /// says whether a new password has ended them, so it has to be in the past.
    fn is_current(&self, now: Timestamp) -> bool {
        let times = match self.token_valid_since {
            Some(_) => self.times.whenever_issued(),
            None => self.times,
        };
        times.validity(now, 0) == Validity::Valid
    }
}

impl JwtTokens {
    /// Builds the tokens of an app; without `expiry` they are valid for ever.
    pub fn new(secret: &str, app_name: &str, expiry: Option<Duration>) -> Self {
        Self {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            app_name: app_name.to_owned(),
            expiry,
            verified: Mutex::new(LruCache::new(MAX_VERIFIED)),
        }
    }

    /// Reads a token and verifies its signature. The caller must check its times on each use.
    fn verified(&self, token: &str) -> Option<Arc<Shown>> {
        if let Some(shown) = self.verified.lock().get(token) {
            return Some(Arc::clone(shown));
        }
        let shown: Arc<Shown> = Arc::new(signed::verify(token, &self.decoding)?);
        if token.len() <= MAX_REMEMBERED_BYTES {
            let mut verified = self.verified.lock();
            verified.put(token.to_owned(), Arc::clone(&shown));
        }
        Some(shown)
    }
}

#[async_trait]
impl Tokens for JwtTokens {
    async fn issue(
        &self,
        user: &UserId,
        valid_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let iat = now.micros().div_euclid(1_000_000);
        let lifetime = self
            .expiry
            .map(|expiry| i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX));
        let claims = Issued {
            jti: Uuid::new_v4().to_string(),
            iat,
            iss: &self.app_name,
            sub: user.as_str(),
            token_valid_since: valid_since.map_or(0, Timestamp::micros),
            exp: lifetime.map(|lifetime| iat.saturating_add(lifetime)),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| ApiError::unexpected(format!("a token could not be signed: {error}")))
    }

    async fn read(&self, token: &str, now: Timestamp) -> Result<Option<TokenClaims>, ApiError> {
        let is_good = |shown: &Arc<Shown>| !shown.sub.is_empty() && shown.is_current(now);
        let shown = self.verified(token).filter(is_good);
        Ok(shown.map(|shown| TokenClaims {
            user: UserId::new(shown.sub.clone()),
            as_of: shown
                .token_valid_since
                .map(Timestamp::from_micros)
                .or_else(|| shown.times.issued_at()),
            expires_at: shown.times.expires_at(),
        }))
    }

    /// Nothing is stored, so there is nothing to forget: as with v1's tokens, the client discards
    /// it.
    async fn forget(&self, _: &str) -> Result<(), ApiError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_micros(NOW.micros() + seconds * 1_000_000)
    }

    async fn read(tokens: &JwtTokens, token: &str, now: Timestamp) -> Option<String> {
        let claims = tokens.read(token, now).await.unwrap();
        claims.map(|claims| claims.user.to_string())
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires() {
        let tokens = JwtTokens::new("secret", "myapp", Some(Duration::from_secs(60)));
        let token = tokens.issue(&UserId::new("u1"), None, NOW).await.unwrap();
        assert_eq!(read(&tokens, &token, later(59)).await.unwrap(), "u1");
        assert_eq!(read(&tokens, &token, later(60)).await, None);
        let set_back = read(&tokens, &token, later(-1)).await;
        assert_eq!(set_back.unwrap(), "u1", "the clock was set back");
        tokens.forget(&token).await.unwrap();
        assert!(read(&tokens, &token, later(59)).await.is_some());
    }

    #[tokio::test]
    async fn a_token_is_read_again_after_many_others() {
        let tokens = JwtTokens::new("secret", "myapp", None);
        let first = tokens
            .issue(&UserId::new("first"), None, NOW)
            .await
            .unwrap();
        for number in 0..=MAX_VERIFIED.get() {
            let user = UserId::new(number.to_string());
            let token = tokens.issue(&user, None, NOW).await.unwrap();
            assert_eq!(read(&tokens, &token, NOW).await, Some(number.to_string()));
        }
        assert_eq!(read(&tokens, &first, NOW).await.unwrap(), "first");
        assert_eq!(tokens.verified.lock().len(), MAX_VERIFIED.get());
    }

    #[tokio::test]
    async fn tokens_of_others_are_refused() {
        let tokens = JwtTokens::new("secret", "myapp", None);
        let other = JwtTokens::new("other secret", "myapp", None);
        let token = other.issue(&UserId::new("u1"), None, NOW).await.unwrap();
        let unsigned =
            "eyJhbGciOiJub25lIn0.eyJqdGkiOiJ4IiwiaWF0IjoxLCJpc3MiOiJhIiwic3ViIjoidTEifQ.";
        for text in [token.as_str(), unsigned, "", "a.b.c", "../../etc/passwd"] {
            assert_eq!(read(&tokens, text, NOW).await, None, "{text}");
        }
        assert!(read(&other, &token, NOW).await.is_some());
    }

    /// Every form in which v1's store, or another server with its secret, can have signed a token.
    #[tokio::test]
    async fn tokens_of_the_original_are_accepted() {
        let tokens = JwtTokens::new("secret", "myapp", None);
        let key = EncodingKey::from_secret(b"secret");
        let v1 = json!({"jti": "x", "iat": 1_600_000_000, "iss": "myapp", "sub": "u1"});
        let with = |name: &str, value: serde_json::Value| {
            let mut claims = v1.clone();
            claims[name] = value;
            claims
        };
        let good = [
            v1.clone(),
            with("exp", json!(1_700_000_001)),
            with("exp", json!(0)),
            with("nbf", json!(1_700_000_000)),
            with("aud", json!("someone")),
            json!({"sub": "u1"}),
        ];
        let bad = [
            with("exp", json!(1_700_000_000)),
            with("nbf", json!(1_700_000_001)),
            with("iat", json!(1_700_000_001)),
            with("exp", json!("soon")),
            with("sub", json!("")),
            json!({"jti": "x"}),
        ];
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let sign = |claims| encode(&Header::new(algorithm), claims, &key).unwrap();
            for claims in &good {
                let user = read(&tokens, &sign(claims), NOW).await;
                assert_eq!(user.as_deref(), Some("u1"), "{claims}");
            }
            for claims in &bad {
                assert_eq!(read(&tokens, &sign(claims), NOW).await, None, "{claims}");
            }
        }
    }
}
