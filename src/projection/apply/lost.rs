//! Records whose beginning was erased: what they were is not known until an event carries a full state.
//!
//! Changes and the deletion of such a record have nothing to work on, and that is no fault. When it is
//! known again its row gets the place that its creation would have given it, so that a store made
//! from what is left equals the one that saw everything.

use std::collections::HashMap;

use skytrail_schema::event::{Event, EventBody, EventKind};
use skytrail_schema::id::RecordId;

/// The records that are not known at present, with the positions of their creations.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(HashMap<RecordId, u64>);

/// What is to be done with an event of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing: it is erased, or has nothing to work on.
    Nothing,
    /// It is applied; a row that is made anew gets this place, if there is one.
    Apply(Option<u64>),
}

impl Lost {
    /// Learns of the next event of a record, and says what it means.
    pub(super) fn learn(&mut self, id: &RecordId, event: &Event) -> Meaning {
        match &event.body {
            EventBody::Erased(blank) => {
                if blank.kind == EventKind::RecordCreated {
                    self.0.insert(id.clone(), event.position);
                }
                Meaning::Nothing
            }
            _ if self.0.is_empty() => Meaning::Apply(None),
            EventBody::RecordChanged(_) if self.0.contains_key(id) => Meaning::Nothing,
            EventBody::RecordDeleted(_) if self.0.remove(id).is_some() => Meaning::Nothing,
            EventBody::RecordReplaced(_) => Meaning::Apply(self.0.remove(id)),
            EventBody::RecordCreated(_) => {
                self.0.remove(id);
                Meaning::Apply(None)
            }
            _ => Meaning::Apply(None),
        }
    }
}
