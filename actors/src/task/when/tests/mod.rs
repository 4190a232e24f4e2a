//! The spec's table, and a model that walks through the seconds one by one.

use std::cell::Cell;
use std::time::Duration;

use chrono::{DateTime, Datelike, FixedOffset, Timelike};
use proptest::prelude::*;

use super::*;

mod readings;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap()
}

/// Returns the next two due times in UTC of a timer that is registered at `from`.
fn next_two(spec: &str, from: &str) -> [Option<Timestamp>; 2] {
    let spec = TimerSpec::parse(spec).unwrap();
    let from = at(from);
    let first = spec.next_after(from, from, &Zone::UTC);
    let second = first.and_then(|first| spec.next_after(first, from, &Zone::UTC));
    [first, second]
}

#[test]
fn the_next_two_runs_are_those_of_v1() {
    const FROM: &str = "2020-02-28T23:59:58.5Z";
    let table = [
        (
            "* * * * * *",
            "2020-02-28T23:59:59Z",
            "2020-02-29T00:00:00Z",
        ),
        ("* * * * *", "2020-02-28T23:59:59Z", "2020-02-29T00:00:00Z"),
        (
            "1 2 3 4 5 *",
            "2020-05-04T03:02:01Z",
            "2021-05-04T03:02:01Z",
        ),
        (
            "0 0 0 * * TUE",
            "2020-03-03T00:00:00Z",
            "2020-03-10T00:00:00Z",
        ),
        (
            "0 0 0 ? * MON-FRI",
            "2020-03-02T00:00:00Z",
            "2020-03-03T00:00:00Z",
        ),
        (
            "0 0 0 13 * FRI",
            "2020-03-06T00:00:00Z",
            "2020-03-13T00:00:00Z",
        ),
        (
            "0 0 0 * FEB *",
            "2020-02-29T00:00:00Z",
            "2021-02-01T00:00:00Z",
        ),
        (
            "30/15 * * * * *",
            "2020-02-29T00:00:30Z",
            "2020-02-29T00:00:45Z",
        ),
        (
            "*/7 * * * * *",
            "2020-02-29T00:00:00Z",
            "2020-02-29T00:00:07Z",
        ),
        ("@every 2s", "2020-02-29T00:00:00Z", "2020-02-29T00:00:02Z"),
        (
            "@every 90.0s",
            "2020-02-29T00:01:28Z",
            "2020-02-29T00:02:58Z",
        ),
        (
            "@every 1500ms",
            "2020-02-28T23:59:59Z",
            "2020-02-29T00:00:00Z",
        ),
        (
            "@every 300ms",
            "2020-02-28T23:59:59Z",
            "2020-02-29T00:00:00Z",
        ),
        ("@every 0s", "2020-02-28T23:59:59Z", "2020-02-29T00:00:00Z"),
        ("@every -5s", "2020-02-28T23:59:59Z", "2020-02-29T00:00:00Z"),
        (
            "0 0 0 29 2 *",
            "2020-02-29T00:00:00Z",
            "2024-02-29T00:00:00Z",
        ),
    ];
    for (spec, next, then) in table {
        assert_eq!(
            next_two(spec, FROM),
            [Some(at(next)), Some(at(then))],
            "{spec}"
        );
    }
    assert_eq!(next_two("0 0 0 30 2 *", FROM), [None, None]);
    for spec in [
        "0 0 0 * * 7",
        "60 * * * * *",
        "@reboot",
        "@Daily",
        "every 1h",
        "0 0",
        "",
    ] {
        assert!(TimerSpec::parse(spec).is_err(), "{spec}");
    }
}

#[test]
fn rare_days_are_found() {
    let cases = [
        (
            "0 0 0 29 2 ?",
            "2096-03-01T00:00:00Z",
            "2104-02-29T00:00:00Z",
        ),
        (
            "0 0 0 */31 2 MON",
            "2021-02-02T00:00:00Z",
            "2027-02-01T00:00:00Z",
        ),
    ];
    for (spec, from, next) in cases {
        assert_eq!(next_two(spec, from)[0], Some(at(next)), "{spec}");
    }
}

