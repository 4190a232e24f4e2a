use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    at_once: 3,
    max_attempts: 4,
    max_age: Duration::from_secs(600),
};
const SECOND: Duration = Duration::from_secs(1);

/// By default everybody gets one push.
impl Addressed for u32 {
    type User = u32;

    fn user(&self) -> u32 {
        if (1000..2000).contains(self) {
            1000
        } else {
            *self
        }
    }
}

fn filled(pushes: std::ops::Range<u32>, now: Instant) -> Schedule<u32> {
    let mut schedule = Schedule::new(BOUNDS);
    for push in pushes {
        schedule.add(push, Duration::ZERO, now);
    }
    schedule
}

#[test]
fn pushes_go_in_order_and_so_many_at_once() {
    let now = Instant::now();
    let mut schedule = filled(0..5, now);
    let taken: Vec<_> = std::iter::from_fn(|| schedule.take(now)).collect();
    let pushes: Vec<_> = taken.iter().map(|entry| entry.push).collect();
    assert_eq!(pushes, [0, 1, 2]);
    assert_eq!(schedule.next_due(now), None);
    schedule.answered(now);
    assert_eq!(schedule.take(now).map(|entry| entry.push), Some(3));
}

#[test]
fn a_push_is_tried_again_after_pauses_that_double_and_then_given_up() {
    let mut now = Instant::now();
    let mut schedule = filled(7..8, now);
    for pause in [1, 2, 4] {
        let entry = schedule.take(now).unwrap();
        assert_eq!(schedule.put_back(entry, (None, false), now), Again::Waits);
        let due = now + SECOND * pause;
        assert_eq!(schedule.next_due(now), Some(due));
        let early = schedule.take(due - Duration::from_millis(1));
        assert!(early.is_none());
        now = due;
    }
    let entry = schedule.take(now).unwrap();
    let given_up = schedule.put_back(entry, (None, false), now);
    assert_eq!(given_up, Again::GivenUp(7));
    assert_eq!((schedule.num_queued(), schedule.num_in_flight()), (0, 0));
}

#[test]
fn while_the_service_is_away_each_push_is_tried_before_any_is_again() {
    let mut now = Instant::now();
    let mut schedule = filled(0..3, now);
    for expected in [0, 1, 2, 0] {
        let entry = schedule.take(now).unwrap();
        assert_eq!(entry.push, expected);
        schedule.put_back(entry, (None, true), now);
        now = schedule.next_due(now).unwrap();
    }
}

#[test]
fn an_outage_costs_a_push_one_attempt() {
    let mut now = Instant::now();
    let mut schedule = filled(0..1, now);
    for _ in 0..2 * BOUNDS.max_attempts {
        let entry = schedule.take(now).unwrap();
        assert_eq!(schedule.put_back(entry, (None, true), now), Again::Waits);
        now = schedule.next_due(now).unwrap();
    }
    // The service is back, and the push fails for another reason.
    for _ in 2..BOUNDS.max_attempts {
        let entry = schedule.take(now).unwrap();
        assert_eq!(schedule.put_back(entry, (None, false), now), Again::Waits);
        now = schedule.next_due(now).unwrap();
    }
    let entry = schedule.take(now).unwrap();
    let given_up = schedule.put_back(entry, (None, false), now);
    assert_eq!(given_up, Again::GivenUp(0));
}

#[test]
fn one_users_pushes_do_not_keep_a_service_held() {
    let mut now = Instant::now();
    let mut schedule = filled(5..6, now);
    let entry = schedule.take(now).unwrap();
    schedule.put_back(entry, (None, true), now);
    for push in (1000..1100).chain([7, 2500]) {
        schedule.add(push, Duration::ZERO, now);
    }
    let mut asked = Vec::new();
    for _ in 0..6 {
        now = schedule.next_due(now).unwrap();
        let entry = schedule.take(now).unwrap();
        asked.push(entry.push);
        schedule.put_back(entry, (None, true), now);
    }
    assert_eq!(asked, [7, 1000, 2500, 5, 7, 1001]);
}

/// What was tried while the service was away has its turn when it is back, whatever somebody else
/// has that was not tried.
#[test]
fn one_users_untried_pushes_do_not_hold_up_what_was_tried() {
    let mut now = Instant::now();
    let mut schedule = filled(0..5, now);
    for _ in 0..5 {
        let entry = schedule.take(now).unwrap();
        schedule.put_back(entry, (None, true), now);
        now = schedule.next_due(now).unwrap();
    }
    for push in 1000..1060 {
        schedule.add(push, Duration::ZERO, now);
    }
    let mut asked = Vec::new();
    for _ in 0..6 {
        let entry = schedule.take(now).unwrap();
        asked.push(entry.push);
        schedule.put_back(entry, (None, true), now);
        now = schedule.next_due(now).unwrap();
    }
    asked.sort_unstable();
    assert_eq!(asked, [0, 1, 2, 3, 4, 1000]);
}

