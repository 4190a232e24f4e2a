mod random;

use skytrail_schema::id::RecordId;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: u32 = 3;

fn stream(number: usize) -> Stream {
    Stream::Record(RecordId::new("t", number.to_string()))
}

fn arrival(position: u64, of: usize, hooks: &[(&str, bool)]) -> Arrival {
    Arrival {
        position,
        stream: stream(of),
        commit: Uuid::from_u128(position.into()),
        causes: Vec::new(),
        hooks: hooks
            .iter()
            .map(|(name, is_sync)| ((*name).into(), *is_sync))
            .collect(),
        is_held: false,
        is_urgent: false,
        may_be_nested: false,
    }
}

fn schedule() -> Schedule {
    Schedule::new(Cursor::default(), MAX_ATTEMPTS)
}

/// Starts everything that can start, and returns the positions and hooks.
fn started(schedule: &mut Schedule, now: Moment, window: usize) -> Vec<(u64, String)> {
    let starts = std::iter::from_fn(|| schedule.next(now, window));
    starts
        .map(|start| (start.task.position, start.hook.to_string()))
        .collect()
}

fn task(position: u64, hook: usize) -> TaskId {
    TaskId { position, hook }
}

#[test]
fn one_record_comes_in_order_and_others_beside_it() {
    let mut schedule = schedule();
    for (position, of) in [(1, 0), (2, 0), (3, 1)] {
        schedule.load(arrival(position, of, &[("a", true)]));
    }
    schedule.advance(3);
    let begun = started(&mut schedule, SECOND, 9);
    assert_eq!(begun, [(1, "a".to_owned()), (3, "a".to_owned())]);
    schedule.finish(task(1, 0));
    assert_eq!(started(&mut schedule, SECOND, 9), [(2, "a".to_owned())]);
    assert_eq!(schedule.cursor().position(), 1);
    schedule.finish(task(2, 0));
    assert_eq!(schedule.cursor().position(), 2);
    schedule.finish(task(3, 0));
    assert_eq!(schedule.cursor(), Cursor::at(3));
}

#[test]
fn synchronous_hooks_of_an_event_come_in_order_and_the_others_beside_them() {
    let mut schedule = schedule();
    let hooks = [("s1", true), ("a", false), ("s2", true)];
    schedule.load(arrival(1, 0, &hooks));
    let begun = started(&mut schedule, SECOND, 9);
    assert_eq!(begun, [(1, "s1".to_owned()), (1, "a".to_owned())]);
    schedule.finish(task(1, 0));
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "s2".to_owned())]);
}

#[test]
fn a_failure_waits_longer_each_time_and_is_given_up_in_the_end() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", false)]));
    schedule.load(arrival(2, 0, &[("a", false)]));
    let mut now = SECOND;
    for (attempt, pause) in [(1, 1), (2, 2)] {
        let start = schedule.next(now, 1).unwrap();
        assert_eq!((start.task, start.attempt), (task(1, 0), attempt));
        assert_eq!(schedule.fail(start.task, now, None), AfterFailure::Again);
        assert_eq!(schedule.next_wake(), Some(now + SECOND * pause));
        assert_eq!(schedule.next(now, 1), None);
        now += SECOND * pause;
    }
    let start = schedule.next(now, 1).unwrap();
    assert_eq!(schedule.fail(start.task, now, None), AfterFailure::Dead);
    // Now the record continues.
    assert_eq!(schedule.next(now, 1).unwrap().task, task(2, 0));
}

#[test]
fn the_past_takes_half_the_window() {
    let mut schedule = schedule();
    for position in 1..=6 {
        schedule.load(arrival(position, position as usize, &[("a", false)]));
    }
    schedule.catch_up_until(4);
    let begun = started(&mut schedule, SECOND, 4);
    let positions: Vec<u64> = begun.into_iter().map(|(position, _)| position).collect();
    assert_eq!(positions, [1, 2, 5, 6]);
}