/// Returns the due times of a day and the day after it, as clocks of the zone show them.
fn shown(spec: &str, zone: &Zone, day: (i32, u32, u32)) -> Vec<String> {
    let spec = TimerSpec::parse(spec).unwrap();
    let (year, month, day) = day;
    let day = NaiveDate::from_ymd_opt(year, month, day).unwrap();
    let at = |second| {
        let offset = FixedOffset::east_opt(i32::try_from(zone.offset(second).unwrap()).unwrap());
        DateTime::from_timestamp(second, 0)
            .unwrap()
            .with_timezone(&offset.unwrap())
    };
    let midnight = day.and_time(NaiveTime::MIN).and_utc().timestamp();
    let mut quarters = (midnight - 15 * 3600..midnight + 15 * 3600).step_by(900);
    let start = quarters.find(|second| at(*second).date_naive() >= day);
    let since = Timestamp::from_micros((start.unwrap() - 1) * MICROS);
    let mut due = since;
    let mut shown = Vec::new();
    while let Some(next) = spec.next_after(due, since, zone) {
        due = next;
        let time = at(seconds(next));
        if time.date_naive() > day.succ_opt().unwrap() {
            break;
        }
        shown.push(time.format("%d %H:%M:%S %:z").to_string());
    }
    shown
}

#[test]
fn a_time_that_clocks_skip_is_due_as_much_later() {
    let berlin = &zone("Europe/Berlin");
    let spring = (2026, 3, 29);
    assert_eq!(
        shown("5 30 2 * * *", berlin, spring),
        ["29 03:30:05 +02:00", "30 02:30:05 +02:00"]
    );
    // What is due at both times is due once.
    assert_eq!(
        shown("0 30 2,3 * * *", berlin, spring),
        [
            "29 03:30:00 +02:00",
            "30 02:30:00 +02:00",
            "30 03:30:00 +02:00"
        ]
    );
    let hours = shown("0 0 * * * *", berlin, spring);
    assert_eq!(hours.len(), 47);
    assert_eq!(
        hours[..3],
        [
            "29 00:00:00 +01:00",
            "29 01:00:00 +01:00",
            "29 03:00:00 +02:00"
        ]
    );
    assert_eq!(
        shown("0 15 2 * * *", &zone("Australia/Lord_Howe"), (2026, 10, 4)),
        ["04 02:45:00 +11:00", "05 02:15:00 +11:00"]
    );
}

#[test]
fn a_time_that_clocks_show_twice_is_due_once_and_an_hour_as_often_as_it_comes() {
    let berlin = &zone("Europe/Berlin");
    let autumn = (2026, 10, 25);
    assert_eq!(
        shown("0 30 2 * * *", berlin, autumn),
        ["25 02:30:00 +02:00", "26 02:30:00 +01:00"]
    );
    let hours = shown("0 30 * * * *", berlin, autumn);
    assert_eq!(hours.len(), 49);
    assert_eq!(hours[2..4], ["25 02:30:00 +02:00", "25 02:30:00 +01:00"]);
    assert_eq!(
        shown("@daily", &zone("America/Havana"), (2025, 11, 2)),
        ["02 00:00:00 -04:00", "03 00:00:00 -05:00"]
    );
}

#[test]
fn intervals_know_no_zones_and_keep_their_phase() {
    let since = at("2026-03-28T12:00:07.25Z");
    let spec = TimerSpec::parse("@every 1h").unwrap();
    let after = at("2026-03-29T06:30:00Z");
    for zone in [&Zone::UTC, &zone("Europe/Berlin")] {
        assert_eq!(
            spec.next_after(after, since, zone),
            Some(at("2026-03-29T07:00:07Z"))
        );
    }
    assert_eq!(
        spec.next_after(at("2020-01-01T00:00:00Z"), since, &Zone::UTC),
        Some(at("2026-03-28T13:00:07Z"))
    );
}

/// A field as a string, usually one that admits many values.
fn field(first: u32, last: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        2 => (2_u32..20).prop_map(|step| format!("*/{step}")),
        2 => (first..=last).prop_map(|value| value.to_string()),
        1 => (first..=last, first..=last).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => prop::collection::vec(first..=last, 2..5).prop_map(|values| {
            let values: Vec<_> = values.iter().map(u32::to_string).collect();
            values.join(",")
        }),
    ]
}

