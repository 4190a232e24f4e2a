//! Types and fields that are named as what the server's own SQL names: aliases, variables, tables
//! of the database, its functions and types. The same is tried with the records in PostgreSQL
//! (`postgres/names`).

use serde_json::{Map, Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

/// Every alias, variable and table of the server's SQL that does not begin with `_`, and names that
/// the databases have themselves.
pub const NAMES: [&str; 99] = [
    "t",
    "c",
    "o",
    "p",
    "q",
    "l",
    "n",
    "v",
    "k",
    "r",
    "w",
    "e",
    "a",
    "s",
    "h",
    "i",
    "u",
    "d",
    "g",
    "x",
    "j0",
    "j1",
    "s0",
    "s1",
    "h0",
    "h1",
    "c0",
    "c1",
    "c2",
    "excluded",
    "old",
    "new",
    "value",
    "key",
    "put",
    "own",
    "lifted",
    "of_table",
    "named",
    "last",
    "transaction",
    "role",
    "roles",
    "at",
    "table_name",
    "before",
    "after",
    "mark",
    "columns",
    "reason",
    "id",
    "name",
    "place",
    "number",
    "page",
    "candidates",
    "halves",
    "found",
    "what",
    "gone",
    "related",
    "back",
    "position",
    "log",
    "version",
    "written",
    "tg_op",
    "tg_table_name",
    "select",
    "from",
    "table",
    "order",
    "group",
    "current_schema",
    "session_user",
    "rowid",
    "oid",
    "tableoid",
    "xmin",
    "ctid",
    "sqlite_schema",
    "json_each",
    "dbstat",
    "pragma_index_list",
    "pragma_index_info",
    "pg_class",
    "pg_index",
    "pg_trigger",
    "pg_attribute",
    "text",
    "jsonb",
    "bigint",
    "timestamp",
    "point",
    "box",
    "path",
    "date",
    "citext",
    "geometry",
];

/// The fields' values: for each name, the name and this.
fn all_fields(ending: &str) -> Map<String, Json> {
    let fields = NAMES
        .iter()
        .map(|name| ((*name).to_owned(), json!(format!("{name} {ending}"))));
    fields.collect()
}

fn save(client: &Client, records: Json) -> Json {
    let body = json!({"atomic": true, "records": records});
    client.call("record:save", body).result()
}

/// Saves records of a type in all ways that have their own SQL, and reads them.
fn use_type(ada: &Client, master: &Client, name: &str) {
    let id = |key: u32| format!("{name}/{key}");
    let refer = |key: u32| json!({"$type": "ref", "$id": id(key)});
    save(ada, json!([{"_id": id(1), "n": 1}]));
    let records: Vec<Json> = (1..=6)
        .map(|key| json!({"_id": id(key), "n": key, "other": refer(1)}))
        .collect();
    save(ada, json!(records));
    let temporal = json!({"type": name, "temporal": true});
    master.call("schema:temporal", temporal).result();
    let last = json!({"record": id(6), "limit": 1});
    let before = master.call("log:read", last).result()[0]["position"].clone();
    // Several changes of one shape, and whole records.
    let changed: Vec<Json> = (2..=6)
        .map(|key| json!({"_id": id(key), "n": key + 10}))
        .collect();
    save(ada, json!(changed));
    master
        .call("record:delete", json!({"ids": [id(6)]}))
        .result();
    save(ada, json!([{"_id": id(6), "n": 16, "other": refer(2)}]));
    let sequence = json!({"fields": [{"name": "number", "type": "sequence"}]});
    let types = json!({"record_types": {name: sequence}});
    master.call("schema:create", types).result();

    let path = |path: &str| json!({"$type": "keypath", "$val": path});
    let sort = json!([[path("n"), "desc"]]);
    let body = json!({"record_type": name, "sort": sort, "count": true,
        "predicate": ["gt", path("n"), 1], "include": {"them": path("other")}});
    let answer = ada.call("record:query", body).json();
    let found = answer["result"].as_array();
    let found = found.unwrap_or_else(|| panic!("{name}: {answer}"));
    let numbers: Vec<&Json> = found.iter().map(|it| &it["n"]).collect();
    assert_eq!(numbers, [16, 15, 14, 13, 12], "{name}: {answer}");
    assert_eq!(answer["info"]["count"], 5, "{name}: {answer}");
    assert!(
        found.iter().all(|it| it["number"].is_number()),
        "{name}: {answer}"
    );
    let behind = json!(["eq", path("other.n"), 1]);
    assert_eq!(ada.query(name, behind).len(), 5, "{name}");
    let body = json!({"record_type": name, "as_of": before, "sort": sort, "limit": 3});
    let then = ada.call("record:query", body).result();
    let numbers: Vec<&Json> = then.as_array().unwrap().iter().map(|it| &it["n"]).collect();
    assert_eq!(numbers, [6, 5, 4], "{name}: {then}");
    // It is referred to.
    let gone = ada.call("record:delete", json!({"ids": [id(1)]}));
    assert!(gone.json()["result"][0]["code"].is_number(), "{name}");
}

/// Saves and reads records with all fields of [`NAMES`].
fn use_fields(ada: &Client, master: &Client) {
    let record = |key: u32, ending: &str| {
        let mut record = all_fields(ending);
        record.insert("_id".into(), json!(format!("odd/{key}")));
        record.insert("num".into(), json!(key));
        Json::Object(record)
    };
    save(ada, json!([record(1, "c"), record(2, "b"), record(3, "a")]));
    let temporal = json!({"type": "odd", "temporal": true});
    master.call("schema:temporal", temporal).result();
    let last = json!({"record": "odd/3", "limit": 1});
    let before = master.call("log:read", last).result()[0]["position"].clone();
    save(ada, json!([record(1, "x"), record(2, "y"), record(3, "z")]));
    for name in NAMES {
        let path = json!({"$type": "keypath", "$val": name});
        let keys = |found: &Json| -> Vec<Json> {
            let found = found.as_array().unwrap().iter();
            found.map(|it| it["num"].clone()).collect()
        };
        for (as_of, wanted) in [(Json::Null, [3, 2, 1]), (before.clone(), [1, 2, 3])] {
            let sort = json!([[path, "desc"]]);
            let predicate = json!(["like", path, format!("{name} %")]);
            let mut body = json!({"record_type": "odd", "sort": sort, "predicate": predicate});
            if as_of != Json::Null {
                body["as_of"] = as_of.clone();
            }
            for limit in [json!(3), Json::Null] {
                if limit != Json::Null {
                    body["limit"] = limit;
                }
                let found = ada.call("record:query", body.clone()).result();
                assert_eq!(keys(&found), wanted, "{name} as of {as_of}: {found}");
            }
        }
    }
}

/// Uses all names, as types and as fields.
pub fn use_all(server: &TestServer) {
    let (ada, master) = (Client::signed_up(server, "ada"), Client::master(server));
    use_fields(&ada, &master);
    for name in NAMES {
        use_type(&ada, &master, name);
    }
    // Their columns have types of the database that types above are named after.
    let place = json!({"$type": "geo", "$lng": 1.5, "$lat": 2.5});
    ada.save("place/1", json!({"where": place}));
    assert_eq!(ada.query("place", json!(null))[0]["where"], place);
}

#[test]
fn types_and_fields_can_have_the_names_of_our_own_sql() {
    let mut server = TestServer::start();
    use_all(&server);
    assert!(server.terminate().success());
    let verified = server.skytrail(&["rebuild", "--verify"]);
    assert!(verified.status.success(), "{verified:?}");
}
