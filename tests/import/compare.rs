//! Compares every row of the old database with what the API returns, using the tests' own SQL.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::support::client::Client;
use crate::support::postgres::Database;

/// A column, as PostgreSQL describes it.
struct Column {
    kind: String,
    target: Option<String>,
}

/// Compares all records of all types; returns how many there are.
pub(super) fn records(database: &Database<'_>, master: &Client) -> usize {
    let types = rows(
        database,
        "SELECT array_to_json(array_agg(table_name ORDER BY table_name)) \
         FROM information_schema.columns \
         WHERE table_schema = 'app_myapp' AND column_name = '_database_id'",
    );
    let mut compared = 0;
    for name in types.as_array().unwrap() {
        let name = name.as_str().unwrap();
        if name.starts_with('_') {
            continue;
        }
        compared += records_of(database, master, name);
    }
    compared
}

fn records_of(database: &Database<'_>, master: &Client, name: &str) -> usize {
    let columns = columns(database, name);
    let sql = format!("SELECT coalesce(json_agg(t), '[]') FROM app_myapp.\"{name}\" t");
    let there = rows(database, &sql);
    let there = there.as_array().unwrap();
    let mut here = BTreeMap::new();
    let users = there
        .iter()
        .map(|row| row["_database_id"].as_str().unwrap());
    for user in users.collect::<std::collections::BTreeSet<_>>() {
        let mut body = json!({"record_type": name, "limit": 100_000});
        if !user.is_empty() {
            body["database_id"] = "_private".into();
            body["_user_id"] = user.into();
        }
        let found = master.call("record:query", body).result();
        for record in found.as_array().unwrap() {
            let id = record["_id"].as_str().unwrap().to_owned();
            here.insert((user.to_owned(), id), record.clone());
        }
    }
    assert_eq!(here.len(), there.len(), "{name}");
    for row in there {
        let user = row["_database_id"].as_str().unwrap().to_owned();
        let id = format!("{name}/{}", row["_id"].as_str().unwrap());
        let mut found = here[&(user, id.clone())].clone();
        let expected = expected(database, &columns, &id, row);
        for asset in found.as_object_mut().unwrap().values_mut() {
            if asset["$type"] == "asset" {
                let url = asset.as_object_mut().unwrap().remove("$url");
                assert!(url.is_some(), "{id}");
            }
        }
        assert_eq!(normal(found), normal(expected), "{id}");
    }
    there.len()
}

/// Returns what clients should see of a row.
fn expected(
    database: &Database<'_>,
    columns: &BTreeMap<String, Column>,
    id: &str,
    row: &Json,
) -> Json {
    let mut record = Map::new();
    record.insert("_id".into(), id.into());
    record.insert("_type".into(), "record".into());
    record.insert("_access".into(), row["_access"].clone());
    for (theirs, ours) in [
        ("_owner_id", "_ownerID"),
        ("_created_by", "_created_by"),
        ("_updated_by", "_updated_by"),
    ] {
        let user = row[theirs].as_str().unwrap_or_default();
        if !user.is_empty() {
            record.insert(ours.into(), user.into());
        }
    }
    for name in ["_created_at", "_updated_at"] {
        let time = format!("{}Z", row[name].as_str().unwrap());
        record.insert(name.into(), time.into());
    }
    for (name, column) in columns {
        if !row[name].is_null() && !name.starts_with('_') {
            record.insert(name.clone(), value(database, column, &row[name]));
        }
    }
    record.into()
}

fn value(database: &Database<'_>, column: &Column, value: &Json) -> Json {
    match (column.kind.as_str(), column.target.as_deref()) {
        ("text", Some("_asset")) => {
            let name = value.as_str().unwrap();
            let sql = format!("SELECT content_type FROM app_myapp._asset WHERE id = '{name}'");
            let kind = database.sql(&sql);
            json!({"$type": "asset", "$name": name, "$content_type": kind.trim()})
        }
        ("text", Some(target)) => {
            json!({"$type": "ref", "$id": format!("{target}/{}", value.as_str().unwrap())})
        }
        ("timestamp without time zone", _) => {
            json!({"$type": "date", "$date": format!("{}Z", value.as_str().unwrap())})
        }
        ("geometry(Point)", _) => {
            let [lng, lat] = [0, 1].map(|index| value["coordinates"][index].clone());
            json!({"$type": "geo", "$lng": lng, "$lat": lat})
        }
        (kind, _) if kind.starts_with("geometry") => {
            let mut shape = value.clone();
            shape.as_object_mut().unwrap().remove("crs");
            json!({"$type": "geojson", "$val": shape})
        }
        _ => value.clone(),
    }
}

fn columns(database: &Database<'_>, table: &str) -> BTreeMap<String, Column> {
    let sql = format!(
        "SELECT json_agg(json_build_object('name', attname, \
           'kind', format_type(atttypid, atttypmod), \
           'target', (SELECT relname FROM pg_constraint k JOIN pg_class f ON f.oid = confrelid \
             WHERE k.conrelid = attrelid AND contype = 'f' AND conkey = ARRAY[attnum]))) \
         FROM pg_attribute WHERE attrelid = 'app_myapp.\"{table}\"'::regclass \
           AND attnum > 0 AND NOT attisdropped"
    );
    let columns = rows(database, &sql);
    let column = |column: &Json| {
        let about = Column {
            kind: column["kind"].as_str().unwrap().to_owned(),
            target: column["target"].as_str().map(str::to_owned),
        };
        (column["name"].as_str().unwrap().to_owned(), about)
    };
    columns.as_array().unwrap().iter().map(column).collect()
}

/// Makes equal numbers equal, however they are written.
fn normal(json: Json) -> Json {
    match json {
        Json::Number(number) => json!(number.as_f64()),
        Json::Array(items) => items.into_iter().map(normal).collect(),
        Json::Object(members) => {
            let members = members.into_iter();
            let members = members.map(|(name, value)| (name, normal(value)));
            Json::Object(members.collect())
        }
        other => other,
    }
}

/// Runs SQL that returns one JSON value.
pub(super) fn rows(database: &Database<'_>, sql: &str) -> Json {
    serde_json::from_str(&database.sql(sql)).unwrap()
}
