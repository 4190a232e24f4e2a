//! Decides which events require hooks. Pure.

use std::sync::Arc;

use skytrail_schema::event::{Commit, Event, EventBody, NewEvent, Origin, Stream};
use skytrail_schema::id::RecordId;

use crate::plugin::{ExtensionPoints, Hook, Trigger};

/// Returns the record and the trigger of an event, if hooks can be told of it.
pub(super) fn of(stream: &Stream, body: &EventBody) -> Option<(RecordId, Trigger)> {
    let Stream::Record(id) = stream else {
        return None;
    };
    let trigger = match body {
        EventBody::RecordCreated(_)
        | EventBody::RecordChanged(_)
        | EventBody::RecordReplaced(_) => Trigger::AfterSave,
        EventBody::RecordDeleted(_) => Trigger::AfterDelete,
        _ => return None,
    };
    Some((id.clone(), trigger))
}

/// An event that hooks can be told of.
pub(super) struct HookEvent<'a> {
    /// Its index in the commit.
    pub(super) index: usize,
    pub(super) event: &'a Event,
    /// Its record.
    pub(super) id: RecordId,
    pub(super) trigger: Trigger,
}

/// Returns the events of a commit that hooks can be told of. Imports, changes that plugins made by
/// SQL, and commits that record a login have none.
pub(super) fn of_commit(commit: &Commit) -> impl Iterator<Item = HookEvent<'_>> {
    let mut events = commit.events.iter();
    let is_quiet_origin = matches!(commit.actor.origin, Origin::Import | Origin::Sql);
    let is_quiet = is_quiet_origin || events.any(notes_login);
    let events = commit.events.iter().enumerate();
    let events = events.filter(move |_| !is_quiet);
    events.filter_map(|(index, event)| {
        let (id, trigger) = of(&event.stream, &event.body)?;
        Some(HookEvent {
            index,
            event,
            id,
            trigger,
        })
    })
}

/// Finds the event of a commit at a position, if hooks can be told of it.
pub(super) fn at(commit: &Commit, position: u64) -> Option<HookEvent<'_>> {
    of_commit(commit).find(|hook_event| hook_event.event.position == position)
}

/// Like [`of_commit`], for events that are about to be committed; with their indexes.
pub(super) fn of_planned(events: &[NewEvent]) -> Vec<(usize, RecordId, Trigger)> {
    let found = events.iter().enumerate();
    let found = found.filter_map(|(index, event)| {
        let (id, trigger) = of(&event.stream, &event.body)?;
        Some((index, id, trigger))
    });
    found.collect()
}

fn notes_login(event: &Event) -> bool {
    match &event.body {
        EventBody::UserLoggedIn(_) => true,
        // How logins were recorded before they had an event of their own.
        EventBody::UserChanged(patch) => patch.last_seen_at.is_some(),
        _ => false,
    }
}

/// Returns a plugin's hooks for an event.
pub(super) fn hooks<'a>(
    points: &'a ExtensionPoints,
    (id, trigger): (&RecordId, Trigger),
    plugin: &'a str,
) -> impl Iterator<Item = &'a Hook> {
    let hooks = points.hooks(&id.record_type, trigger).iter();
    hooks.filter(move |hook| &*hook.plugin == plugin)
}

/// Returns the key by which a hook is remembered.
pub(super) fn key_of(hook: &Hook) -> String {
    let trigger = hook.trigger.name();
    format!("{trigger} {} {}", hook.record_type, hook.name)
}

/// Returns the hook's own name, taken from its key.
pub(super) fn name_in(key: &str) -> &str {
    key.splitn(3, ' ').last().unwrap_or_default()
}

/// Returns whether the hook with this key is told of such an event.
pub(super) fn is_meant(key: &str, (id, trigger): (&RecordId, Trigger)) -> bool {
    let mut parts = key.splitn(3, ' ');
    parts.next() == Some(trigger.name()) && parts.next() == Some(id.record_type.as_str())
}

/// Returns a plugin's after-hooks.
pub(super) fn after_hooks<'a>(
    points: &'a ExtensionPoints,
    plugin: &'a str,
) -> impl Iterator<Item = &'a Hook> {
    let hooks = points.hooks.values().flatten();
    hooks.filter(move |hook| hook.trigger.is_after() && &*hook.plugin == plugin)
}

/// Returns the plugins that have after-hooks.
pub(super) fn plugins(points: &ExtensionPoints) -> Vec<Arc<str>> {
    let hooks = points.hooks.iter();
    let hooks = hooks.filter(|((_, trigger), _)| trigger.is_after());
    let mut plugins: Vec<Arc<str>> = hooks
        .flat_map(|(_, hooks)| hooks.iter().map(|hook| Arc::clone(&hook.plugin)))
        .collect();
    plugins.sort();
    plugins.dedup();
    plugins
}
