//! The approximate bytes of a commit in memory, for those who keep some. Commits differ in size by
//! orders of magnitude, so a bound on their number alone would bound nothing.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use skytrail_schema::codec;
use skytrail_schema::event::{Commit, EventBody};

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
        body => codec::payload_json(body, None).map_or(0, |payload| json_weight(&payload)),
    }
}

fn fields_weight(fields: &BTreeMap<String, Json>) -> usize {
    let fields = fields.iter();
    fields.map(|(name, value)| member_weight(name, value)).sum()
}

fn member_weight(name: &str, value: &Json) -> usize {
    size_of::<String>() + name.len() + json_weight(value)
}

fn json_weight(value: &Json) -> usize {
    let within: usize = match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(json_weight).sum(),
        Json::Object(members) => {
            let members = members.iter();
            members
                .map(|(name, value)| member_weight(name, value))
                .sum()
        }
    };
    size_of_val(value) + within
}
