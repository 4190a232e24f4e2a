//! Things whose beginning was erased: their state is unknown until an event carries a full state.
//!
//! Changes and the end of such a thing may have nothing to work on, which is not a fault. When a
//! record is known again, its row gets the place that its creation would have given it; a device
//! gets the version of its subscriptions. So a store made from what is left equals the one that saw
//! everything. The store keeps the unknown things as well, since a server can stop before it
//! reaches the log's end.

use std::collections::HashMap;
use std::sync::Arc;

use crate::projection::conn::Conn;

use skytrail_schema::event::{Event, EventBody, EventKind, Stream};
use skytrail_schema::id::TypeName;

use super::texts::{in_chunks, insert_or_fail, push_rows};
use crate::projection::sql::{Arg, Kind, Sql};
use crate::projection::{behind, read};

/// How many rows one statement writes.
const SIZES: &[usize] = &[64, 16, 4, 1];

/// The things that are currently unknown, with the positions at which they began. For a device's
/// subscriptions the value is their current version.
///
/// After an erasure there can be very many, and hardly any batch changes them. Until a batch does,
/// it shares the map with the state before it.
#[derive(Clone, Debug, Default)]
pub(super) struct LostStreams(Arc<HashMap<Stream, u64>>);

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing: it is erased, or has nothing to work on.
    Nothing,
    /// Apply it. A row that is created again gets this place, or this version of its subscriptions,
    /// if there is one.
    Apply(Option<u64>),
    /// Apply as much of it as possible.
    Try,
}

impl LostStreams {
    /// Loads the unknown things from the store.
    pub(super) async fn load(conn: &mut Conn<'_>) -> Result<Self, sqlx::Error> {
        let mut sql = Sql::new("SELECT stream, place FROM _lost WHERE stream<>");
        sql.bind(behind::name());
        let rows = sql.fetch_all(conn).await?;
        let things = rows.iter().map(|row| {
            let stream = Stream::parse(&row.text(0)?);
            let stream = stream.ok_or_else(|| sqlx::Error::Decode("no stream in _lost".into()))?;
            Ok((stream, row.unsigned(1)?))
        });
        let things: Result<_, sqlx::Error> = things.collect();
        Ok(Self(Arc::new(things?)))
    }

    /// Writes the differences from `before`.
    pub(super) async fn save(&self, conn: &mut Conn<'_>, before: &Self) -> Result<(), sqlx::Error> {
        if Arc::ptr_eq(&self.0, &before.0) {
            return Ok(());
        }
        let gone: Vec<String> = before
            .beside(self)
            .map(|(stream, _)| stream.to_string())
            .collect();
        for some in gone.chunks(read::MAX_KEYS) {
            let mut sql = Sql::new("DELETE FROM _lost WHERE stream");
            sql.within(some, String::as_str);
            sql.execute(conn).await?;
        }
        let new = self.beside(before);
        let new = new.map(|(stream, place)| [Arg::text(stream.to_string()), Arg::unsigned(*place)]);
        for chunk in in_chunks(new.collect(), SIZES, 2) {
            let mut sql = Sql::new(insert_or_fail(conn.dialect()));
            sql.push("_lost (stream, place) VALUES ");
            push_rows(&mut sql, &[Kind::Text, Kind::Int], chunk.len());
            let args = chunk.into_iter().flatten().collect();
            sql.into_text().execute(conn, args).await?;
        }
        Ok(())
    }

    /// Returns the entries that differ from those in `other`.
    fn beside(&self, other: &Self) -> impl Iterator<Item = (&Stream, &u64)> {
        let is_new = |(stream, place): &(&Stream, &u64)| other.0.get(*stream) != Some(*place);
        self.0.iter().filter(is_new)
    }

    /// Records the next event, and returns what to do with it.
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
            Body::RecordReplaced(_) => Meaning::Apply(self.remove(stream)),
            Body::RecordCreated(_) | Body::UserCreated(_) => {
                self.remove(stream);
                Meaning::Apply(None)
            }
            Body::DeviceRegistered(_) => {
                self.remove(stream);
                Meaning::Apply(self.0.get(&subscriptions_of(stream)).copied())
            }
            Body::RecordChanged(_) if self.0.contains_key(stream) => Meaning::Nothing,
            Body::RecordDeleted(_) if self.remove(stream).is_some() => Meaning::Nothing,
            Body::UserRemoved(_) | Body::DeviceDeleted(_) if self.remove(stream).is_some() => {
                Meaning::Try
            }
            // A device's subscriptions are lost with the device.
            _ if self.0.contains_key(stream) || self.0.contains_key(&device_of(stream)) => {
                if matches!(stream, Stream::Subscriptions(_)) {
                    self.insert(event);
                }
                Meaning::Try
            }
            _ => Meaning::Apply(None),
        }
    }

    /// Returns where the unknown records of a type began.
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
        Arc::make_mut(&mut self.0).insert(event.stream.clone(), place);
    }

    fn remove(&mut self, stream: &Stream) -> Option<u64> {
        // The shared map is copied only for a change.
        self.0.get(stream)?;
        Arc::make_mut(&mut self.0).remove(stream)
    }
}

/// Returns whether later events have nothing to work on without an event of this kind.
fn begins(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::RecordCreated
            | EventKind::UserCreated
            | EventKind::DeviceRegistered
            | EventKind::SubscriptionSaved
    )
}

/// Returns the stream of the device for a stream of subscriptions, and any other stream as it is.
fn device_of(stream: &Stream) -> Stream {
    match stream {
        Stream::Subscriptions(id) => Stream::Device(id.clone()),
        other => other.clone(),
    }
}

/// Returns the stream of subscriptions for the stream of a device, and any other stream as it is.
fn subscriptions_of(stream: &Stream) -> Stream {
    match stream {
        Stream::Device(id) => Stream::Subscriptions(id.clone()),
        other => other.clone(),
    }
}
