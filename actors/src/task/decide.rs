//! What has to be done for a task now. Pure: the time is a parameter.

use std::time::Duration;

use skytrail_schema::event::TaskTrigger;
use skytrail_schema::time::Timestamp;

use super::state::{LARGE_STEP, SMALL_STEP, TaskState};
use super::zone::Zone;
use crate::plugin::timer_spec::TimerSpec;

/// A run that begins no later than this is in time: under load, waking up takes a while.
const IN_TIME: Duration = Duration::from_secs(5);

/// A task and its circumstances.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskInput<'a> {
    /// When it is due.
    pub(super) spec: &'a TimerSpec,
    /// In which zone.
    pub(super) zone: &'a Zone,
    /// The task's state in the log.
    pub(super) state: &'a TaskState,
    /// Everything due up to here has been handled in this process.
    pub(super) passed: Timestamp,
    /// How old a missed run can be and still be made up for.
    pub(super) catch_up: Duration,
    /// Whether a run is under way that the next one has to wait for.
    pub(super) is_busy: bool,
    /// Whether the plugin has a worker.
    pub(super) is_attended: bool,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The run that has to begin.
    pub(super) run: Option<Timestamp>,
    /// Everything due up to here has been handled.
    pub(super) passed: Option<Timestamp>,
    /// How many due times were skipped because a run was under way.
    pub(super) num_skipped: u64,
    /// How many due times were given up: too old, or overtaken by the next one.
    pub(super) num_missed: u64,
    /// The next due time.
    pub(super) next: Option<Timestamp>,
    /// Whether the log has to be told to go on from now, because the clock was set back.
    pub(super) is_clock_set_back: bool,
}

/// A point in time, and what a task's due times are counted from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now<'a> {
    /// When it is due.
    pub(super) spec: &'a TimerSpec,
    /// In which zone.
    pub(super) zone: &'a Zone,
    /// Since when it is scheduled.
    pub(super) since: Timestamp,
    /// The time.
    pub(super) now: Timestamp,
}

impl Now<'_> {
    /// Whether the clock must have been set back since everything up to `seen_to` was handled.
    ///
    /// The task waits for up to a minute, and for up to three hours if nothing is due before.
    pub(super) fn is_clock_set_back(self, seen_to: Timestamp) -> bool {
        let limit = self.now.micros().saturating_add(SMALL_STEP);
        let is_far = seen_to.micros() > self.now.micros().saturating_add(LARGE_STEP);
        let is_due_before = || {
            let next = self.spec.next_after(self.now, self.since, self.zone);
            next.is_some_and(|next| next < seen_to)
        };
        self.since.micros() > limit || seen_to.micros() > limit && (is_far || is_due_before())
    }
}

impl TaskInput<'_> {
    /// Decides what has to be done.
    ///
    /// Of several due times that nobody has handled, the last one counts. It is run if it is not
    /// older than `catch_up`. While a run is under way it is skipped. Without a worker it waits
    /// until it is too old. After a clock was far ahead, the task goes on from what the clock shows
    /// now.
    pub(super) fn decide(&self, now: Timestamp) -> Decision {
        let Some(schedule) = &self.state.schedule else {
            return Decision::default();
        };
        let since = schedule.since;
        if self.state.is_paused {
            return Decision::default();
        }
        let moment = Now {
            spec: self.spec,
            zone: self.zone,
            since,
            now,
        };
        let settled = self.state.settled.unwrap_or(since);
        if moment.is_clock_set_back(settled) {
            return Decision {
                passed: Some(now),
                is_clock_set_back: true,
                ..Decision::default()
            };
        }
        let is_passed_ahead = moment.is_clock_set_back(self.passed);
        let passed = if is_passed_ahead { now } else { self.passed };
        let mut decision = Decision {
            passed: is_passed_ahead.then_some(now),
            next: self.spec.next_after(now, since, self.zone),
            ..Decision::default()
        };
        let seen_to = settled.max(passed).max(self.ran_to(now));
        let max_delay = self.catch_up.max(IN_TIME).as_micros();
        let max_delay = i64::try_from(max_delay).unwrap_or(i64::MAX);
        let oldest =
            Timestamp::from_micros(now.micros().saturating_sub(max_delay).saturating_sub(1));
        if oldest > seen_to
            && let Some(missed) = self.spec.next_after(seen_to, since, self.zone)
            && missed <= oldest
        {
            // Nobody counts how many more there were: it may have been years.
            decision.num_missed = 1;
            decision.passed = Some(oldest);
        }
        if !self.is_busy && !self.is_attended {
            // The run waits, and a waiting run need not be counted every second.
            return decision;
        }
        let window = (seen_to.max(oldest), now);
        let Some((due, num_due)) = self.spec.last_within(window, since, self.zone) else {
            return decision;
        };
        if self.is_busy {
            decision.num_skipped = num_due;
            decision.passed = Some(due);
        } else {
            decision.num_missed += num_due - 1;
            decision.passed = Some(due);
            decision.run = Some(due);
        }
        decision
    }
}