#[test]
fn a_hook_may_be_told_of_what_it_caused_itself() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", true)]));
    assert_eq!(started(&mut schedule, SECOND, 1).len(), 1);
    schedule.load(arrival(2, 0, &[("a", true)]));
    assert_eq!(started(&mut schedule, SECOND, 1).len(), 0);
    let mut nested = arrival(3, 1, &[("a", true)]);
    nested.is_urgent = true;
    schedule.load(nested);
    // The window is full, but the running hook waits for this one.
    assert_eq!(started(&mut schedule, SECOND, 1), [(3, "a".to_owned())]);
    schedule.finish(task(2, 0));
    let mut own = arrival(4, 0, &[("a", true)]);
    own.is_urgent = true;
    own.causes = vec![Uuid::from_u128(1)];
    schedule.load(own);
    assert_eq!(started(&mut schedule, SECOND, 1), [(4, "a".to_owned())]);
}

#[test]
fn what_is_before_an_event_that_its_cause_waits_for_need_not_wait_for_the_cause() {
    for is_known in [true, false] {
        let mut schedule = schedule();
        schedule.load(arrival(1, 0, &[("a", true)]));
        assert_eq!(started(&mut schedule, SECOND, 9), [(1, "a".to_owned())]);
        schedule.load(arrival(2, 0, &[("a", true)]));
        assert!(started(&mut schedule, SECOND, 9).is_empty());
        let mut own = arrival(3, 0, &[("a", true)]);
        if is_known {
            own.is_urgent = true;
            own.causes = vec![Uuid::from_u128(1)];
        } else {
            own.may_be_nested = true;
        }
        schedule.load(own);
        assert_eq!(started(&mut schedule, SECOND, 9), [(2, "a".to_owned())]);
        schedule.load(arrival(4, 0, &[("a", true)]));
        schedule.finish(task(2, 0));
        assert_eq!(started(&mut schedule, SECOND, 9), [(3, "a".to_owned())]);
        schedule.finish(task(3, 0));
        assert!(started(&mut schedule, SECOND, 9).is_empty());
        schedule.finish(task(1, 0));
        assert_eq!(started(&mut schedule, SECOND, 9), [(4, "a".to_owned())]);
    }
}

#[test]
fn what_an_urgent_event_waits_for_is_as_urgent() {
    let mut schedule = schedule();
    for (position, of) in [(1, 0), (2, 1), (3, 0)] {
        schedule.load(arrival(position, of, &[("s", true), ("a", false)]));
    }
    // There is no room, as before the plugin is ready.
    assert!(started(&mut schedule, SECOND, 0).is_empty());
    let mut urgent = arrival(4, 0, &[("s", true)]);
    urgent.is_urgent = true;
    schedule.load(urgent);
    for position in [1, 3] {
        for hook in 0..2 {
            let start = schedule.next(SECOND, 0).unwrap();
            assert_eq!(
                (start.task, start.expedited_by),
                (task(position, hook), Some(4))
            );
            schedule.finish(start.task);
        }
    }
    assert_eq!(started(&mut schedule, SECOND, 0), [(4, "s".to_owned())]);
    schedule.finish(task(4, 0));
    // The other record's task waits as before.
    assert!(started(&mut schedule, SECOND, 0).is_empty());
    assert_eq!(started(&mut schedule, SECOND, 9).len(), 2);
}

#[test]
fn what_is_under_way_before_an_urgent_event_is_told_once() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("s", true)]));
    assert_eq!(started(&mut schedule, SECOND, 1), [(1, "s".to_owned())]);
    assert!(schedule.take_expedited().is_empty());
    let mut urgent = arrival(2, 0, &[("s", true)]);
    urgent.is_urgent = true;
    schedule.load(urgent);
    assert_eq!(schedule.take_expedited(), [(task(1, 0), 2)]);
    assert!(schedule.take_expedited().is_empty());
}

