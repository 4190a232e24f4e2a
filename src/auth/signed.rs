//! Signed tokens with a shared secret: JWTs with HMAC, as v1 issued and accepted them.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use skytrail_schema::time::Timestamp;

/// The times that bound a token's validity. As in v1, a time of 0 counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Times {
    /// The second from which the token is refused.
    #[serde(default)]
    exp: Seconds,
    /// The second before which the token is refused.
    #[serde(default)]
    nbf: Seconds,
    /// The second in which the token was issued.
    #[serde(default)]
    iat: Seconds,
}

/// Seconds since the epoch, 0 if absent. A fraction, which the standard allows, is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        /// No real date is outside this range, and a number outside it cannot be compared with a
        /// clock.
        const FAR: f64 = 1e15;
        let number = f64::deserialize(from)?;
        if !(-FAR..FAR).contains(&number) {
            return Err(D::Error::custom("not a time"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked to be within range"
        )]
        let seconds = number as i64;
        Ok(Self(seconds))
    }
}

impl Seconds {
    fn given(self) -> Option<i64> {
        (self.0 != 0).then_some(self.0)
    }
}

/// Whether a token is valid at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Valid,
    Expired,
    /// It becomes valid, or was issued, this many seconds from now.
    NotYet(i64),
}

impl Times {
    /// Returns whether a token with these times is valid at present. Its issuer's clock may be
    /// `leeway` seconds ahead of this server's.
    pub(super) fn validity(self, now: Timestamp, leeway: i64) -> Validity {
        let now = now.micros().div_euclid(1_000_000);
        let from = [self.nbf, self.iat].into_iter().filter_map(Seconds::given);
        let ahead = from.max().map_or(0, |from| from.saturating_sub(now));
        if self.exp.given().is_some_and(|exp| exp <= now) {
            Validity::Expired
        } else if ahead > leeway {
            Validity::NotYet(ahead)
        } else {
            Validity::Valid
        }
    }

    /// Returns these times without the time of issue, which then does not matter.
    pub(super) fn whenever_issued(self) -> Self {
        Self {
            iat: Seconds(0),
            ..self
        }
    }

    /// Returns the latest time at which the token can have been issued, within the second that it
    /// gives.
    pub(super) fn issued_at(self) -> Option<Timestamp> {
        let last = |iat: i64| iat.saturating_mul(1_000_000).saturating_add(999_999);
        let micros = self.iat.given().map(last);
        micros.map(Timestamp::from_micros)
    }

    /// Returns when the token expires, to the second.
    pub(super) fn expires_at(self) -> Option<Timestamp> {
        let micros = self.exp.given().map(|exp| exp.saturating_mul(1_000_000));
        micros.map(Timestamp::from_micros)
    }

    /// Returns whether the token has an expiry.
    pub(super) fn has_expiry(self) -> bool {
        self.exp.given().is_some()
    }
}

/// No real token has a longer head. The library parses the whole head, however deeply nested,
/// before it checks the signature.
const MAX_HEAD_BYTES: usize = 1024;

/// Reads the claims of a token signed with `key`; `None` if it is not, or if the claims do not fit.
/// The caller checks the times, against the server's own clock.
pub(super) fn verify<C: DeserializeOwned>(token: &str, key: &DecodingKey) -> Option<C> {
    let (head, _) = token.split_once('.')?;
    if head.len() > MAX_HEAD_BYTES {
        return None;
    }
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded = decode::<C>(token, key, &validation).ok()?;
    Some(decoded.claims)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn times(json: serde_json::Value) -> Option<Times> {
        serde_json::from_value(json).ok()
    }

    proptest! {
        /// A token is valid in [max(iat, nbf) - leeway, exp), where each end may be missing.
        #[test]
        fn times_bound_a_token(
            exp in prop::option::of(1_i64..40), nbf in prop::option::of(1_i64..40),
            iat in prop::option::of(1_i64..40), now in 0_i64..42, micros in 0_i64..1_000_000,
            leeway in 0_i64..9,
        ) {
            let times = times(json!({
                "exp": exp.unwrap_or(0), "nbf": nbf.unwrap_or(0), "iat": iat.unwrap_or(0),
            })).unwrap();
            let from = nbf.unwrap_or(0).max(iat.unwrap_or(0));
            let is_good = (from - leeway..exp.unwrap_or(i64::MAX)).contains(&now);
            let at = Timestamp::from_micros(now * 1_000_000 + micros);
            prop_assert_eq!(times.validity(at, leeway) == Validity::Valid, is_good);
            let anyhow = (nbf.unwrap_or(0) - leeway..exp.unwrap_or(i64::MAX)).contains(&now);
            let validity = times.whenever_issued().validity(at, leeway);
            prop_assert_eq!(validity == Validity::Valid, anyhow);
        }

        #[test]
        fn numbers_of_any_form_are_read_or_refused(number in any::<f64>()) {
            let json = json!({"exp": number});
            let is_time = number.is_finite() && number.abs() < 1e15;
            // JSON has no other numbers: they are written as null.
            prop_assert_eq!(times(json).is_some(), is_time);
        }
    }

    #[test]
    fn of_an_issue_only_the_second_counts_and_texts_are_refused() {
        let fraction = times(json!({"iat": 12.75})).unwrap();
        assert_eq!(
            fraction.issued_at(),
            Some(Timestamp::from_micros(12_999_999))
        );
        assert_eq!(times(json!({"exp": "12"})), None);
        assert!(!times(json!({})).unwrap().has_expiry());
    }
}
