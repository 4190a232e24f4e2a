//! What an event calls for.

use std::sync::Arc;

use skytrail_schema::event::{Commit, Event};

use super::Errand;
use crate::delivery::couriers::occasion;
use crate::delivery::couriers::parts::{LOG_TASK, Recipient};
use crate::delivery::couriers::schedule::Arrival;

/// An event that a consumer may be told of.
pub(super) struct Wanted<'a> {
    /// Its index in the commit.
    pub(super) index: usize,
    pub(super) event: &'a Event,
    /// The hooks that it calls for, in order, and whether each is synchronous.
    pub(super) hooks: Vec<(Arc<str>, bool)>,
}

/// Whether what was committed before a hook was there counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    Counts,
    Ignored,
}

impl Errand {
    /// Returns the events of a commit that the consumer may be told of.
    pub(super) fn wanted<'a>(&self, commit: &'a Commit, past: Past) -> Vec<Wanted<'a>> {
        match &self.parts.recipient {
            Recipient::Plugin => self.wanted_by_plugin(commit, past),
            Recipient::Log(side) => {
                let events = commit.events.iter().enumerate();
                let events = events.filter(|(_, event)| side.options.filter.matches(commit, event));
                let wanted = events.map(|(index, event)| Wanted {
                    index,
                    event,
                    hooks: vec![(LOG_TASK.into(), false)],
                });
                wanted.collect()
            }
        }
    }

    fn wanted_by_plugin<'a>(&self, commit: &'a Commit, past: Past) -> Vec<Wanted<'a>> {
        let wanted = occasion::of_commit(commit).map(|it| {
            let is_meant = |key: &str| {
                let since = self.standing.since.get(key);
                since.is_some_and(|since| past == Past::Counts || *since < it.event.position)
            };
            let hooks = occasion::hooks(&self.points, (&it.id, it.trigger), &self.parts.name);
            let hooks = hooks.filter(|hook| is_meant(&occasion::key_of(hook)));
            let hooks = hooks.map(|hook| (hook.name.as_str().into(), !hook.is_async));
            Wanted {
                index: it.index,
                event: it.event,
                hooks: hooks.collect(),
            }
        });
        wanted.collect()
    }
}

impl Wanted<'_> {
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
