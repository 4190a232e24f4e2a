//! Fields whose values are declared unique, in both stores.

use std::sync::Barrier;

use serde_json::{Value as Json, json};

use super::{delete, rename};
use crate::support::client::{Answer, Client};
use crate::support::postgres::shared;
use crate::support::server::TestServer;

fn declare(client: &Client, fields: &[&str]) -> Answer {
    client.call("schema:unique", json!({"type": "note", "fields": fields}))
}

fn sets(client: &Client) -> Json {
    let settings = client.call("schema:settings", json!({})).result();
    settings["record_types"]["note"]["unique"].clone()
}

/// Saves one record; returns the error, or null.
fn refusal(client: &Client, id: &str, fields: Json) -> Json {
    let mut record = fields;
    record["_id"] = id.into();
    let saved = client.call("record:save", json!({"records": [record]}));
    let saved = saved.result()[0].clone();
    if saved["_type"] == "error" {
        saved
    } else {
        Json::Null
    }
}

/// Runs a test with the records in a file and in PostgreSQL.
fn in_both_stores(test: impl Fn(TestServer, Option<&str>)) {
    test(TestServer::start(), None);
    let database = shared().database(&[]);
    let url = database.url();
    test(TestServer::with(&[("DATABASE_URL", &url)]), Some(&url));
}

