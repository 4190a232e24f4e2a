//! When a timer runs: v1's cron dialect, parsed.
//!
//! A spec has six fields, from second to day of week; with five, the day of week is the missing
//! one. The specification's table of traps is in the tests.

use std::time::Duration;

/// A parsed spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerSpec {
    /// At the times that all fields allow.
    Calendar(Box<Calendar>),
    /// Repeatedly, after this time, in whole seconds.
    Every(Duration),
}

/// The sets of allowed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 0 to 59.
    pub seconds: Field,
    /// 0 to 59.
    pub minutes: Field,
    /// 0 to 23.
    pub hours: Field,
    /// 1 to 31.
    pub days_of_month: Field,
    /// 1 to 12.
    pub months: Field,
    /// 0 to 6, Sunday first.
    pub days_of_week: Field,
}

/// A set of small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bit `n` is set when `n` is allowed.
    pub bits: u64,
    /// Whether it was written with `*` or `?`: such a day field does not make the other one
    /// optional.
    pub is_star: bool,
}

/// Why a spec is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimerSpecError {
    /// The spec has neither five nor six fields.
    #[error("expected 5 or 6 fields, found {0}")]
    FieldCount(usize),
    /// An unknown word after `@`.
    #[error("unknown descriptor {0}")]
    Descriptor(String),
    /// Not a duration.
    #[error("bad duration {0:?}")]
    Duration(String),
    /// A value above the field's maximum.
    #[error("{field}: {value} is above {max}")]
    Above {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
        /// The maximum.
        max: u32,
    },
    /// A value below the field's minimum.
    #[error("{field}: {value} is below {min}")]
    Below {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
        /// The minimum.
        min: u32,
    },
    /// Anything else in a field.
    #[error("{field}: cannot read {text:?}")]
    Syntax {
        /// The field.
        field: &'static str,
        /// The part that cannot be read.
        text: String,
    },
}

/// A field's name and limits, and the names of its values from `min` up.
struct Range {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const SECONDS: Range = Range {
    name: "second",
    min: 0,
    max: 59,
    names: &[],
};
const MINUTES: Range = Range {
    name: "minute",
    min: 0,
    max: 59,
    names: &[],
};
const HOURS: Range = Range {
    name: "hour",
    min: 0,
    max: 23,
    names: &[],
};
const DAYS_OF_MONTH: Range = Range {
    name: "day of month",
    min: 1,
    max: 31,
    names: &[],
};
const MONTHS: Range = Range {
    name: "month",
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const DAYS_OF_WEEK: Range = Range {
    name: "day of week",
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl TimerSpec {
    /// Parses a spec.
    ///
    /// # Errors
    /// See [`TimerSpecError`].
    pub fn parse(text: &str) -> Result<Self, TimerSpecError> {
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let (fields, day_of_week) = match fields.as_slice() {
            [five @ .., day] if five.len() == 5 => (five, *day),
            five if five.len() == 5 => (five, "*"),
            other => return Err(TimerSpecError::FieldCount(other.len())),
        };
        let [second, minute, hour, day, month] = fields else {
            return Err(TimerSpecError::FieldCount(fields.len()));
        };
        Ok(Self::Calendar(Box::new(Calendar {
            seconds: field(second, &SECONDS)?,
            minutes: field(minute, &MINUTES)?,
            hours: field(hour, &HOURS)?,
            days_of_month: field(day, &DAYS_OF_MONTH)?,
            months: field(month, &MONTHS)?,
            days_of_week: field(day_of_week, &DAYS_OF_WEEK)?,
        })))
    }
}

fn descriptor(text: &str) -> Result<TimerSpec, TimerSpecError> {
    match text {
        "@yearly" | "@annually" => TimerSpec::parse("0 0 0 1 1 *"),
        "@monthly" => TimerSpec::parse("0 0 0 1 * *"),
        "@weekly" => TimerSpec::parse("0 0 0 * * 0"),
        "@daily" | "@midnight" => TimerSpec::parse("0 0 0 * * *"),
        "@hourly" => TimerSpec::parse("0 0 * * * *"),
        _ => match text.strip_prefix("@every ") {
            Some(duration) => every(duration),
            None => Err(TimerSpecError::Descriptor(text.to_owned())),
        },
    }
}

/// Truncates to whole seconds; anything below one second becomes one.
fn every(text: &str) -> Result<TimerSpec, TimerSpecError> {
    let seconds = seconds(text).ok_or_else(|| TimerSpecError::Duration(text.to_owned()))?;
    Ok(TimerSpec::Every(Duration::from_secs(seconds.max(1))))
}

/// Parses a duration such as `1h30m`, `90.0s`, `1500ms`, `-5s`; negative ones are 0.
fn seconds(text: &str) -> Option<u64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Some(0);
    }
    let mut nanos = 0.0_f64;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        nanos += number.parse::<f64>().ok()? * nanos_per(unit)?;
        rest = tail;
    }
    let is_a_duration = !unsigned.is_empty() && nanos <= MAX_NANOS;
    if !is_a_duration {
        return None;
    }
    if text.starts_with('-') {
        return Some(0);
    }
    // At this size the float is more precise than a nanosecond; adding half of one corrects sums
    // such as 0.1s ten times.
    let whole = Duration::from_secs_f64((nanos + 0.5) / 1e9);
    Some(whole.as_secs())
}