fn spec() -> impl Strategy<Value = String> {
    let time = (field(0, 59), field(0, 59), field(0, 23));
    // Days that restrict a whole month show nothing in a walk of two days.
    let day = prop_oneof![3 => Just("*".to_owned()), 1 => field(1, 31)];
    let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => field(0, 6)];
    (time, day, weekday).prop_map(|((second, minute, hour), day, weekday)| {
        format!("{second} {minute} {hour} {day} * {weekday}")
    })
}

/// Points in time around which it gets interesting: clocks are put forward or back, months and
/// years end.
const MOMENTS: [(&str, i64); 14] = [
    ("Europe/Berlin", 1_774_746_000),    // 2026-03-29T01:00:00Z, forward
    ("Europe/Berlin", 1_792_890_000),    // 2026-10-25T01:00:00Z, back
    ("America/New_York", 1_772_953_200), // 2026-03-08T07:00:00Z, forward
    ("America/New_York", 1_793_512_800), // 2026-11-01T06:00:00Z, back
    ("Australia/Lord_Howe", 1_775_314_800), // 2026-04-04T15:00:00Z, half an hour back
    ("Australia/Lord_Howe", 1_791_041_400), // 2026-10-03T15:30:00Z, half an hour forward
    ("America/Havana", 1_741_496_400),   // 2025-03-09T05:00:00Z, forward at midnight
    ("America/Havana", 1_762_059_600),   // 2025-11-02T05:00:00Z, back at one
    ("Africa/Casablanca", 1_771_120_800), // 2026-02-15T02:00:00Z, back
    ("Africa/Casablanca", 1_774_144_800), // 2026-03-22T02:00:00Z, forward again
    ("Antarctica/Troll", 1_774_746_000), // 2026-03-29T01:00:00Z, two hours forward
    SAMOA,
    ("Asia/Kolkata", 1_798_761_600), // 2027-01-01T00:00:00Z
    ("UTC", 1_582_934_400),          // 2020-02-29T00:00:00Z
];

/// A day was left out, 2011-12-30T10:00:00Z.
const SAMOA: (&str, i64) = ("Pacific/Apia", 1_325_239_200);

/// Whether a field of a spec admits a value, by the field's definition.
fn admits(text: &str, value: u32) -> bool {
    text.split(',').any(|part| {
        let (range, step) = part.split_once('/').map_or((part, 1), |(range, step)| {
            (range, step.parse::<u32>().unwrap())
        });
        let first = match range {
            "*" | "?" => return value.is_multiple_of(step),
            _ => range,
        };
        match first.split_once('-') {
            Some((a, b)) => (a.parse().unwrap()..=b.parse().unwrap()).contains(&value),
            None => first.parse() == Ok(value),
        }
    })
}

/// What a spec's fields admit, value by value.
struct Admitted {
    fields: Vec<Vec<bool>>,
    is_either_day: bool,
}

impl Admitted {
    fn new(spec: &str) -> Self {
        let texts: Vec<&str> = spec.split(' ').collect();
        let is_star = |text: &str| text.contains(['*', '?']);
        // Steps over all days of a month count from the first day.
        let from_one = is_star(texts[3]) && texts[3].contains('/');
        let admitted = |field: usize, value: u32| match field {
            3 if from_one => value > 0 && admits(texts[3], value - 1),
            _ => admits(texts[field], value),
        };
        let table = |field| (0..60).map(|value| admitted(field, value)).collect();
        Self {
            fields: (0..6).map(table).collect(),
            is_either_day: !is_star(texts[3]) && !is_star(texts[5]),
        }
    }

    /// Whether the spec admits what a clock shows.
    fn admits(&self, shown: &NaiveDateTime) -> bool {
        let has = |field: usize, value: u32| self.fields[field][value as usize];
        let day = has(3, shown.day());
        let weekday = has(5, shown.weekday().num_days_from_sunday());
        let on_day = if self.is_either_day {
            day || weekday
        } else {
            day && weekday
        };
        on_day && has(0, shown.second()) && has(1, shown.minute()) && has(2, shown.hour())
    }
}

