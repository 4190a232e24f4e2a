//! Access tokens: signed, not stored. The form is v1's JWT store's, so tokens of the original
//! with the same secret are accepted.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use skytrail_actors::accounts::ports::Tokens;
use skytrail_actors::accounts::service::TokenClaims;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

/// See the module's overview.
pub struct JwtTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    app_name: String,
    expiry: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    jti: String,
    iat: i64,
    iss: String,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
}

impl JwtTokens {
    /// Builds the tokens of an app; without `expiry` they are good for ever.
    pub fn new(secret: &str, app_name: &str, expiry: Option<Duration>) -> Self {
        Self {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            app_name: app_name.to_owned(),
            expiry,
        }
    }
}

impl Tokens for JwtTokens {
    fn issue(&self, user: &UserId, now: Timestamp) -> Result<String, ApiError> {
        let iat = now.micros().div_euclid(1_000_000);
        let lifetime = self
            .expiry
            .map(|expiry| i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX));
        let claims = Claims {
            jti: Uuid::new_v4().to_string(),
            iat,
            iss: self.app_name.clone(),
            sub: user.to_string(),
            exp: lifetime.map(|lifetime| iat.saturating_add(lifetime)),
            nbf: None,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| ApiError::unexpected(format!("a token could not be signed: {error}")))
    }

    fn read(&self, token: &str, now: Timestamp) -> Option<TokenClaims> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // Times are checked below, against the server's own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        let claims = decode::<Claims>(token, &self.decoding, &validation)
            .ok()?
            .claims;
        let now = now.micros().div_euclid(1_000_000);
        let is_current = claims.exp.is_none_or(|exp| now < exp)
            && claims.nbf.is_none_or(|nbf| nbf <= now)
            && claims.iat <= now;
        let issued_at = Some(Timestamp::from_micros(claims.iat.saturating_mul(1_000_000)));
        is_current.then(|| TokenClaims {
            user: UserId::new(claims.sub),
            issued_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_micros(NOW.micros() + seconds * 1_000_000)
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let tokens = JwtTokens::new("secret", "myapp", Some(Duration::from_secs(60)));
        let token = tokens.issue(&UserId::new("u1"), NOW).unwrap();
        assert_eq!(tokens.read(&token, later(59)).unwrap().user.as_str(), "u1");
        assert_eq!(tokens.read(&token, later(60)), None);
        assert_eq!(tokens.read(&token, later(-1)), None);
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let tokens = JwtTokens::new("secret", "myapp", None);
        let other = JwtTokens::new("other secret", "myapp", None);
        let token = other.issue(&UserId::new("u1"), NOW).unwrap();
        let unsigned =
            "eyJhbGciOiJub25lIn0.eyJqdGkiOiJ4IiwiaWF0IjoxLCJpc3MiOiJhIiwic3ViIjoidTEifQ.";
        for text in [token.as_str(), unsigned, "", "a.b.c", "../../etc/passwd"] {
            assert_eq!(tokens.read(text, NOW), None, "{text}");
        }
        assert!(other.read(&token, NOW).is_some());
    }
}
