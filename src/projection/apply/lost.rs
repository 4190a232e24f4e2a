//! Things whose beginning was erased: what they were is not known until an event carries a full state.
//!
//! Changes and the end of such a thing may have nothing to work on, and that is no fault. When a record
//! is known again its row gets the place that its creation would have given it, and that of a device
//! the version of its subscriptions, so that a store made from what is left equals the one that saw
//! everything.

use std::collections::HashMap;

use skytrail_schema::event::{Event, EventBody, EventKind, Stream};
use skytrail_schema::id::TypeName;

/// The things that are not known at present, with the positions at which they began; what devices
/// subscribe to with the version that it has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(HashMap<Stream, u64>);

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing: it is erased, or has nothing to work on.
    Nothing,
    /// It is applied; a row that is made anew gets this place, or this version of its subscriptions, if
    /// there is one.
    Apply(Option<u64>),
    /// It is applied as far as it can be.
    Try,
}

impl Lost {
    /// Learns of the next event, and says what it means.
    pub(super) fn learn(&mut self, event: &Event) -> Meaning {
        use EventBody as Body;

        let stream = &event.stream;
        match &event.body {
            Body::Erased(blank) => {
                if begins(blank.kind) {
                    self.insert(event);
                }
                Meaning::Nothing
            }
            _ if self.0.is_empty() => Meaning::Apply(None),
            Body::RecordReplaced(_) => Meaning::Apply(self.0.remove(stream)),
            Body::RecordCreated(_) | Body::UserCreated(_) => {
                self.0.remove(stream);
                Meaning::Apply(None)
            }
            Body::DeviceRegistered(_) => {
                self.0.remove(stream);
                Meaning::Apply(self.0.get(&subscriptions_of(stream)).copied())
            }
            Body::RecordChanged(_) if self.0.contains_key(stream) => Meaning::Nothing,
            Body::RecordDeleted(_) if self.0.remove(stream).is_some() => Meaning::Nothing,
            Body::UserRemoved(_) | Body::DeviceDeleted(_) if self.0.remove(stream).is_some() => {
                Meaning::Try
            }
            // What a device subscribes to goes with the device.
            _ if self.0.contains_key(stream) || self.0.contains_key(&device_of(stream)) => {
                if matches!(stream, Stream::Subscriptions(_)) {
                    self.insert(event);
                }
                Meaning::Try
            }
            _ => Meaning::Apply(None),
        }
    }

    /// Returns where those records of a type began that are not known.
    pub(super) fn places_of(&self, name: &TypeName) -> Vec<u64> {
        let places = self.0.iter().filter_map(|(stream, place)| match stream {
            Stream::Record(id) if id.record_type == *name => Some(*place),
            _ => None,
        });
        places.collect()
    }

    fn insert(&mut self, event: &Event) {
        let place = match &event.stream {
            Stream::Subscriptions(_) => event.version.into(),
            _ => event.position,
        };
        self.0.insert(event.stream.clone(), place);
    }
}

/// Whether without an event of this kind those behind it have nothing to work on.
fn begins(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::RecordCreated
            | EventKind::UserCreated
            | EventKind::DeviceRegistered
            | EventKind::SubscriptionSaved
    )
}

/// Returns the stream of the device that subscriptions belong to; that of anything else is its own.
fn device_of(stream: &Stream) -> Stream {
    match stream {
        Stream::Subscriptions(id) => Stream::Device(id.clone()),
        other => other.clone(),
    }
}

/// Returns the stream of what a device subscribes to; that of anything else is its own.
fn subscriptions_of(stream: &Stream) -> Stream {
    match stream {
        Stream::Device(id) => Stream::Subscriptions(id.clone()),
        other => other.clone(),
    }
}
