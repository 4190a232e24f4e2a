//! Points in time, in microseconds, which is the resolution of the record store.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Datelike as _, SecondsFormat, Timelike as _, Utc};
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
    /// Nanoseconds are rounded to microseconds, the store's resolution. Times outside the years 0
    /// to 9999 in UTC are refused, because they could not be written in a form that can be read
    /// again.
    pub fn parse(text: &str) -> Option<Self> {
        let zone_is_valid = !text.ends_with('z');
        if text.as_bytes().get(10) != Some(&b'T') || !zone_is_valid {
            return None;
        }
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        let rounding = i64::from(time.timestamp_subsec_nanos() % 1000 >= 500);
        let micros = time.timestamp_micros() + rounding;
        WRITABLE.contains(&micros).then_some(Self(micros))
    }
}

/// The years 0 to 9999, which RFC 3339 can write.
const WRITABLE: Range<i64> = -62_167_219_200_000_000..253_402_300_800_000_000;

/// RFC 3339 in UTC, down to microseconds.
const FORM: [u8; 27] = *b"0000-00-00T00:00:00.000000Z";

impl Timestamp {
    /// Fills the form, with the shortest fraction that represents the value. Returns `None` for
    /// years that do not have four digits.
    ///
    /// It is written by hand for speed: every record of an answer has two timestamps.
    fn fill(self, form: &mut [u8; 27]) -> Option<&str> {
        let time = DateTime::<Utc>::from_timestamp_micros(self.0)?;
        let parts = [
            (0..4, u32::try_from(time.year()).ok()?),
            (5..7, time.month()),
            (8..10, time.day()),
            (11..13, time.hour()),
            (14..16, time.minute()),
            (17..19, time.second()),
            (20..26, time.timestamp_subsec_micros()),
        ];
        for (place, mut number) in parts {
            for digit in form.get_mut(place)?.iter_mut().rev() {
                *digit = b"0123456789".get(number as usize % 10).copied()?;
                number /= 10;
            }
            if number > 0 {
                return None;
            }
        }
        let digits = form.strip_suffix(b"Z")?;
        let zeros = digits.iter().rev().take_while(|digit| **digit == b'0');
        let end = match zeros.take(6).count() {
            6 => 19,
            zeros => digits.len() - zeros,
        };
        *form.get_mut(end)? = b'Z';
        str::from_utf8(form.get(..=end)?).ok()
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.fill(&mut FORM.clone()) {
            return f.write_str(text);
        }
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.fill(&mut FORM.clone()) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(self),
        }
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_time_is_the_same_when_it_is_read_back(seconds in WRITABLE.start / 1_000_000..WRITABLE.end / 1_000_000, micros in 0..1_000_000_i64, cut in 0..7_u32) {
            let micros = micros / 10_i64.pow(cut) * 10_i64.pow(cut);
            let time = Timestamp::from_micros(seconds * 1_000_000 + micros);
            let text = time.to_string();
            prop_assert_eq!(Timestamp::parse(&text), Some(time));
            prop_assert!(!text.ends_with("0Z") || !text.contains('.'), "{}", text);
            let quoted = serde_json::to_string(&time).unwrap();
            prop_assert_eq!(quoted, format!("\"{text}\""));
        }
    }

    #[test]
    fn years_that_have_not_four_digits_are_written_somehow() {
        for (seconds, expected) in [
            (-62_167_219_201, "-0001-12-31T23:59:59Z"),
            (253_402_300_800, "+10000-01-01T00:00:00Z"),
        ] {
            let time = Timestamp::from_micros(seconds * 1_000_000);
            assert_eq!(time.to_string(), expected);
        }
        let last = Timestamp::from_micros(i64::MAX).to_string();
        assert_eq!(last, "9223372036854775807us");
    }

    #[test]
    fn loose_forms_and_what_could_not_be_written_are_refused() {
        for text in [
            "2016-09-08",
            "2016-09-08T06:45:59",
            "2016-09-08t06:45:59Z",
            "2016-09-08T06:45:59z",
            "2016-09-08 06:45:59Z",
            "9999-12-31T23:59:59-01:00",
            "9999-12-31T23:59:59.9999995Z",
            "0000-01-01T00:59:59+01:00",
            "",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
