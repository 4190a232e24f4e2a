//! Custom tokens: another server, which shares a secret with this one, vouches for a user.

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json::Members;
use skytrail_schema::time::Timestamp;

use super::signed::{self, Times, Validity};

/// How far the clock of the other server may be ahead.
const LEEWAY_SECONDS: i64 = 60;

/// Reads custom tokens.
pub struct CustomTokens(DecodingKey);

/// The contents of a valid custom token.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomToken {
    /// The user's identity at the other server.
    pub principal: String,
    /// Fields of the user record, in wire form.
    pub profile: Map<String, Json>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(flatten)]
    times: Times,
    #[serde(default)]
    skyprofile: Option<Members>,
}

impl CustomTokens {
    /// Builds a reader of tokens that are signed with `secret`.
    pub fn new(secret: &str) -> Self {
        Self(DecodingKey::from_secret(secret.as_bytes()))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 107 if it cannot be decoded, is not signed with the secret, has expired, or is issued or
    /// valid only more than a minute from now; 105 if its subject, time of issue or expiry is missing.
    pub fn read(&self, token: &str, now: Timestamp) -> Result<CustomToken, ApiError> {
        let claims: Option<Claims> = signed::verify(token, &self.0);
        let claims = claims.ok_or_else(unreadable)?;
        let times = claims.times;
        match times.validity(now, LEEWAY_SECONDS) {
            Validity::Valid => {}
            Validity::Expired => return Err(unreadable()),
            Validity::NotYet(seconds) => {
                // The answer is v1's, which does not say why.
                tracing::warn!(
                    seconds,
                    "a custom token was refused: it is issued in the future or not valid yet; \
                     compare this machine's clock with that of the token's issuer"
                );
                return Err(unreadable());
            }
        }
        let missing = if claims.sub.is_empty() {
            Some("subject (sub)")
        } else if !times.has_expiry() {
            Some("expires at (exp)")
        } else if times.issued_at().is_none() {
            Some("issued at (iat)")
        } else {
            None
        };
        if let Some(missing) = missing {
            let message = format!("invalid token: {missing} not specified");
            return Err(ApiError::new(Code::InvalidCredentials, message));
        }
        Ok(CustomToken {
            principal: claims.sub,
            profile: claims.skyprofile.unwrap_or_default().0,
        })
    }
}

fn unreadable() -> ApiError {
    ApiError::new(Code::BadRequest, "fails to decode the request payload")
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn read(algorithm: Algorithm, secret: &str, claims: &Json) -> Result<CustomToken, i64> {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = encode(&Header::new(algorithm), claims, &key).unwrap();
        let read = CustomTokens::new("shared").read(&token, NOW);
        read.map_err(|error| error.code.number())
    }

    fn good() -> Json {
        json!({"sub": "them/1", "iat": 1_699_999_999.5, "exp": 1_700_000_001})
    }

    #[test]
    fn each_algorithm_with_a_shared_secret_is_read() {
        let mut claims = good();
        claims["skyprofile"] = json!({"nickname": "Al"});
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = read(algorithm, "shared", &claims).unwrap();
            assert_eq!(token.principal, "them/1");
            assert_eq!(Json::Object(token.profile), json!({"nickname": "Al"}));
            assert_eq!(read(algorithm, "other", &claims), Err(107));
        }
    }

    #[test]
    fn every_claim_that_is_missing_or_wrong_is_refused() {
        let with = |name: &str, value: Json| {
            let mut claims = good();
            claims[name] = value;
            read(Algorithm::HS256, "shared", &claims).map(|token| token.principal)
        };
        for name in ["sub", "exp", "iat"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(
                read(Algorithm::HS256, "shared", &claims),
                Err(105),
                "{name}"
            );
        }
        assert_eq!(with("exp", json!(1_700_000_000)), Err(107));
        for name in ["iat", "nbf"] {
            let ahead = [60, 61].map(|ahead| with(name, json!(1_700_000_000 + ahead)));
            assert_eq!(ahead, [Ok("them/1".to_owned()), Err(107)], "{name}");
        }
        assert_eq!(with("exp", json!("never")), Err(107));
        assert_eq!(with("skyprofile", json!("Al")), Err(107));
        assert_eq!(with("skyprofile", Json::Null), Ok("them/1".to_owned()));
        assert_eq!(with("sub", json!("")), Err(105));
        assert_eq!(with("sub", json!(7)), Err(107));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "junk", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjIn0."] {
            let refused = CustomTokens::new("shared").read(text, NOW).unwrap_err();
            assert_eq!(refused.code, Code::BadRequest, "{text:?}");
        }
    }
}
