//! `record:query`

use serde_json::{Map, Value as Json, json};
use skytrail_actors::record::messages::{Found, QueryRecords, Transient};
use skytrail_schema::query::Query;

use super::{Call, Outcome, Reply};

pub(super) async fn run(call: Call) -> Outcome {
    let query = Query::parse(&call.body)?;
    let command = QueryRecords {
        context: call.context,
        scope: call.scope,
        query,
    };
    let reply = call.services.records.query(command).await?;
    let records = reply.records.into_iter().map(write).collect();
    let info = reply.count.map(|count| json!({"count": count}));
    Ok(Reply {
        result: Json::Array(records),
        info,
    })
}

fn write(found: Found) -> Json {
    let mut object = found.head.record.to_wire();
    if !found.transient.is_empty() {
        let transient = found
            .transient
            .into_iter()
            .map(|(name, value)| (name, bring(value)));
        object.insert(
            "_transient".into(),
            Json::Object(transient.collect::<Map<_, _>>()),
        );
    }
    Json::Object(object)
}

fn bring(value: Transient) -> Json {
    match value {
        Transient::Record(record) => {
            record.map_or(Json::Null, |record| Json::Object(record.to_wire()))
        }
        Transient::Value(value) => value,
    }
}
