//! `record:query`

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;
use skytrail_actors::record::messages::{Found, QueryRecords, Transient};
use skytrail_schema::query::Query;

use super::{Call, Outcome, Reply, request};

pub(super) async fn run(call: Call) -> Outcome {
    let mut query = Query::parse(&call.body)?;
    let limits = &call.services.settings.limits;
    limits.bound_query(&mut query)?;
    let command = QueryRecords {
        context: call.context,
        scope: call.scope,
        query,
        as_of: request::moment(&call.body, "as_of")?,
    };
    let reply = call.services.records.query(command).await?;
    limits.check_page(reply.records.len())?;
    let info = reply.count.map(|count| json!({"count": count}));
    let records: Vec<_> = reply.records.iter().map(Written).collect();
    Reply::with_info(&records, info.as_ref())
}

/// A record as the answer carries it, with what was brought along.
struct Written<'a>(&'a Found);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(found) = self;
        let mut object = serializer.serialize_map(None)?;
        found.head.record.write_members(&mut object)?;
        if !found.transient.is_empty() {
            object.serialize_entry("_transient", &Brought(found))?;
        }
        object.end()
    }
}

struct Brought<'a>(&'a Found);

impl Serialize for Brought<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in &self.0.transient {
            match value {
                Transient::Record(record) => object.serialize_entry(name, record)?,
                Transient::Value(value) => object.serialize_entry(name, value)?,
            }
        }
        object.end()
    }
}