/// The longest duration that v1 could hold.
const MAX_NANOS: f64 = 9.2e18;

fn nanos_per(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

fn field(text: &str, range: &Range) -> Result<Field, TimerSpecError> {
    let mut field = Field {
        bits: 0,
        is_star: false,
    };
    for part in text.split(',') {
        let part = part_of(part, range)?;
        field.bits |= part.bits;
        field.is_star |= part.is_star;
    }
    Ok(field)
}

/// Parses `*`, `N`, `N-M`, each with an optional `/S`.
fn part_of(text: &str, range: &Range) -> Result<Field, TimerSpecError> {
    let syntax = || TimerSpecError::Syntax {
        field: range.name,
        text: text.to_owned(),
    };
    let (values, step) = match text.split_once('/') {
        Some((values, step)) => (values, Some(number(step).ok_or_else(syntax)?)),
        None => (text, None),
    };
    let is_star = matches!(values, "*" | "?");
    let (first, last) = if is_star {
        (range.min, range.max)
    } else {
        match values.split_once('-') {
            Some((first, last)) => (value(first, range)?, value(last, range)?),
            // A value with a step, but without an end, runs to the maximum.
            None if step.is_some() => (value(values, range)?, range.max),
            None => (value(values, range)?, value(values, range)?),
        }
    };
    let step = usize::try_from(step.unwrap_or(1)).map_err(|_| syntax())?;
    if first > last || step == 0 {
        return Err(syntax());
    }
    let bits = (first..=last)
        .step_by(step)
        .fold(0, |bits, n| bits | 1 << n);
    Ok(Field { bits, is_star })
}

fn value(text: &str, range: &Range) -> Result<u32, TimerSpecError> {
    let name = text.to_ascii_lowercase();
    let named = range.names.iter().position(|known| *known == name);
    if let Some(index) = named.and_then(|index| u32::try_from(index).ok()) {
        return Ok(range.min + index);
    }
    let value = number(text).ok_or_else(|| TimerSpecError::Syntax {
        field: range.name,
        text: text.to_owned(),
    })?;
    let (field, min, max) = (range.name, range.min, range.max);
    if value > u64::from(max) {
        return Err(TimerSpecError::Above { field, value, max });
    }
    if value < u64::from(min) {
        return Err(TimerSpecError::Below { field, value, min });
    }
    u32::try_from(value).map_err(|_| TimerSpecError::Above { field, value, max })
}

fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(text: &str) -> Calendar {
        match TimerSpec::parse(text) {
            Ok(TimerSpec::Calendar(calendar)) => *calendar,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn five_fields_lack_the_day_of_week() {
        assert_eq!(calendar("1 2 3 4 5"), calendar("1 2 3 4 5 *"));
        assert_eq!(calendar("* * * * *").seconds.bits, (1 << 60) - 1);
    }

    #[test]
    fn fields_take_names_lists_ranges_and_steps() {
        let spec = calendar("30/15 */20 1-3,5 ? FEB mon-Fri");
        assert_eq!(spec.seconds.bits, 1 << 30 | 1 << 45);
        assert_eq!(spec.minutes.bits, 1 | 1 << 20 | 1 << 40);
        assert_eq!(spec.hours.bits, 0b10_1110);
        assert!(spec.days_of_month.is_star);
        assert_eq!(spec.months.bits, 1 << 2);
        assert_eq!(spec.days_of_week.bits, 0b11_1110);
        assert!(calendar("0 0 0 */2 * *").days_of_month.is_star);
    }

    #[test]
    fn intervals_are_whole_seconds_from_one_on() {
        let cases = [
            ("2m", 120),
            ("90s", 90),
            ("90.0s", 90),
            ("1h30m", 5400),
            ("1500ms", 1),
            ("300ms", 1),
            ("0s", 1),
            ("0", 1),
            ("-5s", 1),
            ("1.9s", 1),
            (".5h", 1800),
        ];
        for (text, seconds) in cases {
            let spec = TimerSpec::parse(&format!("@every {text}"));
            assert_eq!(
                spec,
                Ok(TimerSpec::Every(Duration::from_secs(seconds))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_v1_died_of_is_refused() {
        for text in [
            "0 0 0 * * 7",
            "60 * * * * *",
            "@reboot",
            "@Daily",
            "every 1h",
            "0 0",
            "",
            "* * * * * * *",
            "0 0 0 0 * *",
            "0 0 0 * 13 *",
            "5-1 * * * * *",
            "*/0 * * * * *",
            "L * * * * *",
            "+1 * * * * *",
            "@every",
            "@every 1",
            "@every x",
            "@every 1d",
            "@every .s",
            "@every -",
            "1- * * * * *",
            "@every 99999999999h",
        ] {
            assert!(TimerSpec::parse(text).is_err(), "{text}");
        }
        for text in [
            "@yearly",
            "@annually",
            "@monthly",
            "@weekly",
            "@daily",
            "@midnight",
            "@hourly",
        ] {
            assert!(TimerSpec::parse(text).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(@every )?[-0-9*?/,.@a-zA-Z ]{0,40}") {
            let _ = TimerSpec::parse(&text);
        }
    }
}