/// Compares the store with one built from the log, row by row.
fn assert_store_equals_log(server: &TestServer, url: Option<&str>) {
    let url = url.map(|url| format!("DATABASE_URL={url}"));
    let mut arguments = vec!["rebuild", "--verify"];
    arguments.extend(url.iter().flat_map(|url| ["--set", url]));
    let verified = server.skytrail(&arguments);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn no_two_records_have_the_same_values_in_unique_fields() {
    in_both_stores(|mut server, url| {
        let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
        ada.save("note/1", json!({"slug": "one", "room": "a", "place": 1}));
        ada.save("note/2", json!({"slug": "two", "room": "a", "place": 2}));
        ada.save("note/3", json!({"slug": null}));
        let done = declare(&master, &["slug"]).result();
        assert_eq!(done, json!({"type": "note", "unique": [["slug"]]}));
        declare(&master, &["room", "place"]).result();
        // They are unique already.
        declare(&master, &["place", "room"]).result();
        let declared = json!([["slug"], ["room", "place"]]);
        assert_eq!(sets(&master), declared);

        let check = |ada: &Client| {
            let refused = refusal(ada, "note/4", json!({"slug": "one"}));
            assert_eq!(refused["code"], 109, "{refused}");
            assert_eq!(refused["info"]["arguments"], json!(["slug"]), "{refused}");
            let refused = refusal(ada, "note/2", json!({"place": 1.0}));
            let arguments = json!(["room", "place"]);
            assert_eq!(refused["info"]["arguments"], arguments, "{refused}");
            // A missing value equals no other, nor does another room's place.
            for fields in [json!({"slug": null}), json!({"room": "b", "place": 1})] {
                assert_eq!(refusal(ada, "note/4", fields), Json::Null);
            }
            ada.call("record:delete", json!({"ids": ["note/4"]}));
        };
        check(&ada);
        server.kill();
        server.restart();
        let (ada, master) = (ada.at(&server), master.at(&server));
        check(&ada);
        assert_eq!(ada.query("note", json!(null)).len(), 3);
        assert_store_equals_log(&server, url);

        // What a record gives up is free, also under the field's new name.
        assert_eq!(rename(&master, "slug", "name"), 0);
        assert_eq!(sets(&master), json!([["name"], ["room", "place"]]));
        assert_eq!(refusal(&ada, "note/3", json!({"name": "one"}))["code"], 109);
        ada.save("note/1", json!({"name": "other"}));
        ada.save("note/3", json!({"name": "one"}));

        let body = json!({"type": "note", "fields": ["name"], "unique": false});
        let left = master.call("schema:unique", body).result();
        assert_eq!(left["unique"], json!([["room", "place"]]));
        ada.save("note/1", json!({"name": "one"}));
        assert_eq!(delete(&master, "place"), 0);
        assert_eq!(sets(&master), json!([]));
    });
}

#[test]
fn every_kind_of_value_that_can_be_unique_is_compared_as_a_value() {
    let time = |text: &str| json!({"$type": "date", "$date": text});
    let same = [
        ("text", json!("É"), json!("\u{c9}")),
        ("number", json!(1.5), json!(15e-1)),
        ("flag", json!(true), json!(true)),
        (
            "at",
            time("2026-01-01T12:00:00.5Z"),
            time("2026-01-01T13:00:00.500+01:00"),
        ),
        (
            "other",
            json!({"$type": "ref", "$id": "note/1"}),
            json!({"$type": "ref", "$id": "note/1"}),
        ),
    ];
    in_both_stores(|server, _| {
        let master = Client::master(&server);
        master.save(
            "note/1",
            json!({"extra": {"a": 1}, "place": {"$type": "geo", "$lng": 1, "$lat": 2}}),
        );
        let first = same
            .iter()
            .map(|(field, one, _)| ((*field).to_owned(), one.clone()));
        master.save("note/2", first.collect());
        for (field, _, other) in &same {
            let mut record = json!({});
            record[*field] = other.clone();
            master.save("note/3", record.clone());
            let refused = declare(&master, &[field]);
            assert_eq!(refused.code(), 109, "{field}");
            record[*field] = Json::Null;
            master.save("note/3", record.clone());
            declare(&master, &[field]).result();
            record[*field] = other.clone();
            let refused = refusal(&master, "note/3", record);
            assert_eq!(refused["code"], 109, "{field}: {refused}");
        }
        for field in ["extra", "place"] {
            let refused = declare(&master, &[field]);
            assert_eq!(refused.code(), 108, "{field}");
            assert!(
                refused.json()["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains(field)
            );
        }
        assert_eq!(declare(&master, &["nothing"]).code(), 110);
        assert_eq!(declare(&master, &[]).code(), 108);
        let of_users = json!({"type": "user", "fields": ["username"]});
        assert_eq!(master.call("schema:unique", of_users).code(), 108);
    });
}

#[test]
fn fields_with_equal_values_are_not_declared() {
    in_both_stores(|server, _| {
        let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
        ada.save("note/1", json!({"slug": "same", "n": 1}));
        ada.save("note/2", json!({"slug": "same", "n": 2}));
        let refused = declare(&master, &["slug"]).json();
        let error = json!({
            "name": "Duplicated",
            "code": 109,
            "message": "note/1 and note/2 have the same slug",
            "info": {"arguments": ["slug"]},
        });
        assert_eq!(refused["error"], error);
        assert_eq!(sets(&master), json!([]));
        ada.save("note/3", json!({"slug": "same"}));
        // Together with another field they differ.
        declare(&master, &["slug", "n"]).result();
    });
}

#[test]
fn who_may_not_see_records_does_not_learn_their_ids() {
    let server = TestServer::with(&[("DEV_MODE", "YES")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"slug": "same"}));
    ada.save("note/2", json!({"slug": "same"}));
    let refused = declare(&Client::anonymous(&server), &["slug"]).json();
    assert_eq!(
        refused["error"]["message"],
        "two records have the same slug"
    );
}

#[test]
fn a_declaration_holds_for_saves_that_run_at_the_same_time() {
    const SAVERS: usize = 4;
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/first", json!({"slug": "first"}));
    for round in 0..30 {
        let start = Barrier::new(SAVERS + 1);
        let is_declared = std::thread::scope(|scope| {
            for saver in 0..SAVERS {
                let (ada, start) = (&ada, &start);
                scope.spawn(move || {
                    start.wait();
                    for turn in 0..4 {
                        let fields = json!({"slug": format!("{round}.{turn}")});
                        refusal(ada, &format!("note/{round}.{saver}.{turn}"), fields);
                    }
                });
            }
            start.wait();
            declare(&master, &["slug"]).code() == 0
        });
        let records = master.call(
            "record:query",
            json!({"record_type": "note", "limit": 1000}),
        );
        let records = records.result();
        let slugs = records.as_array().unwrap().iter();
        let mut slugs: Vec<&str> = slugs.map(|it| it["slug"].as_str().unwrap()).collect();
        let num_records = slugs.len();
        slugs.sort_unstable();
        slugs.dedup();
        let declared = if is_declared {
            json!([["slug"]])
        } else {
            json!([])
        };
        assert_eq!(sets(&master), declared, "round {round}");
        assert!(
            !is_declared || slugs.len() == num_records,
            "round {round}: {slugs:?}"
        );
        let body = json!({"type": "note", "fields": ["slug"], "unique": false});
        master.call("schema:unique", body).result();
        let ids = records
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["_id"].clone());
        let ids: Vec<Json> = ids.filter(|id| id != "note/first").collect();
        master.call("record:delete", json!({"ids": ids})).result();
    }
}

#[test]
fn what_is_unique_stays_so_when_it_is_declared_again_and_the_store_does_not_answer() {
    let database = shared().database(&[]);
    let url = database.url();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_STATEMENT_TIMEOUT", "2"),
    ];
    let server = TestServer::with(&settings);
    let master = Client::master(&server);
    master.save("note/1", json!({"slug": "one"}));
    declare(&master, &["slug"]).result();
    let lock = "SET search_path TO app_myapp; BEGIN; LOCK TABLE note";
    let lock = database.session(lock);
    let refused = declare(&master, &["slug"]);
    assert_eq!(refused.status, 503, "{}", refused.json());
    drop(lock);
    assert_eq!(sets(&master), json!([["slug"]]));
    let refused = refusal(&master, "note/2", json!({"slug": "one"}));
    assert_eq!(refused["code"], 109, "{refused}");
}
