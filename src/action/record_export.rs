//! `record:export`: all records of a type as of one point in time, page by page.

use serde_json::{Map, Value as Json, json};
use skytrail_actors::record::messages::ExportRecords;
use skytrail_schema::id::{Database, RecordKey};
use skytrail_schema::query::Query;
use skytrail_schema::record::Record;

use super::{Call, Outcome, Reply, request};

/// How many records are examined by default.
const LIMIT: u64 = 1000;

pub(super) async fn run(call: Call) -> Outcome {
    let mut query = Query::parse(&call.body)?;
    let limits = &call.services.settings.limits;
    limits.bound_query(&mut query)?;
    let most = limits.page_records as u64;
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(LIMIT);
    let command = ExportRecords {
        context: call.context,
        query,
        as_of: request::moment(&call.body, "as_of")?,
        after: request::text(&call.body, "after")?.map(RecordKey::from),
        limit: u32::try_from(limit.clamp(1, most)).unwrap_or(u32::MAX),
    };
    let page = call.services.records.export(command).await?;
    let records: Vec<Json> = page.records.iter().map(whole).collect();
    let fields = page.definition.map(|definition| {
        let fields = definition.fields.iter();
        let own = fields.filter(|(name, _)| !name.starts_with('_'));
        let fields = own.map(|(name, kind)| (name.clone(), Json::from(kind.wire_name())));
        fields.collect::<Map<String, Json>>()
    });
    let next = page.next.map(|key| key.to_string());
    let info = json!({"position": page.position, "fields": fields, "next": next});
    Reply::with_info(&records, Some(&info))
}

/// Encodes a record together with its database, which answers otherwise leave out.
fn whole(record: &Record) -> Json {
    let mut wire = record.to_wire();
    if let Database::Private(user) = &record.database {
        wire.insert("_database_id".to_owned(), user.as_str().into());
    }
    wire.into()
}
