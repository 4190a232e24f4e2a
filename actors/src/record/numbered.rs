//! The numbers that records got when their type got a sequence field.
//!
//! The event names the field, not the numbers. The projector numbers the records in the order of
//! their creation, and keeps each number with the position of the event and the place of the
//! record, which is where it was created. A fold that passes such an event looks the number up.

use std::collections::{BTreeMap, HashMap};

use skytrail_schema::code::ApiError;
use skytrail_schema::event::EventBody;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Record;
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;

use super::env::RecordEnv;
use super::past;

/// A record's numbers, by the position of the event that gave them.
pub(super) type Numbers = BTreeMap<u64, i64>;

/// A part of a record's past.
pub(super) struct Span<'a> {
    pub(super) id: &'a RecordId,
    /// The last position before it.
    pub(super) after: u64,
    pub(super) until: u64,
    /// Where the record was created, if it is known and all of the span is about that record.
    pub(super) place: Option<u64>,
}

/// Loads the numbers that records got within spans, in the order of the spans.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn load(env: &RecordEnv, spans: &[Span<'_>]) -> Result<Vec<Numbers>, ApiError> {
    let mut found = vec![Numbers::new(); spans.len()];
    let given = |span: &Span<'_>| -> Vec<u64> {
        let definition = env.definition(&span.id.record_type);
        let given = definition.numbered.iter().copied();
        given
            .filter(|position| (span.after + 1..=span.until).contains(position))
            .collect()
    };
    let spans = spans.iter().enumerate();
    let spans: Vec<_> = spans
        .map(|(index, span)| (index, span, given(span)))
        .filter(|(_, _, given)| !given.is_empty())
        .collect();
    let unsure = spans.iter().filter(|(_, span, _)| span.place.is_none());
    let ids: Vec<RecordId> = unsure.map(|(_, span, _)| span.id.clone()).collect();
    let until = spans.iter().map(|(_, span, _)| span.until).max();
    let places = past::places(env, &ids, until.unwrap_or_default()).await?;
    let places: HashMap<&RecordId, Vec<u64>> = ids.iter().zip(places).collect();
    let (mut wanted, mut takers) = (Vec::new(), Vec::new());
    for (index, span, given) in &spans {
        for position in given {
            let last = || {
                let places = places.get(span.id)?.iter();
                places.rev().find(|place| *place < position).copied()
            };
            if let Some(place) = span.place.or_else(last) {
                wanted.push((*position, place));
                takers.push(*index);
            }
        }
    }
    if wanted.is_empty() {
        return Ok(found);
    }
    let numbers = env.store.load_numbers(&wanted).await?;
    for ((index, (position, _)), number) in takers.into_iter().zip(wanted).zip(numbers) {
        if let Some((numbers, number)) = found.get_mut(index).zip(number) {
            numbers.insert(position, number);
        }
    }
    Ok(found)
}

/// Gives a record the number that the event gave it, in each sequence field that the event added.
pub(super) fn give(record: &mut Record, event: &EventBody, number: i64) {
    let EventBody::TypeExtended(extension) = event else {
        return;
    };
    let Ok(number) = Value::from_wire(number.into()) else {
        return;
    };
    let new = extension.fields.iter();
    for (name, _) in new.filter(|(_, kind)| **kind == FieldType::Sequence) {
        if !record.fields.contains_key(name) {
            record.fields.insert(name.clone(), number.clone());
        }
    }
}