#[test]
fn what_comes_behind_a_retry_is_held_back_until_that_is_over() {
    let mut schedule = schedule();
    for (position, of) in [(1, 0), (2, 0), (3, 1)] {
        schedule.load(arrival(position, of, &[("a", true)]));
    }
    assert_eq!(started(&mut schedule, SECOND, 9).len(), 2);
    // After a first attempt it only waits.
    assert!(schedule.take_held_back().is_empty());
    schedule.fail(task(1, 0), SECOND, None);
    assert_eq!(schedule.take_held_back(), [2]);
    // The same holds during the retry, and for later arrivals.
    assert_eq!(started(&mut schedule, SECOND * 9, 9).len(), 1);
    schedule.load(arrival(4, 0, &[("a", true)]));
    assert_eq!(schedule.take_held_back(), [4]);
    schedule.load(arrival(5, 1, &[("a", true)]));
    schedule.finish(task(1, 0));
    schedule.load(arrival(6, 0, &[("a", true)]));
    assert!(schedule.take_held_back().is_empty());
    assert_eq!(started(&mut schedule, SECOND * 9, 9), [(2, "a".to_owned())]);
}

#[test]
fn what_was_tried_before_a_restart_holds_back_what_comes_behind_it() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", true)]));
    schedule.advance(1);
    assert_eq!(started(&mut schedule, SECOND, 9).len(), 1);
    schedule.fail(task(1, 0), SECOND, None);
    let mut schedule = Schedule::new(schedule.cursor(), MAX_ATTEMPTS);
    for position in [1, 2] {
        schedule.load(arrival(position, 0, &[("a", true)]));
    }
    assert_eq!(schedule.take_held_back(), [2]);
}

#[test]
fn what_a_retry_has_caused_itself_is_not_held_back_by_it() {
    for is_known in [true, false] {
        let mut schedule = schedule();
        schedule.load(arrival(1, 0, &[("a", true)]));
        assert_eq!(started(&mut schedule, SECOND, 9).len(), 1);
        schedule.fail(task(1, 0), SECOND, None);
        assert_eq!(started(&mut schedule, SECOND * 9, 9).len(), 1);
        let mut own = arrival(2, 0, &[("a", true)]);
        own.may_be_nested = !is_known;
        if is_known {
            own.is_urgent = true;
            own.causes = vec![Uuid::from_u128(1)];
        }
        schedule.load(own);
        assert!(schedule.take_held_back().is_empty());
        assert_eq!(started(&mut schedule, SECOND * 9, 9), [(2, "a".to_owned())]);
    }
}

#[test]
fn what_a_retry_holds_back_expedites_nothing() {
    // It arrives before the failure, or after it.
    for is_early in [true, false] {
        let mut schedule = schedule();
        schedule.load(arrival(1, 0, &[("a", true)]));
        assert_eq!(started(&mut schedule, SECOND, 1).len(), 1);
        let mut urgent = arrival(2, 0, &[("a", true)]);
        urgent.is_urgent = true;
        if is_early {
            schedule.load(urgent.clone());
        }
        schedule.fail(task(1, 0), SECOND, None);
        if !is_early {
            schedule.load(urgent);
        }
        assert_eq!(schedule.take_held_back(), [2]);
        for position in [1, 2] {
            assert!(started(&mut schedule, SECOND * 9, 0).is_empty());
            let start = schedule.next(SECOND * 9, 1).unwrap();
            assert_eq!((start.task, start.expedited_by), (task(position, 0), None));
            schedule.finish(start.task);
        }
    }
}

#[test]
fn what_is_held_waits_for_its_turn() {
    let mut schedule = schedule();
    let mut held = arrival(1, 0, &[("s", true), ("a", false)]);
    held.is_held = true;
    schedule.load(held);
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "a".to_owned())]);
    schedule.release(1);
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "s".to_owned())]);
}

#[test]
fn what_never_reached_the_consumer_is_no_attempt() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", true)]));
    for second in 1..9 {
        let start = schedule.next(SECOND * second, 1).unwrap();
        assert_eq!(start.attempt, 1);
        schedule.postpone(start.task, SECOND * second, SECOND);
    }
}

