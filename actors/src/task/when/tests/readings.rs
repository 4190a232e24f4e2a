//! Another way to find the next due time: it goes through everything that clocks show around a
//! change, one after the other, and when they show it. It does not handle changes by more than
//! three hours.

use chrono::{NaiveDateTime, TimeDelta};

use super::super::utc;
use crate::plugin::timer_spec::Calendar;
use crate::task::Zone;

const MAX_SHIFT: i64 = 3 * 3600;

/// Returns the first due time after `after`.
pub(super) fn next_after(calendar: &Calendar, after: i64, zone: &Zone) -> Option<i64> {
    let is_even = zone.offset(after - MAX_SHIFT)? == zone.offset(after + MAX_SHIFT)?;
    // Times that were shown before can be shown, or made up for, once more.
    let back = if is_even { 0 } else { MAX_SHIFT };
    let shown = utc(after + zone.offset(after)?)?;
    let mut slack = back;
    let mut best: Option<i64> = None;
    let mut from = shown.checked_sub_signed(TimeDelta::seconds(back))?;
    while let Some(reading) = calendar.next_reading(from).and_then(utc) {
        let (moments, is_plain) = moments(calendar, reading, zone)?;
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

/// Returns when a time that the clock shows is due, and whether it is an ordinary time.
fn moments(
    calendar: &Calendar,
    reading: NaiveDateTime,
    zone: &Zone,
) -> Option<([Option<i64>; 2], bool)> {
    let is_by_the_hour = calendar.hours.is_star;
    let shown = reading.and_utc().timestamp();
    let near = shown - zone.offset(shown)?;
    let (before, after) = (
        zone.offset(near - MAX_SHIFT)?,
        zone.offset(near + MAX_SHIFT)?,
    );
    // The clock shows it at these moments, if they exist.
    let [first, second] = [shown - before, shown - after];
    Some(
        match (zone.offset(first)? == before, zone.offset(second)? == after) {
            (true, true) if first != second => {
                let second = is_by_the_hour.then_some(second);
                ([Some(first), second], false)
            }
            (true, _) => ([Some(first), None], true),
            (false, true) => ([Some(second), None], true),
            (false, false) if is_by_the_hour => ([None, None], false),
            // As if the clock had not been put forward yet.
            (false, false) => ([Some(first), None], false),
        },
    )
}
