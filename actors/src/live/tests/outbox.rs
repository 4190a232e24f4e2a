//! What SQL does: its rows are there before its events, and some of it never becomes an event.

use std::collections::HashMap;

use serde_json::{Value as Json, json};
use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;

use super::Dice;
use super::world::{World, changed};
use crate::record::apply::{self, Folded};

/// A transaction by SQL that the store has, and the log maybe not.
pub(super) struct Entry {
    events: Vec<(Stream, EventBody)>,
    /// Where its last event is in the log.
    position: Option<u64>,
}

impl Entry {
    /// Whether the store still has it in the outbox.
    pub(super) fn is_waiting(&self, applied: u64) -> bool {
        self.position.is_none_or(|position| position > applied)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &RecordId> {
        self.events.iter().filter_map(|(stream, _)| match stream {
            Stream::Record(id) => Some(id),
            _ => None,
        })
    }

    /// Does it to the rows.
    pub(super) fn put_on(&self, rows: &mut HashMap<RecordId, Head>) {
        for (stream, body) in &self.events {
            let Stream::Record(id) = stream else { continue };
            let before = match body {
                EventBody::RecordCreated(_) => None,
                _ => rows.get(id),
            };
            let event = Event {
                position: u64::MAX,
                stream: stream.clone(),
                version: before.map_or(1, |head| head.version + 1),
                body: body.clone(),
                provenance: Vec::new(),
                payload_hash: [0; 32],
            };
            match apply::record(before, id, &event) {
                Folded::Known(Some(head)) => drop(rows.insert(id.clone(), head)),
                Folded::Known(None) => drop(rows.remove(id)),
                // The row was deleted meanwhile.
                Folded::Unknown => {}
            }
        }
    }
}

impl World {
    /// A transaction changes rows.
    pub(super) fn by_sql(&self, events: Vec<(Stream, EventBody)>) {
        self.store.outbox.lock().push(Entry {
            events,
            position: None,
        });
    }

    /// Takes the oldest transaction into the log, unless it has to wait for the store; `false` if
    /// there is none, or it has to wait. Sometimes it is refused: records that the log has are then
    /// stored again, and others vanish without an event.
    pub(super) fn ingest(&self, dice: &mut Dice) -> bool {
        let mut outbox = self.store.outbox.lock();
        let applied = self.applied();
        outbox.retain(|entry| entry.is_waiting(applied));
        let Some(place) = outbox.iter().position(|entry| entry.position.is_none()) else {
            return false;
        };
        let is_refused = dice.below(4) == 0;
        let mut events = Vec::new();
        for (stream, body) in outbox[place].events.clone() {
            let Stream::Record(id) = &stream else {
                continue;
            };
            match (body, self.has(id)) {
                (_, true) if is_refused => events.push(changed(id, json!({}), &Json::Null)),
                (EventBody::RecordCreated(state), true) => {
                    events.push((stream, EventBody::RecordReplaced(state)));
                }
                (body @ EventBody::RecordCreated(_), false) if !is_refused => {
                    events.push((stream, body));
                }
                (_, false) => {}
                (body, true) => events.push((stream, body)),
            }
        }
        if events.is_empty() {
            // It leaves the outbox when the store has what that was decided by.
            let is_done = applied == self.env.log.head();
            if is_done {
                outbox.remove(place);
            }
            return is_done;
        }
        drop(outbox);
        self.commit(events);
        self.store.outbox.lock()[place].position = Some(self.env.log.head());
        true
    }
}