#[test]
fn what_is_opened_again_is_read_again() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", true), ("b", true)]));
    schedule.advance(5);
    while let Some(start) = schedule.next(SECOND, 9) {
        schedule.finish(start.task);
    }
    assert_eq!(schedule.cursor(), Cursor::at(5));
    schedule.reopen(1, ["b".into()]);
    assert_eq!(schedule.cursor().position(), 0);
    assert_eq!(schedule.next_unread(), Some(1));
    schedule.load(arrival(1, 0, &[("a", true), ("b", true)]));
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "b".to_owned())]);
    schedule.finish(task(1, 0));
    assert_eq!(schedule.cursor(), Cursor::at(5));
    // A position that cannot be read is given up.
    schedule.reopen(2, ["a".into()]);
    schedule.forget_unread(2);
    assert_eq!(schedule.cursor(), Cursor::at(5));
}

#[test]
fn what_hooks_that_are_not_any_more_leave_over_is_returned() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", false), ("b", false)]));
    let gone = schedule.retain(|hook| hook == "b");
    assert_eq!(gone.len(), 1);
    assert_eq!((gone[0].position, &*gone[0].hook), (1, "a"));
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "b".to_owned())]);
}

#[test]
fn what_is_open_and_not_read_yet_is_left_over_too() {
    let cursor = |hooks: &[&str]| {
        let open = hooks.iter().map(|hook| Open {
            position: 1,
            hook: (*hook).into(),
            attempts: 2,
        });
        Cursor {
            open: open.collect(),
            ..Cursor::at(3)
        }
    };
    let mut schedule = Schedule::new(cursor(&["a", "b"]), MAX_ATTEMPTS);
    let registered = arrival(1, 0, &[("b", false)]);
    let gone = schedule.retain_unread(1, &registered.hooks);
    assert_eq!(gone, [("a".into(), 2)]);
    assert_eq!(schedule.cursor(), cursor(&["b"]));
    schedule.load(registered);
    assert_eq!(started(&mut schedule, SECOND, 9), [(1, "b".to_owned())]);
    schedule.finish(task(1, 0));
    assert_eq!(schedule.cursor(), Cursor::at(3));
    assert_eq!(schedule.counts(), Counts::default());
}

#[test]
fn only_what_has_failed_is_given_up_and_no_attempt_is_broken_off() {
    let mut schedule = schedule();
    for position in [1, 2] {
        schedule.load(arrival(position, 0, &[("a", true)]));
    }
    assert_eq!(started(&mut schedule, SECOND, 9).len(), 1);
    for position in [1, 2, 3] {
        assert!(!schedule.is_retried(position, "a"));
        assert_eq!(schedule.give_up(position, "a"), None);
    }
    schedule.fail(task(1, 0), SECOND, None);
    assert!(!schedule.is_retried(1, "b"));
    let given_up = schedule.give_up(1, "a").unwrap();
    assert_eq!((given_up.position, given_up.attempts), (1, 1));
    // Its record continues; an attempt in progress ends by itself.
    assert_eq!(started(&mut schedule, SECOND, 9), [(2, "a".to_owned())]);
    schedule.fail(task(2, 0), SECOND, None);
    assert_eq!(started(&mut schedule, SECOND * 9, 9).len(), 1);
    assert!(schedule.is_retried(2, "a"));
    assert_eq!(schedule.give_up(2, "a"), None);
    assert_eq!(schedule.counts().running, 1);
    assert_eq!(schedule.fail(task(2, 0), SECOND, None), AfterFailure::Dead);
    assert_eq!(schedule.counts(), Counts::default());
}

#[test]
fn what_was_given_up_ends_also_when_it_does_not_reach_the_consumer() {
    let mut schedule = schedule();
    schedule.load(arrival(1, 0, &[("a", true)]));
    assert_eq!(started(&mut schedule, SECOND, 9).len(), 1);
    schedule.fail(task(1, 0), SECOND, None);
    assert_eq!(started(&mut schedule, SECOND * 9, 9).len(), 1);
    assert_eq!(schedule.give_up(1, "a"), None);
    let after_failure = schedule.postpone(task(1, 0), SECOND, SECOND);
    assert_eq!(after_failure, AfterFailure::Dead);
    assert_eq!(schedule.counts(), Counts::default());
}
