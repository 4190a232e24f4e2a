//! The stored form of a token, with v1's names and its times in nanoseconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skytrail_actors::accounts::ports::TokenClaims;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

/// The longest string that can be a token.
const MAX_LENGTH: usize = 128;

/// A stored token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StoredToken {
    /// The token itself.
    pub(super) access_token: String,
    /// When it expires, in nanoseconds; 0 means never.
    pub(super) expired_at: i64,
    /// When it was issued, in nanoseconds; 0 if not known: v1's files do not contain it.
    pub(super) issued_at: i64,
    /// The time since which the user's tokens were valid when it was issued, in nanoseconds; 0 if
    /// there was none, absent in v1's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_valid_since: Option<i64>,
    /// The app that it was issued for.
    pub(super) app_name: String,
    /// The user.
    #[serde(rename = "authInfoID")]
    pub(super) user: String,
}

impl StoredToken {
    /// Creates a new token.
    pub(super) fn issue(
        user: &UserId,
        app_name: &str,
        valid_since: Option<Timestamp>,
        (now, expiry): (Timestamp, Option<Duration>),
    ) -> Self {
        let lifetime = expiry.map(|expiry| i64::try_from(expiry.as_nanos()).unwrap_or(i64::MAX));
        let issued_at = nanos(now);
        Self {
            access_token: Uuid::new_v4().to_string(),
            expired_at: lifetime.map_or(0, |lifetime| issued_at.saturating_add(lifetime)),
            issued_at,
            token_valid_since: Some(valid_since.map_or(0, nanos)),
            app_name: app_name.to_owned(),
            user: user.to_string(),
        }
    }

    /// Returns whether it has expired.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expired_at > 0 && self.expired_at <= nanos(now)
    }

    /// Returns the token's claims, if it was stored under its own name, has a user and has not
    /// expired.
    pub(super) fn claims(&self, shown: &str, now: Timestamp) -> Option<TokenClaims> {
        let is_good = self.access_token == shown && !self.user.is_empty() && !self.is_over(now);
        let issued_at = Some(self.issued_at).filter(|at| *at > 0);
        let as_of = self.token_valid_since.or(issued_at);
        is_good.then(|| TokenClaims {
            user: UserId::from(self.user.as_str()),
            as_of: as_of.map(|nanos| Timestamp::from_micros(nanos / 1000)),
            expires_at: (self.expired_at > 0)
                .then(|| Timestamp::from_micros(self.expired_at / 1000)),
        })
    }
}

fn nanos(time: Timestamp) -> i64 {
    time.micros().saturating_mul(1000)
}

/// Returns whether a string can be a token: never a path, never part of another key.
pub(super) fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= MAX_LENGTH && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_one_plain_name(text in ".{0,140}") {
            if is_token(&text) {
                let path = std::path::Path::new("/folder").join(&text);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/folder")));
                prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(&*text));
                prop_assert!(!text.contains([':', '.', '/', '\\', '\0']));
            }
        }

        #[test]
        fn a_token_is_good_exactly_until_it_expires(
            seconds in prop::option::of(1_u64..1_000_000),
            later in 0_i64..2_000_000_000_000,
        ) {
            let now = Timestamp::from_micros(1_700_000_000_123_456);
            let expiry = seconds.map(Duration::from_secs);
            let user = UserId::new("u1");
            let token = StoredToken::issue(&user, "myapp", Some(now), (now, expiry));
            let then = Timestamp::from_micros(now.micros() + later);
            let claims = token.claims(&token.access_token, then);
            let is_good = seconds.is_none_or(|seconds| later < seconds as i64 * 1_000_000);
            prop_assert_eq!(claims.is_some(), is_good);
            prop_assert!(claims.is_none_or(|claims| claims.as_of == Some(now)));
            prop_assert!(is_token(&token.access_token));
        }
    }

    #[test]
    fn names_and_times_are_v1s() {
        let json = r#"{"accessToken":"t","expiredAt":0,"appName":"myapp","authInfoID":"u1"}"#;
        let token: StoredToken = serde_json::from_str(json).unwrap();
        let claims = token.claims("t", Timestamp::from_micros(5)).unwrap();
        assert_eq!((claims.user.as_str(), claims.as_of), ("u1", None));
        assert_eq!(token.claims("other", Timestamp::from_micros(5)), None);
    }
}
