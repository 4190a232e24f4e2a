//! Things whose beginning was erased: what they were is not known until an event carries a full state.
//!
//! Changes and the end of such a thing may have nothing to work on, and that is no fault. When a record
//! is known again its row gets the place that its creation would have given it, and that of a device
//! the version of its subscriptions, so that a store made from what is left equals the one that saw
//! everything. The store keeps them, too: a server may end before the log does.

use std::collections::HashMap;
use std::sync::Arc;

use crate::projection::conn::Conn;

use skytrail_schema::event::{Event, EventBody, EventKind, Stream};
use skytrail_schema::id::TypeName;

use super::texts::{in_chunks, insert_or_fail, push_rows};
use crate::projection::read;
use crate::projection::sql::{Arg, Kind, Sql};

/// How many rows one statement writes.
const SIZES: &[usize] = &[64, 16, 4, 1];

/// The things that are not known at present, with the positions at which they began; what devices
/// subscribe to with the version that it has come to. There may be a great many after an erasure, and
/// hardly a batch changes them: until it does, what it begins with is shared with what it ends with.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(Arc<HashMap<Stream, u64>>);

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
    /// Loads what the store has left.
    pub(super) async fn load(conn: &mut Conn<'_>) -> Result<Self, sqlx::Error> {
        let rows = Sql::new("SELECT stream, place FROM _lost");
        let rows = rows.fetch_all(conn).await?;
        let things = rows.iter().map(|row| {
            let stream = Stream::parse(&row.text(0)?);
            let stream = stream.ok_or_else(|| sqlx::Error::Decode("no stream in _lost".into()))?;
            Ok((stream, row.unsigned(1)?))
        });
        let things: Result<_, sqlx::Error> = things.collect();
        Ok(Self(Arc::new(things?)))
    }

    /// Writes what is not known any more, or is again, other than before.
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

    /// Returns what is not the same in `other`.
    fn beside(&self, other: &Self) -> impl Iterator<Item = (&Stream, &u64)> {
        let is_new = |(stream, place): &(&Stream, &u64)| other.0.get(*stream) != Some(*place);
        self.0.iter().filter(is_new)
    }

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
        Arc::make_mut(&mut self.0).insert(event.stream.clone(), place);
    }

    fn remove(&mut self, stream: &Stream) -> Option<u64> {
        // What is shared is copied for a change only.
        self.0.get(stream)?;
        Arc::make_mut(&mut self.0).remove(stream)
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
