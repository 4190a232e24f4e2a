//! Determines what an event requires.

use std::sync::Arc;

use skytrail_schema::event::{Commit, Event, EventKind};

use super::DeliveryLoop;
use crate::delivery::consumers::hook_events;
use crate::delivery::consumers::parts::{LOG_TASK, Recipient};
use crate::delivery::consumers::schedule::Arrival;

/// An event that a consumer can be told of.
pub(super) struct DueEvent<'a> {
    /// Its index in the commit.
    pub(super) index: usize,
    pub(super) event: &'a Event,
    /// The hooks that it requires, in order, and whether each is synchronous.
    pub(super) hooks: Vec<(Arc<str>, bool)>,
}

/// Whether commits from before a hook existed count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    Counts,
    Ignored,
}

impl DeliveryLoop {
    /// Returns the events of a commit that the consumer can be told of.
    pub(super) fn due<'a>(&self, commit: &'a Commit, past: Past) -> Vec<DueEvent<'a>> {
        match &self.parts.recipient {
            Recipient::Plugin => self.due_for_plugin(commit, past),
            Recipient::Log(side) => {
                let events = commit.events.iter().enumerate();
                let filter = &side.options.filter;
                let events =
                    events.filter(|(_, event)| is_for_all(event) || filter.matches(commit, event));
                let due = events.map(|(index, event)| DueEvent {
                    index,
                    event,
                    hooks: vec![(LOG_TASK.into(), false)],
                });
                due.collect()
            }
        }
    }

    fn due_for_plugin<'a>(&self, commit: &'a Commit, past: Past) -> Vec<DueEvent<'a>> {
        let due = hook_events::of_commit(commit).map(|it| {
            let is_meant = |key: &str| {
                let since = self.checkpoint.since.get(key);
                since.is_some_and(|since| past == Past::Counts || *since < it.event.position)
            };
            let hooks = hook_events::hooks(&self.points, (&it.id, it.trigger), &self.parts.name);
            let hooks = hooks.filter(|hook| is_meant(&hook_events::key_of(hook)));
            let hooks = hooks.map(|hook| (hook.name.as_str().into(), !hook.is_async));
            DueEvent {
                index: it.index,
                event: it.event,
                hooks: hooks.collect(),
            }
        });
        due.collect()
    }
}

/// Returns whether every consumer of the log is told of an event, whatever it asked for. After a
/// restore, each may have received events that are not in the log any more.
fn is_for_all(event: &Event) -> bool {
    event.body.kind() == EventKind::LogRestored
}

impl DueEvent<'_> {
    pub(super) fn arrival(&self, commit: &Commit) -> Arrival {
        Arrival {
            position: self.event.position,
            stream: self.event.stream.clone(),
            commit: commit.id,
            causes: Vec::new(),
            hooks: self.hooks.clone(),
            is_held: false,
            is_urgent: false,
            may_be_nested: false,
        }
    }
}