/// Walks through at most `limit` seconds after `after`, to the first one that is due.
fn walk(spec: &str, after: i64, limit: i64, zone: &Zone) -> Option<i64> {
    let is_by_the_hour = spec.split(' ').nth(2).unwrap().contains(['*', '?']);
    let admitted = Admitted::new(spec);
    let utc = |second| utc(second).unwrap();
    let ahead = |second| zone.offset(second).unwrap();
    // Begins earlier, to know of a change that still has effects.
    let begin = after - 25 * 3600;
    let mut offset = ahead(begin);
    // The last change: when it was, and the offset before it.
    let mut change = (i64::MIN / 2, offset);
    for second in begin + 1..=after + limit {
        let now = ahead(second);
        if now != offset {
            change = (second, offset);
            offset = now;
        }
        if second <= after {
            continue;
        }
        let (changed_at, before) = change;
        let shift = now - before;
        let is_within = second - changed_at < shift.abs();
        let is_shown_again = shift < 0 && is_within;
        let is_shown = admitted.admits(&utc(second + now));
        let is_made_up = shift > 0 && is_within && admitted.admits(&utc(second + before));
        let is_due = if is_by_the_hour {
            is_shown
        } else {
            is_shown && !is_shown_again || is_made_up
        };
        if is_due {
            return Some(second);
        }
    }
    None
}

/// Returns the next due time, and how often the clocks' offset was looked up.
fn next_and_work(spec: &str, after: i64, zone: &Zone) -> (Option<i64>, usize) {
    let num_looks = Cell::new(0);
    let ahead = |at| {
        num_looks.set(num_looks.get() + 1);
        zone.offset(at)
    };
    let next = match TimerSpec::parse(spec).unwrap() {
        TimerSpec::Calendar(calendar) => calendar.next_after(after, &ahead),
        TimerSpec::Every(_) => None,
    };
    (next, num_looks.get())
}

#[test]
fn around_a_change_the_next_time_is_found_as_quickly_as_ever() {
    const MAX_LOOKS: usize = 120;
    for (name, moment) in MOMENTS {
        let zone = &zone(name);
        for distance in (-30 * 3600..30 * 3600).step_by(599) {
            let after = moment + distance;
            for spec in [
                "* * * * * *",
                "* * 0-23 * * *",
                "0 0 2 * * *",
                "0 0 2 1 1 *",
            ] {
                let (next, num_looks) = next_and_work(spec, after, zone);
                assert!(next.is_some(), "{spec} {name} {after}");
                assert!(num_looks <= MAX_LOOKS, "{spec} {name} {after}: {num_looks}");
            }
        }
    }
}

#[test]
fn a_day_that_is_left_out_is_made_up_for_by_the_day_and_not_by_the_hour() {
    let (name, _) = SAMOA;
    let zone = &zone(name);
    assert_eq!(
        shown("0 30 12 30 * *", zone, (2011, 12, 29)),
        Vec::<String>::new()
    );
    assert_eq!(
        shown("0 30 12 30 * *", zone, (2011, 12, 31)),
        ["31 12:30:00 +14:00"]
    );
    // If two times fall together, the task is due once.
    assert_eq!(
        shown("0 30 12 * * *", zone, (2011, 12, 31)),
        ["31 12:30:00 +14:00", "01 12:30:00 +14:00"]
    );
    assert_eq!(
        shown("0 30 * 30 12 *", zone, (2011, 12, 31)),
        Vec::<String>::new()
    );
}

/// Checks the result for a range against stepping from one due time to the next.
fn check_last_within(spec: &TimerSpec, (after, until): (i64, i64), zone: &Zone) {
    let micros = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
    let since = micros(1);
    let mut due = spec.next_after(micros(after), since, zone);
    let mut all = Vec::new();
    while let Some(next) = due.filter(|due| *due <= micros(until)) {
        all.push(next);
        due = spec.next_after(next, since, zone);
    }
    let expected = all.last().map(|last| {
        let num_due = u64::try_from(all.len()).unwrap();
        (*last, num_due.min(MAX_COUNTED))
    });
    let found = spec.last_within((micros(after), micros(until)), since, zone);
    assert_eq!(found, expected, "{spec:?} {after} {until}");
}

