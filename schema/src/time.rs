//! Points in time, in microseconds: the resolution of the record store.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Builds a timestamp from microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339 as v1 does: upper-case `T`, a zone is required, a fraction is optional.
    ///
    /// Nanoseconds are rounded to microseconds, the store's resolution.
    pub fn parse(text: &str) -> Option<Self> {
        let zone_is_valid = !text.ends_with('z');
        if text.as_bytes().get(10) != Some(&b'T') || !zone_is_valid {
            return None;
        }
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        let rounding = i64::from(time.timestamp_subsec_nanos() % 1000 >= 500);
        Some(Self(time.timestamp_micros() + rounding))
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with the shortest fraction that represents the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = DateTime::<Utc>::from_timestamp_micros(self.0) else {
            return write!(f, "{}us", self.0);
        };
        let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let (head, _) = text.split_at(text.len() - 1);
        let trimmed = head.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{trimmed}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_zeros_are_cut() {
        let cases = [
            ("2016-09-08T06:42:59.871181Z", "2016-09-08T06:42:59.871181Z"),
            ("2016-09-08T06:45:59.500000Z", "2016-09-08T06:45:59.5Z"),
            ("2016-09-08T14:45:59+08:00", "2016-09-08T06:45:59Z"),
            ("2016-09-08T06:45:59.000000001Z", "2016-09-08T06:45:59Z"),
            (
                "2016-09-08T06:45:59.0000015Z",
                "2016-09-08T06:45:59.000002Z",
            ),
            ("2016-09-08T06:45:50Z", "2016-09-08T06:45:50Z"),
        ];
        for (input, expected) in cases {
            assert_eq!(Timestamp::parse(input).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn loose_forms_are_refused() {
        for text in [
            "2016-09-08",
            "2016-09-08T06:45:59",
            "2016-09-08t06:45:59Z",
            "2016-09-08T06:45:59z",
            "2016-09-08 06:45:59Z",
            "",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