impl TaskInput<'_> {
    /// Returns the due time of the last run if it is past: nothing up to there is made up for.
    ///
    /// After a clock that was far behind, as after a boot at 1970, the log no longer says that it
    /// is settled. If a clock was ahead, the last run's time is yet to come, and is due then.
    fn ran_to(&self, now: Timestamp) -> Timestamp {
        let last = self
            .state
            .last
            .filter(|last| last.trigger == TaskTrigger::Schedule);
        let in_time = i64::try_from(IN_TIME.as_micros()).unwrap_or(i64::MAX);
        let past = Timestamp::from_micros(now.micros().saturating_sub(in_time));
        let due = last.map(|last| last.due).filter(|due| *due < past);
        due.unwrap_or(Timestamp::from_micros(i64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skytrail_schema::event::TaskSchedule;

    use super::super::state::TaskRun;
    use super::*;

    static UTC: Zone = Zone::UTC;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    fn state(since: i64, settled: Option<i64>) -> TaskState {
        TaskState {
            schedule: Some(TaskSchedule {
                spec: String::new(),
                zone: "UTC".to_owned(),
                since: at(since),
            }),
            settled: settled.map(at),
            ..TaskState::default()
        }
    }

    fn input<'a>(spec: &'a TimerSpec, state: &'a TaskState) -> TaskInput<'a> {
        TaskInput {
            spec,
            zone: &UTC,
            state,
            passed: at(0),
            catch_up: Duration::from_secs(60),
            is_busy: false,
            is_attended: true,
        }
    }

    fn every(seconds: u64) -> TimerSpec {
        TimerSpec::Every(Duration::from_secs(seconds))
    }

    #[test]
    fn a_run_begins_when_it_is_due_and_once() {
        let (spec, mut state) = (every(10), state(0, None));
        assert_eq!(input(&spec, &state).decide(at(9999)).run, None);
        let decision = input(&spec, &state).decide(at(10_000));
        assert_eq!(decision.run, Some(at(10_000)));
        assert_eq!(decision.next, Some(at(20_000)));
        let passed = decision.passed.unwrap();
        let after = TaskInput {
            passed,
            ..input(&spec, &state)
        };
        assert_eq!(after.decide(at(10_001)).run, None);
        state.settled = Some(at(10_000));
        assert_eq!(input(&spec, &state).decide(at(10_001)).run, None);
    }

    #[test]
    fn of_what_was_due_meanwhile_the_last_is_made_up_for() {
        let (spec, state) = (every(10), state(0, Some(10_000)));
        let decision = input(&spec, &state).decide(at(45_000));
        assert_eq!((decision.run, decision.num_missed), (Some(at(40_000)), 2));
    }

    #[test]
    fn what_is_too_old_is_let_go() {
        let (spec, state) = (every(1000), state(0, None));
        let young = input(&spec, &state).decide(at(1_060_000));
        assert_eq!((young.run, young.num_missed), (Some(at(1_000_000)), 0));
        let old = input(&spec, &state).decide(at(1_060_001));
        assert_eq!((old.run, old.num_missed), (None, 1));
        assert_eq!(old.next, Some(at(2_000_000)));
        // It is given up once.
        let again = TaskInput {
            passed: old.passed.unwrap(),
            ..input(&spec, &state)
        };
        assert_eq!(again.decide(at(1_070_000)).num_missed, 0);
    }

    #[test]
    fn a_busy_task_passes_over_what_is_due() {
        let (spec, state) = (every(1), state(0, None));
        let busy = TaskInput {
            is_busy: true,
            ..input(&spec, &state)
        };
        let decision = busy.decide(at(3_000));
        assert_eq!((decision.run, decision.num_skipped), (None, 3));
        let free = TaskInput {
            passed: decision.passed.unwrap(),
            ..input(&spec, &state)
        };
        assert_eq!(free.decide(at(3_500)).run, None);
        assert_eq!(free.decide(at(4_000)).run, Some(at(4_000)));
    }

    #[test]
    fn without_a_worker_a_due_run_waits_until_it_is_too_old() {
        let (spec, state) = (every(100), state(0, None));
        let alone = TaskInput {
            is_attended: false,
            ..input(&spec, &state)
        };
        let decision = alone.decide(at(100_000));
        assert_eq!((decision.run, decision.passed), (None, None));
        assert_eq!(
            input(&spec, &state).decide(at(150_000)).run,
            Some(at(100_000))
        );
        assert_eq!(input(&spec, &state).decide(at(170_000)).run, None);
    }

    #[test]
    fn a_clock_that_is_put_back_far_is_followed_and_one_that_is_put_back_a_little_waited_for() {
        let year = 365 * 86_400_000;
        let calendar = TimerSpec::parse("* * * * * *").unwrap();
        for spec in [every(2), calendar] {
            for (since, settled) in [(0, Some(year)), (year, None)] {
                let state = state(since, settled);
                let decision = input(&spec, &state).decide(at(10_500));
                assert!(decision.is_clock_set_back, "{spec:?} {since}");
                assert_eq!((decision.run, decision.passed), (None, Some(at(10_500))));
            }
            let near = state(0, Some(70_000));
            assert!(!input(&spec, &near).decide(at(10_000)).is_clock_set_back);
            assert!(input(&spec, &near).decide(at(9_000)).is_clock_set_back);
        }
        // The task waits for what it has already run if nothing is due before.
        let (spec, state) = (every(3600), state(0, Some(3_600_000)));
        let decision = input(&spec, &state).decide(at(1_800_000));
        assert_eq!((decision.is_clock_set_back, decision.run), (false, None));
        assert_eq!(input(&spec, &state).decide(at(3_600_000)).run, None);
    }

    fn ran(state: TaskState, due: i64) -> TaskState {
        let run = TaskRun {
            due: at(due),
            trigger: TaskTrigger::Schedule,
            began_at: at(due),
            end: None,
        };
        TaskState {
            last: Some(run),
            ..state
        }
    }

    #[test]
    fn what_a_clock_that_was_hours_ahead_has_run_is_due_again_when_it_comes() {
        const HOUR: i64 = 3_600_000;
        let spec = every(24 * 3600);
        let ahead = ran(state(0, Some(24 * HOUR)), 24 * HOUR);
        let corrected = input(&spec, &ahead).decide(at(12 * HOUR));
        assert!(corrected.is_clock_set_back);
        let spec = TimerSpec::parse("0 0 0 * * *").unwrap();
        let anew = ran(state(12 * HOUR, Some(12 * HOUR)), 24 * HOUR);
        assert_eq!(input(&spec, &anew).decide(at(23 * HOUR)).run, None);
        let due = input(&spec, &anew).decide(at(24 * HOUR));
        assert_eq!(due.run, Some(at(24 * HOUR)));
        // A run that was up to three hours early counts.
        let early = ran(state(0, Some(24 * HOUR)), 24 * HOUR);
        let corrected = input(&spec, &early).decide(at(21 * HOUR));
        assert_eq!((corrected.is_clock_set_back, corrected.run), (false, None));
        assert_eq!(input(&spec, &early).decide(at(24 * HOUR)).run, None);
    }

    #[test]
    fn a_boot_at_1970_does_not_repeat_what_has_run() {
        const DAY: i64 = 86_400_000;
        let spec = TimerSpec::parse("0 0 0 * * *").unwrap();
        let nightly = ran(state(9000 * DAY, Some(9100 * DAY)), 9100 * DAY);
        assert!(input(&spec, &nightly).decide(at(10_000)).is_clock_set_back);
        let booted = ran(state(10_000, Some(10_000)), 9100 * DAY);
        let caught_up = |now: i64| {
            let input = TaskInput {
                catch_up: Duration::from_secs(86_400),
                ..input(&spec, &booted)
            };
            input.decide(at(now)).run
        };
        assert_eq!(caught_up(9100 * DAY + 60_000), None);
        // The next night's run is made up for as always.
        assert_eq!(caught_up(9101 * DAY + 60_000), Some(at(9101 * DAY)));
    }

    #[test]
    fn what_was_passed_over_by_a_clock_that_was_ahead_is_not_passed() {
        let (spec, state) = (every(2), state(0, Some(4_000)));
        let ahead = TaskInput {
            passed: at(900_000),
            ..input(&spec, &state)
        };
        let decision = ahead.decide(at(10_500));
        let nothing_yet = (decision.run, decision.passed, decision.is_clock_set_back);
        assert_eq!(nothing_yet, (None, Some(at(10_500)), false));
        let after = TaskInput {
            passed: decision.passed.unwrap(),
            ..input(&spec, &state)
        };
        assert_eq!(after.decide(at(12_000)).run, Some(at(12_000)));
    }

    #[test]
    fn a_paused_task_and_one_without_a_schedule_do_nothing() {
        let (spec, mut state) = (every(1), state(0, None));
        state.is_paused = true;
        assert_eq!(input(&spec, &state).decide(at(5_000)), Decision::default());
        let nothing = TaskState::default();
        assert_eq!(
            input(&spec, &nothing).decide(at(5_000)),
            Decision::default()
        );
    }

    proptest! {
        /// Whenever the task looks, and wherever the process dies in between, no due time is run
        /// twice, and every time that is run is a due time.
        #[test]
        fn nothing_is_run_twice(
            interval in 1_u64..7,
            steps in prop::collection::vec((0_i64..15_000, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let spec = every(interval);
            let mut state = state(0, None);
            let (mut now, mut passed) = (0, at(0));
            let mut runs: Vec<Timestamp> = Vec::new();
            for (pause, is_busy, dies) in steps {
                now += pause;
                if dies {
                    passed = at(0);
                }
                let decision = TaskInput { passed, is_busy, ..input(&spec, &state) }.decide(at(now));
                passed = passed.max(decision.passed.unwrap_or(passed));
                if let Some(due) = decision.run {
                    prop_assert!(!is_busy && due <= at(now));
                    prop_assert_eq!(due.micros() % (interval as i64 * 1_000_000), 0);
                    prop_assert!(runs.last().is_none_or(|last| *last < due));
                    runs.push(due);
                    state.settled = Some(due);
                }
                // The last due time is never left unhandled when a worker is free to run it.
                let last = now / (interval as i64 * 1000) * interval as i64 * 1000;
                let is_left = !is_busy && now - last <= 60_000 && last > 0;
                prop_assert!(!is_left || passed.max(state.settled.unwrap_or(at(0))) >= at(last));
            }
        }

        /// Wherever the clock jumps, only due times are run, and none twice between two fresh
        /// starts. Once the clock runs normally again, the task does not wait longer than a while.
        #[test]
        fn a_clock_that_jumps_neither_doubles_a_run_nor_stops_the_task(
            interval in 1_u64..7,
            jumps in prop::collection::vec((-10_000_000_i64..10_000_000, 1_i64..5), 1..12),
        ) {
            let spec = every(interval);
            let mut state_now = state(0, None);
            let (mut now, mut passed) = (0, at(0));
            let mut last_run = at(0);
            for (jump, num_steps) in jumps {
                now = (now + jump).max(0);
                let landed = now;
                let mut has_run = false;
                let end = now + 60_000 + num_steps * 1000 + 2 * interval as i64 * 1000;
                while now < end {
                    let decision = TaskInput { passed, ..input(&spec, &state_now) }.decide(at(now));
                    passed = decision.passed.unwrap_or(passed);
                    if decision.is_clock_set_back {
                        state_now = state(now, Some(now));
                        last_run = at(0);
                    }
                    if let Some(due) = decision.run {
                        prop_assert!(due <= at(now) && due > last_run);
                        (last_run, has_run) = (due, true);
                        state_now.settled = Some(due);
                    }
                    now += 1000;
                }
                prop_assert!(has_run, "nothing from {landed} on");
            }
        }
    }
}
