//! The numbers that records got when their type got a sequence field, for a store that an earlier
//! version filled: it did not keep them, so they are found once more in the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use skytrail_actors::log::journal::Segments;
use skytrail_actors::record::apply;
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Stream, TypeExtension};
use skytrail_schema::id::{RecordKey, TypeName};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};

use crate::app::StartError;
use crate::projection::{Given, SqlStore};
use crate::record_store::start::retry_while_unavailable;

/// How many events are read at once.
const READ_EVENTS: usize = 4096;

/// Adds the numbers that the store lacks, up to its checkpoint; returns whether it lacked them. The
/// log is read only if existing records may have been numbered.
pub(super) async fn add_missing(
    store: &SqlStore,
    log: &Segments,
    checkpoint: u64,
) -> Result<bool, StartError> {
    if !retry_while_unavailable(async || store.lacks_numbers().await).await? {
        return Ok(false);
    }
    let kind = EventKind::TypeExtended;
    let list = async || store.list_positions_of_kind(kind, 1, checkpoint).await;
    let mut found = Found::default();
    for position in retry_while_unavailable(list).await? {
        let commits = read(log, position, 1)?;
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        if let Some(event) = events.find(|event| event.position == position) {
            found.meet(event);
        }
    }
    let mut position = 0;
    while position < checkpoint && !found.records.is_empty() {
        let commits = read(log, position + 1, READ_EVENTS)?;
        let Some(last) = commits.last() else { break };
        position = last.last_position();
        let events = commits.iter().flat_map(|commit| &commit.events);
        for event in events.filter(|event| event.position <= checkpoint) {
            if let Some(given) = found.take(event) {
                let add = async || store.add_numbers(event.position, &given).await;
                retry_while_unavailable(add).await?;
            }
        }
    }
    let types = found.types.into_values();
    let numbered: HashMap<TypeName, Vec<u64>> = types
        .filter(|definition| !definition.numbered.is_empty())
        .map(|definition| (definition.name, definition.numbered))
        .collect();
    retry_while_unavailable(async || store.finish_numbers(&numbered).await).await?;
    Ok(true)
}

fn read(log: &Segments, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, StartError> {
    let read = log.read(from, max_events);
    read.map_err(|error| StartError::Store(error.to_string()))
}

/// The records of the types that may have numbered them, while the log is read.
#[derive(Default)]
struct Found {
    /// The types that have been extended.
    known: HashSet<TypeName>,
    /// Those that are followed.
    types: HashMap<TypeName, TypeDefinition>,
    records: HashMap<TypeName, HashMap<RecordKey, Created>>,
}

/// Where a record was created, and when, if that was not erased.
struct Created {
    place: u64,
    at: Option<Timestamp>,
}

impl Found {
    /// Learns from an extension which types to follow: one that is not the first of its type may
    /// number records.
    fn meet(&mut self, event: &Event) {
        let (Stream::Type(name), EventBody::TypeExtended(extension)) = (&event.stream, &event.body)
        else {
            return;
        };
        let is_first = self.known.insert(name.clone());
        let mut kinds = extension.fields.values();
        if !is_first && kinds.any(|kind| *kind == FieldType::Sequence) {
            self.records.entry(name.clone()).or_default();
        }
    }

    /// Takes the next event; returns what it gave to records.
    fn take(&mut self, event: &Event) -> Option<Given> {
        match &event.stream {
            Stream::Record(id) => {
                let records = self.records.get_mut(&id.record_type)?;
                match event.body.kind() {
                    EventKind::RecordCreated => {
                        let at = match &event.body {
                            EventBody::RecordCreated(state) => Some(state.creation().at),
                            _ => None,
                        };
                        let place = event.position;
                        records.insert(id.key.clone(), Created { place, at });
                    }
                    EventKind::RecordDeleted => drop(records.remove(&id.key)),
                    _ => {}
                }
                None
            }
            Stream::Type(name) => {
                let records = self.records.get(name)?;
                let empty = || TypeDefinition::empty(name.clone());
                let before = self.types.remove(name).unwrap_or_else(empty);
                let definition = apply::record_type(&before, event);
                let is_numbered = definition.numbered.len() > before.numbered.len();
                self.types.insert(name.clone(), definition);
                match &event.body {
                    EventBody::TypeExtended(extension) if is_numbered => {
                        Some(rank(records, extension))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Numbers the records as the projector does.
fn rank(records: &HashMap<RecordKey, Created>, extension: &TypeExtension) -> Given {
    let mut ranked: Vec<(&RecordKey, &Created)> = records.iter().collect();
    if extension.numbered.is_empty() {
        ranked.retain(|(_, created)| created.at.is_some());
        ranked
            .sort_by(|one, other| (one.1.at, one.0.as_str()).cmp(&(other.1.at, other.0.as_str())));
    } else {
        ranked.sort_by_key(|(_, created)| created.place);
    }
    let places = ranked.into_iter().map(|(_, created)| created.place);
    places.zip(1..).collect()
}
