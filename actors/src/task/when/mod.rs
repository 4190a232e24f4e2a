//! When a spec is due in a time zone. Pure.
//!
//! Due times are whole seconds. A calendar spec is about what a wall clock shows. Where clocks are
//! put forward or back, there are two ways to read it:
//!
//! - *By the hour*, if the hour is written with `*` or `?`: every second at which the clock shows
//!   an admitted time is due. An hour that the clock skips has no due times; an hour that it shows
//!   twice has twice as many.
//! - *By the day*, if hours are named: each admitted time of a day is due once. A time that the
//!   clock skips is due later, by as much as the clock was put forward. Of a time that it shows
//!   twice, the first one counts.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use skytrail_schema::time::Timestamp;

use super::zone::Zone;
use crate::plugin::timer_spec::{Calendar, Field, TimerSpec};

const MICROS: i64 = 1_000_000;
/// How many days ahead an admitted day is searched for. The 29th of February comes back after at
/// most eight years, a 1st of February on a certain day of the week after at most twelve.
const MAX_DAYS: usize = 13 * 366;
/// Clocks are put forward or back by less than this many seconds: Samoa once left out a day.
const REACH: i64 = 26 * 3600;
/// At most this many due times are counted. If a task is due every second and waits for an hour,
/// the exact number does not matter.
const MAX_COUNTED: u64 = 1000;

impl TimerSpec {
    /// Returns the first due time after `after`; `None` if there is none. Intervals count from
    /// `since`.
    pub fn next_after(&self, after: Timestamp, since: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let after = seconds(after);
        let next = match self {
            Self::Every(interval) => {
                let interval = i64::try_from(interval.as_secs()).ok()?.max(1);
                let start = seconds(since);
                let periods = after.saturating_sub(start).div_euclid(interval) + 1;
                start.checked_add(interval.checked_mul(periods.max(1))?)
            }
            Self::Calendar(calendar) => calendar.next_after(after, &|at| zone.offset(at)),
        };
        next?.checked_mul(MICROS).map(Timestamp::from_micros)
    }

    /// Returns the last due time after `after` and not after `until`, and how many there are,
    /// counting at most [`MAX_COUNTED`].
    pub fn last_within(
        &self,
        (after, until): (Timestamp, Timestamp),
        since: Timestamp,
        zone: &Zone,
    ) -> Option<(Timestamp, u64)> {
        let next = |from| {
            let due = self.next_after(from, since, zone);
            due.filter(|due| *due <= until)
        };
        let mut last = next(after)?;
        for num_due in 1..MAX_COUNTED {
            match next(last) {
                Some(due) => last = due,
                None => return Some((last, num_due)),
            }
        }
        // Any others lie in the seconds from here to `until`.
        let mut end = seconds(until);
        while seconds(last) < end {
            let middle = seconds(last) + (end - seconds(last)) / 2;
            match next(Timestamp::from_micros(middle * MICROS)) {
                Some(due) => last = due,
                None => end = middle,
            }
        }
        Some((last, MAX_COUNTED))
    }

    /// Returns the seconds of a minute, as bits, in which a due time can lie. That holds in any
    /// zone whose offset is in whole minutes, as all are today.
    pub fn due_seconds(&self, since: Timestamp) -> u64 {
        match self {
            Self::Calendar(calendar) => calendar.seconds.bits,
            Self::Every(interval) => {
                let step = gcd(interval.as_secs(), 60);
                let first = seconds(since).rem_euclid(60).unsigned_abs() % step;
                (0..60)
                    .filter(|second| second % step == first)
                    .fold(0, |bits, second| bits | 1 << second)
            }
        }
    }
}

/// Rounds down to whole seconds.
fn seconds(time: Timestamp) -> i64 {
    time.micros().div_euclid(MICROS)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Seconds around a point in time in which a zone's clocks are neither put forward nor back.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// How many seconds clocks are ahead of UTC.
    offset: i64,
    /// When clocks were last changed, and how far ahead they were before; `None` if that is long
    /// ago.
    change: Option<(i64, i64)>,
    /// The first second that is not known to belong to the span.
    end: i64,
    /// Whether clocks are changed at `end`.
    ends_in_change: bool,
}

impl Span {
    /// Finds the span around a second. It is known as far as [`REACH`].
    fn around(moment: i64, ahead: &impl Fn(i64) -> Option<i64>) -> Option<Self> {
        let offset = ahead(moment)?;
        let (early, late) = (moment - REACH, moment + REACH);
        let change = if ahead(early)? == offset {
            None
        } else {
            let change = first(early, moment, |at| Some(ahead(at)? == offset))?;
            Some((change, ahead(change - 1)?))
        };
        let ends_in_change = ahead(late)? != offset;
        let end = if ends_in_change {
            first(moment, late, |at| Some(ahead(at)? != offset))?
        } else {
            late
        };
        Some(Self {
            offset,
            change,
            end,
            ends_in_change,
        })
    }
}

