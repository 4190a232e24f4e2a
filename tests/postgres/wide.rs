//! Records and types that do not fit into a table.

use serde_json::{Value as Json, json};

use super::values::assert_no_faults;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

/// Returns this many fields, each with a value of its own.
fn many(number: usize, value: impl Fn(usize) -> Json) -> Json {
    (0..number).map(|n| (format!("f{n}"), value(n))).collect()
}

/// Saves a record; returns the error's code and message, or 0.
fn try_save(client: &Client, id: &str, mut fields: Json) -> (i64, String) {
    fields["_id"] = id.into();
    let saved = client.call("record:save", json!({"records": [fields]}));
    let saved = saved.result();
    let message = saved[0]["message"].as_str().unwrap_or_default();
    (
        saved[0]["code"].as_i64().unwrap_or_default(),
        message.to_owned(),
    )
}

#[test]
fn a_record_that_no_row_takes_is_refused_and_not_lost() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("measure/1", json!({"f1": 1}));
    ada.save("page/1", json!({"f1": "short"}));
    let (code, said) = try_save(&ada, "measure/1", many(1100, |n| json!(n)));
    assert_eq!(code, 108, "{said}");
    assert!(said.contains("about 900 numbers"), "{said}");
    let text = |n: usize| json!(format!("{n:x>36}"));
    let (code, said) = try_save(&ada, "page/1", many(500, text));
    assert_eq!(code, 108, "{said}");

    assert_eq!(try_save(&ada, "measure/2", many(900, |n| json!(n))).0, 0);
    assert_eq!(try_save(&ada, "page/2", many(300, text)).0, 0);
    for kind in ["measure", "page"] {
        // New columns by the hundred can take the store longer than a query waits.
        let found = eventually("the store has all records", || {
            let found = ada.call("record:query", json!({"record_type": kind}));
            (found.status == 200).then(|| found.result())
        });
        assert_eq!(found.as_array().unwrap().len(), 2);
    }
    assert!(server.terminate().success());
    server.restart();
    let ids = ["measure/1", "measure/2", "page/1", "page/2"];
    let found = ada.at(&server).call("record:fetch", json!({"ids": ids}));
    let found = found.result();
    let found = found.as_array().unwrap().iter();
    let found: Vec<_> = found.map(|record| record["_id"].clone()).collect();
    assert_eq!(found, ids);
    assert_no_faults(&database);
}

#[test]
fn a_type_may_have_as_many_fields_as_it_is_said() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let fields = |number: usize| -> Json {
        let fields = (0..number).map(|n| json!({"name": format!("f{n}"), "type": "number"}));
        json!({"record_types": {"wide": {"fields": fields.collect::<Vec<_>>()}}})
    };
    assert_eq!(master.call("schema:create", fields(1501)).code(), 114);
    assert_eq!(master.call("schema:create", fields(1500)).code(), 0);
    let records: Vec<_> = (0..100)
        .map(|n| json!({"_id": format!("wide/{n}"), "f7": n, "f1499": n}))
        .collect();
    let saved = ada.call("record:save", json!({"records": records}));
    assert!(saved.result()[99].get("code").is_none(), "{}", saved.json());
    ada.save("wide/7", json!({"f1": 1}));
    assert_eq!(ada.query("wide", json!(null)).len(), 100);
    let found = database.sql("SELECT count(*) FROM app_myapp.wide");
    assert_eq!(found, "100\n");
    assert_no_faults(&database);
}

#[test]
fn the_longest_key_with_the_longest_owner_is_stored() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    // None of it can be compressed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |length: usize| -> String {
        let letters = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + u8::try_from(state % 90).unwrap())
        });
        letters.map(|it| if it == '/' { '~' } else { it }).collect()
    };
    let user = random(1000);
    let body = json!({"users": [{"id": user, "auth_data": {"username": "ada"}}]});
    assert_eq!(master.call("auth:import", body).status, 200);
    let mut save = |length: usize| {
        let id = format!("note/{}", random(length));
        let body = json!({"database_id": "_private", "_user_id": user,
            "records": [{"_id": id, "n": 1}]});
        let saved = master.call("record:save", body).result();
        saved[0]["code"].as_i64()
    };
    assert_eq!(save(600), None);
    assert_eq!(save(601), Some(108));
    let body = json!({"record_type": "note", "database_id": "_private", "_user_id": user});
    let found = master.call("record:query", body).result();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_no_faults(&database);
}
