//! The state of a task in the log. Pure: the state from the live path equals the state from a
//! replay.

use serde::{Deserialize, Serialize};
use skytrail_schema::event::{Event, EventBody, TaskEnd, TaskSchedule, TaskTrigger};
use skytrail_schema::time::Timestamp;

/// If the clock is set back by at most this many microseconds, tasks wait: nothing runs until it is
/// past the latest time that it has shown. If it is put back further, tasks go on from what it
/// shows ([`LARGE_STEP`] is an exception).
pub(super) const SMALL_STEP: i64 = 60_000_000;
/// If nothing is due in between, tasks wait even if the clock is set back by this many
/// microseconds: a run that was only a little early counts.
pub(super) const LARGE_STEP: i64 = 3 * 3_600_000_000;

/// A task as its events left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// The version of its stream.
    pub version: u32,
    /// When it runs; `None` while its plugin registers without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<TaskSchedule>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: bool,
    /// Everything due up to here is settled: it was claimed, or it must not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Timestamp>,
    /// The last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<TaskRun>,
}

/// A claimed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRun {
    /// When it was due.
    pub due: Timestamp,
    /// Why it began.
    pub trigger: TaskTrigger,
    /// When it began.
    pub began_at: Timestamp,
    /// How it ended; `None` while it runs, and for a run that the process did not survive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
}

impl TaskState {
    /// Folds an event of the task's stream; `time` is the time of its commit.
    pub fn apply(&mut self, event: &Event, time: Timestamp) {
        self.version = event.version;
        match &event.body {
            EventBody::TaskScheduled(schedule) => {
                self.begin_anew(schedule.since);
                self.schedule = Some(schedule.clone());
            }
            EventBody::TaskClaimed(claim) => {
                if claim.trigger == TaskTrigger::Schedule {
                    self.settle(claim.due);
                }
                self.last = Some(TaskRun {
                    due: claim.due,
                    trigger: claim.trigger,
                    began_at: time,
                    end: None,
                });
            }
            EventBody::TaskEnded(end) => {
                if let Some(last) = self.last.as_mut().filter(|last| last.due == end.due) {
                    last.end = Some(*end);
                }
            }
            EventBody::TaskPaused(_) => self.is_paused = true,
            EventBody::TaskResumed(_) => {
                self.is_paused = false;
                self.begin_anew(time);
            }
            EventBody::TaskDropped(_) => self.schedule = None,
            _ => {}
        }
    }

    /// Whether a due time can still be claimed.
    pub fn is_open(&self, due: Timestamp) -> bool {
        self.settled.is_none_or(|settled| settled < due)
    }

    fn settle(&mut self, until: Timestamp) {
        self.settled = self.settled.max(Some(until));
    }

    /// Goes on from a time, even if a clock that was far ahead has settled more.
    fn begin_anew(&mut self, from: Timestamp) {
        let limit = Timestamp::from_micros(from.micros().saturating_add(SMALL_STEP));
        self.settled = self.settled.filter(|settled| *settled <= limit);
        self.settle(from);
    }
}

#[cfg(test)]
mod tests {
    use skytrail_schema::event::{NoDetails, Stream, TaskClaim};
    use skytrail_schema::id::TaskId;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn fold(bodies: Vec<(i64, EventBody)>) -> TaskState {
        let mut state = TaskState::default();
        for (version, (time, body)) in (1..).zip(bodies) {
            let event = Event {
                position: version.into(),
                stream: Stream::Task(TaskId::new("p", "t")),
                version,
                body,
                provenance: Vec::new(),
                payload_hash: [0; 32],
            };
            state.apply(&event, at(time));
        }
        state
    }

    fn scheduled(since: i64) -> EventBody {
        EventBody::TaskScheduled(TaskSchedule {
            spec: "@every 1s".to_owned(),
            zone: "UTC".to_owned(),
            since: at(since),
        })
    }

    fn claimed(due: i64, trigger: TaskTrigger) -> EventBody {
        let due = at(due);
        EventBody::TaskClaimed(TaskClaim { due, trigger })
    }

    #[test]
    fn what_was_claimed_is_not_open_any_more() {
        let state = fold(vec![
            (10, scheduled(10)),
            (12, claimed(12, TaskTrigger::Schedule)),
        ]);
        assert!(!state.is_open(at(10)) && !state.is_open(at(12)));
        assert!(state.is_open(at(13)));
        let last = state.last.unwrap();
        assert_eq!((last.due, last.began_at, last.end), (at(12), at(12), None));
    }

    #[test]
    fn a_manual_run_takes_no_due_time() {
        let state = fold(vec![
            (10, scheduled(10)),
            (15, claimed(15, TaskTrigger::Manual)),
        ]);
        assert!(state.is_open(at(11)));
        assert_eq!(state.last.unwrap().trigger, TaskTrigger::Manual);
    }

    #[test]
    fn only_the_last_runs_end_is_kept() {
        let end = |due: i64, error| {
            EventBody::TaskEnded(TaskEnd {
                due: at(due),
                at: at(due + 5),
                error,
            })
        };
        let claim = |due| claimed(due, TaskTrigger::Schedule);
        let mut events = vec![(1, claim(1)), (2, claim(2)), (6, end(1, Some(119)))];
        assert_eq!(fold(events.clone()).last.unwrap().end, None);
        events.push((7, end(2, None)));
        let last = fold(events).last.unwrap();
        assert_eq!(last.end.map(|end| (end.at, end.error)), Some((at(7), None)));
    }

    #[test]
    fn a_new_schedule_and_a_resumed_task_go_on_from_their_time() {
        let ahead = vec![
            (10, scheduled(10)),
            (9000, claimed(9000, TaskTrigger::Schedule)),
        ];
        let mut anew = ahead.clone();
        anew.push((9001, scheduled(20)));
        let state = fold(anew);
        assert!(!state.is_open(at(20)) && state.is_open(at(21)));
        let mut resumed = ahead.clone();
        resumed.push((20, EventBody::TaskPaused(NoDetails {})));
        resumed.push((30, EventBody::TaskResumed(NoDetails {})));
        let state = fold(resumed);
        assert!(!state.is_open(at(30)) && state.is_open(at(31)));
        // What a clock that was a little ahead has claimed cannot be claimed again.
        let mut near = ahead;
        near.push((9001, scheduled(8940)));
        assert!(!fold(near).is_open(at(9000)));
    }

    #[test]
    fn what_was_due_in_a_pause_is_not_made_up_for() {
        let paused = vec![
            (10, scheduled(10)),
            (20, EventBody::TaskPaused(NoDetails {})),
        ];
        assert!(fold(paused.clone()).is_paused);
        let mut resumed = paused;
        resumed.push((30, EventBody::TaskResumed(NoDetails {})));
        let state = fold(resumed);
        assert!(!state.is_paused && !state.is_open(at(30)) && state.is_open(at(31)));
    }
}