/// Returns the first second after `low` at which `is_true` holds; it holds at `high`, and not at
/// `low`.
fn first(mut low: i64, mut high: i64, is_true: impl Fn(i64) -> Option<bool>) -> Option<i64> {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_true(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

impl Calendar {
    /// Returns the first due time after `after`. `ahead` returns how many seconds the zone's clocks
    /// are ahead of UTC.
    ///
    /// It steps from one change of the clocks to the next, however often a spec is due in between.
    fn next_after(&self, after: i64, ahead: &impl Fn(i64) -> Option<i64>) -> Option<i64> {
        let mut from = after.checked_add(1)?;
        loop {
            let span = Span::around(from, ahead)?;
            let due = self.first_in(span, from)?;
            if due < span.end {
                return Some(due);
            }
            // Wherever clocks are put in between, they do not show an admitted time much sooner.
            from = if span.ends_in_change {
                span.end
            } else {
                span.end.max(due - REACH)
            };
        }
    }

    /// Returns the first due time from `from` on, as if the span had no end.
    fn first_in(&self, span: Span, from: i64) -> Option<i64> {
        let shown = |from, offset| Some(self.next_reading(utc(from + offset)?)? - offset);
        let by_the_day = span.change.filter(|_| !self.hours.is_star);
        let Some((change, before)) = by_the_day else {
            return shown(from, span.offset);
        };
        let until = change + (span.offset - before).abs();
        if span.offset < before {
            // Until then clocks repeat what they have shown.
            return shown(from.max(until), span.offset);
        }
        // What was skipped is due as if clocks had not been put forward yet.
        let made_up = shown(from, before).filter(|due| *due < until);
        made_up.into_iter().chain(shown(from, span.offset)).min()
    }

    /// Returns the first admitted time from `from` on, as a clock shows it, in seconds as if it
    /// were UTC.
    fn next_reading(&self, from: NaiveDateTime) -> Option<i64> {
        let first_day = from.date();
        if self.admits_day(first_day)
            && let Some(time) = self.next_time(from.time())
        {
            return Some(first_day.and_time(time).and_utc().timestamp());
        }
        let days = first_day.iter_days().skip(1).take(MAX_DAYS);
        let day = self.next_day(days)?;
        let time = self.next_time(NaiveTime::MIN)?;
        Some(day.and_time(time).and_utc().timestamp())
    }

    fn next_day(&self, mut days: impl Iterator<Item = NaiveDate>) -> Option<NaiveDate> {
        days.find(|day| self.admits_day(*day))
    }

    /// Whether a day is admitted. If both day fields are restricted, one of them is enough.
    fn admits_day(&self, day: NaiveDate) -> bool {
        let in_month = self.days_of_month.admits(day.day());
        let in_week = self
            .days_of_week
            .admits(day.weekday().num_days_from_sunday());
        let is_either = !self.days_of_month.is_star && !self.days_of_week.is_star;
        let is_admitted = if is_either {
            in_month || in_week
        } else {
            in_month && in_week
        };
        self.months.admits(day.month()) && is_admitted
    }

    /// Returns the first admitted time of a day from `from` on.
    fn next_time(&self, from: NaiveTime) -> Option<NaiveTime> {
        let (mut hour, mut minute, mut second) = (from.hour(), from.minute(), from.second());
        while let Some(found) = self.hours.first_from(hour) {
            if found > hour {
                (minute, second) = (0, 0);
            }
            hour = found;
            while let Some(found) = self.minutes.first_from(minute) {
                if found > minute {
                    second = 0;
                }
                minute = found;
                if let Some(second) = self.seconds.first_from(second) {
                    return NaiveTime::from_hms_opt(hour, minute, second);
                }
                (minute, second) = (minute + 1, 0);
            }
            (hour, minute, second) = (hour + 1, 0, 0);
        }
        None
    }
}

impl Field {
    fn admits(self, value: u32) -> bool {
        value < u64::BITS && self.bits >> value & 1 == 1
    }

    /// Returns the first admitted value from `value` on.
    fn first_from(self, value: u32) -> Option<u32> {
        let rest = self.bits.checked_shr(value)?;
        (rest != 0).then(|| value + rest.trailing_zeros())
    }
}

fn utc(seconds: i64) -> Option<NaiveDateTime> {
    Some(DateTime::from_timestamp(seconds, 0)?.naive_utc())
}

#[cfg(test)]
mod tests;