#[test]
fn a_service_is_not_asked_before_it_said_and_then_with_one_push() {
    let now = Instant::now();
    let mut schedule = filled(0..9, now);
    let mut taken: Vec<_> = std::iter::from_fn(|| schedule.take(now)).collect();
    let wait = SECOND * 20;
    let one = taken.pop().unwrap();
    schedule.put_back(one, (Some(wait), true), now);
    taken.pop().unwrap();
    schedule.answered(now);
    // The pushes in flight meet the same failure, which counts once.
    for entry in taken {
        schedule.put_back(entry, (None, true), now);
    }
    assert!(schedule.take(now + wait - SECOND).is_none());
    assert_eq!(schedule.next_due(now), Some(now + wait));
    let later = now + wait;
    let probe = schedule.take(later).unwrap();
    assert!(schedule.take(later).is_none(), "one push only");
    schedule.put_back(probe, (None, true), later);
    assert_eq!(
        schedule.next_due(later),
        Some(later + SECOND * 2),
        "the second failure"
    );
    let back = later + SECOND * 2;
    assert!(schedule.take(back).is_some());
    schedule.answered(back);
    let num_taken = std::iter::from_fn(|| schedule.take(back)).count();
    assert_eq!(num_taken, BOUNDS.at_once);
}

#[test]
fn nothing_waits_longer_than_it_may_be_old() {
    let now = Instant::now();
    let mut schedule = filled(0..1, now);
    let entry = schedule.take(now).unwrap();
    let given_up = schedule.put_back(entry, (Some(BOUNDS.max_age * 2), true), now);
    assert_eq!(given_up, Again::GivenUp(0));
    // If a service asks for a pause of a year, it still gets the next pushes sooner.
    schedule.add(1, Duration::ZERO, now + SECOND);
    assert_eq!(schedule.next_due(now), Some(now + BOUNDS.max_age));
    let later = now + BOUNDS.max_age;
    let entry = schedule.take(later).unwrap();
    let given_up = schedule.put_back(entry, (Some(Duration::MAX), true), later);
    assert_eq!(given_up, Again::GivenUp(1));
}

#[test]
fn what_got_too_old_while_the_service_was_away_leaves_the_queue() {
    let now = Instant::now();
    let mut schedule = filled(0..2, now);
    schedule.add(2, SECOND * 60, now);
    schedule.add(3, Duration::ZERO, now + SECOND);
    let entry = schedule.take(now).unwrap();
    schedule.put_back(entry, (None, true), now);
    let expired = |schedule: &mut Schedule<u32>, now| {
        let expired = schedule.expire(now).into_iter();
        Vec::from_iter(expired.map(|entry| entry.push))
    };
    assert_eq!(expired(&mut schedule, now), [0; 0]);
    let first = now + BOUNDS.max_age - SECOND * 60;
    assert_eq!(schedule.next_expiry(), Some(first));
    assert_eq!(expired(&mut schedule, first), [2]);
    // One that waits for another attempt, and one that was never tried.
    let then = now + BOUNDS.max_age;
    assert_eq!(expired(&mut schedule, then), [0, 1]);
    assert_eq!((schedule.num_queued(), schedule.num_retrying()), (1, 0));
    assert_eq!(schedule.take(then).map(|entry| entry.push), Some(3));
    assert_eq!(schedule.next_expiry(), None);
}

#[test]
fn a_push_takes_the_place_of_one_that_waits() {
    let now = Instant::now();
    let mut schedule = filled(0..0, now);
    let [first, second] = [0, 1].map(|push| schedule.add(push, Duration::ZERO, now));
    let entry = schedule.take(now).unwrap();
    assert_eq!((entry.number, schedule.get(first)), (first, None));
    schedule.put_back(entry, (Some(SECOND * 5), false), now);
    let later = now + SECOND * 2;
    schedule.replace(second, 3, later);
    schedule.replace(first, 2, later);
    assert_eq!((schedule.get(first), schedule.num_queued()), (Some(&2), 2));
    assert_eq!(schedule.next_expiry(), Some(later + BOUNDS.max_age));
    assert_eq!(schedule.take(later).map(|entry| entry.push), Some(3));
    let due = now + SECOND * 5;
    assert_eq!(schedule.next_due(later), Some(due));
    let entry = schedule.take(due).unwrap();
    assert_eq!((entry.push, entry.num_attempts), (2, 1));
    // It is in flight: nothing takes its place.
    schedule.replace(first, 4, due);
    assert_eq!(schedule.num_queued(), 0);
}

