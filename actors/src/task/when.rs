//! When a spec is due in a time zone. Pure.
//!
//! Due times are whole seconds. A calendar spec is about what a clock on the wall shows, and where
//! clocks are put forward or back there are two ways to read it:
//!
//! - *By the hour*, when the hour is written with `*` or `?`: every second at which the clock shows
//!   an admitted time is due. An hour that the clock skips has none, one that it shows twice has
//!   twice as many.
//! - *By the day*, when hours are named: each admitted time of a day is due once. A time that the
//!   clock skips is due as much later as the clock was put forward; of one that it shows twice the
//!   first counts.

use chrono::{DateTime, MappedLocalTime, TimeZone};
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, Timelike};
use chrono_tz::Tz;
use skytrail_schema::time::Timestamp;

use crate::plugin::timer_spec::{Calendar, Field, TimerSpec};

const MICROS: i64 = 1_000_000;
/// How far ahead an admitted day is looked for. The 29th of February comes back after eight years
/// at the latest, a 1st of February on a certain day of the week after twelve.
const MAX_DAYS: usize = 13 * 366;
/// Clocks are put forward or back by at most so many seconds.
const MAX_SHIFT: i64 = 3 * 3600;

impl TimerSpec {
    /// Returns the first due time after `after`; `None` when there is none. Intervals count from
    /// `since`.
    pub fn next_after(&self, after: Timestamp, since: Timestamp, zone: Tz) -> Option<Timestamp> {
        let after = seconds(after);
        let next = match self {
            Self::Every(interval) => {
                let interval = i64::try_from(interval.as_secs()).ok()?.max(1);
                let start = seconds(since);
                let periods = after.saturating_sub(start).div_euclid(interval) + 1;
                start.checked_add(interval.checked_mul(periods.max(1))?)
            }
            Self::Calendar(calendar) => calendar.next_after(after, zone),
        };
        next?.checked_mul(MICROS).map(Timestamp::from_micros)
    }

    /// Returns the last due time after `after` and not after `until`, and how many there are. Takes
    /// time in proportion to how many.
    pub fn last_within(
        &self,
        (after, until): (Timestamp, Timestamp),
        since: Timestamp,
        zone: Tz,
    ) -> Option<(Timestamp, u64)> {
        let mut last = None;
        let mut num_due = 0;
        let mut from = after;
        while let Some(due) = self
            .next_after(from, since, zone)
            .filter(|due| *due <= until)
        {
            (last, from) = (Some(due), due);
            num_due += 1;
        }
        last.map(|due| (due, num_due))
    }

    /// Returns the seconds of a minute, as bits, in which a due time may lie: in any zone whose
    /// offset is in whole minutes, as all are today.
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

/// Cuts to whole seconds, downwards.
fn seconds(time: Timestamp) -> i64 {
    time.micros().div_euclid(MICROS)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The first and perhaps a second moment at which a clock shows a time.
type Moments = [Option<i64>; 2];

impl Calendar {
    fn next_after(&self, after: i64, zone: Tz) -> Option<i64> {
        let is_even = offset(zone, after - MAX_SHIFT)? == offset(zone, after + MAX_SHIFT)?;
        // Times that were shown before may be shown, or made up for, once more.
        let back = if is_even { 0 } else { MAX_SHIFT };
        let shown = local(zone, after)?;
        let start = shown.checked_sub_signed(TimeDelta::seconds(back))?;
        let mut slack = back;
        let mut best: Option<i64> = None;
        let mut from = start;
        while let Some(reading) = self.next_reading(from) {
            let (moments, is_plain) = self.moments(reading, zone)?;
            if !is_plain {
                slack = MAX_SHIFT;
            }
            let is_beyond = |best: i64| moments[0].is_some_and(|first| first > best + slack);
            if best.is_some_and(is_beyond) {
                break;
            }
            let later = moments.into_iter().flatten().filter(|it| *it > after);
            best = later.chain(best).min();
            if slack == 0 && best.is_some() {
                break;
            }
            from = reading.checked_add_signed(TimeDelta::seconds(1))?;
        }
        best
    }

    /// Returns when a time that the clock shows is due, and whether there is nothing special to it.
    fn moments(&self, reading: NaiveDateTime, zone: Tz) -> Option<(Moments, bool)> {
        let is_by_the_hour = self.hours.is_star;
        Some(match zone.from_local_datetime(&reading) {
            MappedLocalTime::Single(time) => ([Some(time.timestamp()), None], true),
            MappedLocalTime::Ambiguous(first, second) => {
                let second = is_by_the_hour.then(|| second.timestamp());
                ([Some(first.timestamp()), second], false)
            }
            MappedLocalTime::None if is_by_the_hour => ([None, None], false),
            MappedLocalTime::None => {
                // As if the clock had not been put forward yet.
                let shown = reading.and_utc().timestamp();
                let before = offset(zone, shown - offset(zone, shown)? - MAX_SHIFT)?;
                ([Some(shown - before), None], false)
            }
        })
    }

    /// Returns the first admitted time from `from` on, as a clock shows it.
    fn next_reading(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        let first_day = from.date();
        if self.admits_day(first_day)
            && let Some(time) = self.next_time(from.time())
        {
            return Some(first_day.and_time(time));
        }
        let days = first_day.iter_days().skip(1).take(MAX_DAYS);
        let day = self.next_day(days)?;
        Some(day.and_time(self.next_time(NaiveTime::MIN)?))
    }

    fn next_day(&self, mut days: impl Iterator<Item = NaiveDate>) -> Option<NaiveDate> {
        days.find(|day| self.admits_day(*day))
    }

    /// Whether a day is admitted. When both day fields are restricted one of them is enough.
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

/// Returns how many seconds a zone's clocks are ahead of UTC.
fn offset(zone: Tz, seconds: i64) -> Option<i64> {
    let offset = zone.offset_from_utc_datetime(&utc(seconds)?).fix();
    Some(offset.local_minus_utc().into())
}

/// Returns what a zone's clocks show.
fn local(zone: Tz, seconds: i64) -> Option<NaiveDateTime> {
    utc(seconds + offset(zone, seconds)?)
}

#[cfg(test)]
mod tests;