#[test]
fn the_last_of_many_is_found_without_counting_all() {
    let (name, moment) = MOMENTS[1];
    let zone = &zone(name);
    let texts = [
        "* * * * * *",
        "*/7 * * * * *",
        "* * 2 * * *",
        "@every 1s",
        "0-30 0-17 * * * *",
    ];
    for text in texts {
        let spec = TimerSpec::parse(text).unwrap();
        for length in [0, 1, 999, 1000, 1001, 2500, 7201] {
            check_last_within(&spec, (moment - 3000, moment - 3000 + length), zone);
        }
    }
}

/// A spec for certain days of certain months.
fn rare_spec() -> impl Strategy<Value = String> {
    let time = (field(0, 59), field(0, 59), field(0, 23));
    let day = (field(1, 31), field(1, 12), field(0, 6));
    (time, day).prop_map(|((second, minute, hour), (day, month, weekday))| {
        format!("{second} {minute} {hour} {day} {month} {weekday}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Covers distances at which a walk through the seconds would take too long.
    #[test]
    fn the_next_time_is_the_one_that_a_search_through_readings_finds(
        spec in rare_spec(),
        moment in 0..MOMENTS.len(),
        distance in prop_oneof![-20_000_i64..20_000, -40_000_000_i64..40_000_000],
    ) {
        let (name, moment) = MOMENTS[moment];
        prop_assume!((name, moment) != SAMOA);
        let zone = &zone(name);
        let after = moment + distance;
        let (next, num_looks) = next_and_work(&spec, after, zone);
        if let TimerSpec::Calendar(calendar) = TimerSpec::parse(&spec).unwrap() {
            let expected = readings::next_after(&calendar, after, zone);
            prop_assert_eq!(next, expected, "{} {}", spec, name);
        }
        prop_assert!(num_looks <= 300, "{} {}: {}", spec, name, num_looks);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_next_time_is_the_one_that_a_walk_through_the_seconds_finds(
        spec in spec(),
        moment in 0..MOMENTS.len(),
        distance in prop_oneof![3 => -20_000_i64..20_000, 1 => -100_000_i64..100_000],
        micros in 0_i64..1_000_000,
    ) {
        const LIMIT: i64 = 26 * 3600;
        let (name, moment) = MOMENTS[moment];
        let zone = &zone(name);
        let after = moment + distance;
        let parsed = TimerSpec::parse(&spec).unwrap();
        let since = Timestamp::from_micros(0);
        let next = parsed.next_after(Timestamp::from_micros(after * 1_000_000 + micros), since, zone);
        let next = next.map(|next| next.micros() / 1_000_000);
        match walk(&spec, after, LIMIT, zone) {
            Some(walked) => prop_assert_eq!(next, Some(walked), "{} {}", spec, name),
            None => prop_assert!(next.is_none_or(|next| next > after + LIMIT), "{} {}", spec, name),
        }
        // A task that is woken in these seconds misses nothing.
        if let Some(next) = next {
            prop_assert!(parsed.due_seconds(since) >> next.rem_euclid(60) & 1 == 1);
        }
    }

    #[test]
    fn an_interval_is_due_at_its_multiples(
        interval in 1_u64..100_000,
        since in 0_i64..4_000_000_000_000_000,
        after in 0_i64..4_000_000_000_000_000,
    ) {
        let spec = TimerSpec::Every(Duration::from_secs(interval));
        let (since, after) = (Timestamp::from_micros(since), Timestamp::from_micros(after));
        let next = spec.next_after(after, since, &Zone::UTC).unwrap();
        let interval = interval as i64;
        let (start, second) = (since.micros() / 1_000_000, next.micros() / 1_000_000);
        prop_assert!(next > after && next.micros() % 1_000_000 == 0);
        prop_assert!(second > start && (second - start) % interval == 0);
        // There is no due time in between.
        let before = second - interval;
        prop_assert!(before <= start || before * 1_000_000 <= after.micros());
        prop_assert!(spec.due_seconds(since) >> second.rem_euclid(60) & 1 == 1);
    }
}