#[test]
fn a_service_that_is_back_is_noticed_within_half_a_minute() {
    let mut now = Instant::now();
    let mut schedule = filled(0..99, now);
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        let entry = schedule.take(now).unwrap();
        schedule.put_back(entry, (None, true), now);
        let next = schedule.next_due(now).unwrap();
        longest = longest.max(next - now);
        now = next;
    }
    assert_eq!(longest, SECOND * 30);
    // Unless it asks for more.
    let entry = schedule.take(now).unwrap();
    schedule.put_back(entry, (Some(SECOND * 90), true), now);
    assert_eq!(schedule.next_due(now), Some(now + SECOND * 90));
}

/// A push of a user.
#[derive(Debug)]
struct Of(u8);

impl Addressed for Of {
    type User = u8;

    fn user(&self) -> u8 {
        self.0
    }
}

const NUM_USERS: u8 = 5;

proptest! {
    /// While a service fails, nobody who has something that could be sent is passed over for longer
    /// than it takes to ask with a push of each other user.
    #[test]
    fn each_user_has_a_turn_while_a_service_fails(
        coming in prop::collection::vec(prop::collection::vec(0..NUM_USERS, 0..4), 1..80),
    ) {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(BOUNDS);
        let mut num_missed = [0; NUM_USERS as usize];
        for users in coming {
            for user in users {
                schedule.add(Of(user), Duration::ZERO, now);
            }
            now = schedule.next_due(now).unwrap_or(now);
            schedule.expire(now);
            let can_be_sent = |user: u8| {
                let mut its = schedule.entries.values().filter(|entry| entry.push.0 == user);
                its.any(|entry| entry.due.is_none_or(|due| due <= now))
            };
            let could_be = [0, 1, 2, 3, 4].map(can_be_sent);
            let is_failing = schedule.is_held();
            let Some(entry) = schedule.take(now) else {
                prop_assert_eq!(could_be, [false; NUM_USERS as usize]);
                continue;
            };
            for (user, num_missed) in num_missed.iter_mut().enumerate() {
                let is_passed_over = could_be[user] && user != usize::from(entry.push.0);
                *num_missed = if is_failing && is_passed_over { *num_missed + 1 } else { 0 };
                prop_assert!(*num_missed < NUM_USERS, "user {}", user);
            }
            schedule.put_back(entry, (None, true), now);
        }
    }

    /// Whatever the service says, every push ends exactly once, and every waiting push is looked
    /// at.
    #[test]
    fn no_push_is_lost_or_doubled(
        answers in prop::collection::vec((0_u8..7, 0_u64..40), 1..200),
        num_pushes in 1_u32..30,
    ) {
        let mut now = Instant::now();
        let mut schedule = filled(0..num_pushes, now);
        let mut in_flight = VecDeque::new();
        let mut ended = Vec::new();
        let mut answers = answers.into_iter();
        loop {
            ended.extend(schedule.expire(now).into_iter().map(|entry| entry.push));
            while let Some(entry) = schedule.take(now) {
                prop_assert!(entry.num_attempts <= BOUNDS.max_attempts);
                in_flight.push_back(entry);
            }
            prop_assert!(in_flight.len() <= BOUNDS.at_once);
            prop_assert_eq!(in_flight.len(), schedule.num_in_flight());
            let Some(entry) = in_flight.pop_front() else {
                let next = [schedule.next_due(now), schedule.next_expiry()];
                match next.into_iter().flatten().min() {
                    Some(at) => now = at,
                    None => break,
                }
                continue;
            };
            let (answer, seconds) = answers.next().unwrap_or((0, 0));
            let wait = Some(SECOND * u32::try_from(seconds).unwrap());
            if answer < 2 {
                ended.push(entry.push);
                schedule.answered(now);
                continue;
            }
            match answer {
                5 => ended.extend(schedule.withdraw(|push| u64::from(push % 3) == seconds % 3)),
                6 => schedule.retry_now(now),
                _ => {}
            }
            if answer == 4 {
                ended.push(entry.push);
                schedule.dropped();
                continue;
            }
            let again = schedule.put_back(entry, (wait, answer == 3), now);
            if let Again::GivenUp(push) = again {
                ended.push(push);
            }
        }
        prop_assert_eq!(schedule.num_queued(), 0);
        ended.sort_unstable();
        prop_assert_eq!(ended, (0..num_pushes).collect::<Vec<_>>());
    }
}
