//! The approximate bytes of a commit in memory, for those who keep some. Commits differ in size by
//! orders of magnitude, so a bound on their number alone would bound nothing.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use skytrail_schema::codec;
use skytrail_schema::event::{Commit, EventBody};

use crate::record::weighed::Weigh as _;

/// Estimates the size of a commit in bytes.
pub(super) fn weight(commit: &Commit) -> usize {
    let events = commit.events.iter();
    let bodies = events.map(|event| size_of_val(event) + body_weight(&event.body));
    size_of_val(commit) + bodies.sum::<usize>()
}

fn body_weight(body: &EventBody) -> usize {
    match body {
        EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
            fields_weight(&state.fields)
        }
        EventBody::RecordChanged(patch) => fields_weight(&patch.set),
        // These are rare or small.
        body => codec::payload_json(body, None).map_or(0, |payload| payload.weight()),
    }
}

fn fields_weight(fields: &BTreeMap<String, Json>) -> usize {
    let weigh =
        |(name, value): (&String, &Json)| size_of::<(String, Json)>() + name.len() + value.weight();
    fields.iter().map(weigh).sum()
}
