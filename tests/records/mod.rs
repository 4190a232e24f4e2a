//! Records from outside: they persist, and are shown only to those who may see them.

mod conditional;
mod hidden;
pub mod names;
mod turns;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::{MASTER_KEY, TestServer};

#[test]
fn what_was_acknowledged_survives_a_stop_and_a_kill() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "before the stop"}));
    let status = server.terminate();
    assert!(status.success(), "{status}: {}", server.output());

    server.restart();
    let ada = ada.at(&server);
    ada.save("note/2", json!({"text": "before the kill"}));
    server.kill();

    server.restart();
    let ada = ada.at(&server);
    let texts: Vec<_> = ada
        .query("note", json!(null))
        .iter()
        .map(|note| note["text"].clone())
        .collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    let changed = ada.save("note/1", json!({"text": "after both"}));
    assert_eq!(changed["_ownerID"].as_str(), ada.user.as_deref());
}

#[test]
fn a_date_that_could_not_be_written_again_is_refused() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let save = |id: &str, date: &str| {
        let record = json!({"_id": id, "at": {"$type": "date", "$date": date}});
        let body = json!({"database_id": "_public", "records": [record]});
        ada.call("record:save", body).result()[0].clone()
    };
    for date in ["9999-12-31T23:59:59-01:00", "0000-01-01T00:59:59+01:00"] {
        let refused = save("note/1", date);
        assert_eq!(refused["_type"], "error", "{refused}");
        assert!(
            refused["message"].as_str().unwrap().contains(date),
            "{refused}"
        );
    }
    for date in ["9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z"] {
        save("note/1", date);
        assert_eq!(ada.query("note", json!(null))[0]["at"]["$date"], date);
    }
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = TestServer::start();
    let second = Command::new(env!("CARGO_BIN_EXE_skytrail"))
        .arg("serve")
        .env("HOST", "127.0.0.1:0")
        .env("DATA_DIR", server.data_dir())
        .env("MASTER_KEY", MASTER_KEY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success(), "{said}");
    assert!(!said.contains(MASTER_KEY), "{said}");
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "the first one serves on"}));
}

#[test]
fn only_those_whom_the_access_list_names_see_a_record() {
    let server = TestServer::start();
    let [ada, ben, eve] = ["ada", "ben", "eve"].map(|name| Client::signed_up(&server, name));
    let access = json!([{"user_id": ben.user, "level": "read"}]);
    ada.save("note/1", json!({"text": "for ben", "_access": access}));
    let seen_by = |client: &Client| client.query("note", json!(null)).len();
    assert_eq!([&ada, &ben, &eve].map(seen_by), [1, 1, 0]);
    assert_eq!(seen_by(&Client::anonymous(&server)), 0);
    assert_eq!(seen_by(&Client::master(&server)), 1);

    let body = json!({"records": [{"_id": "note/1", "text": "changed"}]});
    let refused = ben.call("record:save", body).result();
    assert_eq!(refused[0]["code"], 102, "{refused}");
}

#[test]
fn a_new_sequence_field_numbers_the_records_that_are_there_and_new_ones_behind_them() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    for id in ["note/1", "note/2"] {
        ada.save(id, json!({"text": "there already"}));
    }
    let third = ada.save("note/3", json!({"number": {"$type": "seq"}}));
    assert_eq!(third["number"], 3);
    let fetched = ada.call("record:fetch", json!({"ids": ["note/1", "note/2"]}));
    let fetched = fetched.result();
    assert_eq!([&fetched[0]["number"], &fetched[1]["number"]], [1, 2]);
    let first = ada.save("note/1", json!({"text": "keeps its number"}));
    assert_eq!(first["number"], 1);
    server.kill();
    server.restart();
    let fourth = ada.at(&server).save("note/4", json!({}));
    assert_eq!(fourth["number"], 4);
}

#[test]
fn all_sequence_fields_of_a_save_get_their_numbers() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let field = |name: &str| json!({"name": name, "type": "sequence"});
    let fields = ["a", "b", "c"].map(field);
    let types = json!({"record_types": {"bill": {"fields": fields}}});
    assert_eq!(master.call("schema:create", types).code(), 0);
    let records = json!({"records": [
        {"_id": "bill/1"},
        {"_id": "bill/2", "b": 40},
        {"_id": "bill/3"},
        {"_id": "bill/1", "c": 7},
        {"_id": "bill/4", "text": "kept"},
    ]});
    let saved = ada.call("record:save", records).result();
    let numbers = |at: usize| ["a", "b", "c"].map(|field| saved[at][field].clone());
    // Both copies of a new record are numbered, and both answers are the record after the last one.
    assert_eq!(numbers(0), [4, 42, 7], "{saved}");
    assert_eq!(numbers(1), [2, 40, 2], "{saved}");
    assert_eq!(numbers(2), [3, 41, 3], "{saved}");
    assert_eq!(saved[3], saved[0]);
    assert_eq!(numbers(4), [5, 43, 8], "{saved}");
    assert_eq!(saved[4]["text"], "kept");
    let found = ada.call("record:fetch", json!({"ids": ["bill/1", "bill/4"]}));
    let found = found.result();
    assert_eq!([&found[0]["b"], &found[1]["b"]], [42, 43]);
    let refused = json!({"record_types": {"bill": {
        "fields": (0..30).map(|n| field(&format!("f{n}"))).collect::<Vec<_>>(),
    }}});
    let refused = master.call("schema:create", refused);
    assert_eq!(refused.code(), 114);
    assert!(refused.json().to_string().contains("at most 32"));
}

#[test]
fn of_a_record_that_a_save_has_twice_the_last_wins() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1, "text": "kept"}));
    let records = json!({"records": [{"_id": "note/1", "n": 2}, {"_id": "note/1", "n": 1}]});
    let saved = ada.call("record:save", records).result();
    assert_eq!([&saved[0]["n"], &saved[1]["n"]], [1, 1], "{saved}");
    let found = ada.query("note", json!(null));
    assert_eq!(
        [&found[0]["n"], &found[0]["text"]],
        [&json!(1), &json!("kept")]
    );
}

/// Each copy sets other fields; none of them is lost.
#[test]
fn a_record_that_a_save_has_twice_gets_what_either_says() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let save = |records: Json| {
        let saved = ada.call("record:save", json!({"records": records, "atomic": true}));
        saved.result()
    };
    ada.save("note/1", json!({"t": "x0", "u": "y0", "n": 1}));
    let id = |mut fields: Json| {
        fields["_id"] = json!("note/1");
        fields
    };
    for (first, second, expected) in [
        (json!({"t": "x1"}), json!({"u": "y1"}), ["x1", "y1"]),
        (json!({"u": "y2"}), json!({"t": "x1"}), ["x1", "y2"]),
        (json!({"t": null}), json!({"u": "y3"}), ["", "y3"]),
        (json!({"t": "x4"}), json!({"n": 4}), ["x4", "y3"]),
        (
            json!({"t": "x5", "u": "y5"}),
            json!({"u": "y3"}),
            ["x5", "y3"],
        ),
    ] {
        let saved = save(json!([id(first), id(second)]));
        assert_eq!(saved[0], saved[1]);
        let found = ada.query("note", json!(null)).remove(0);
        for (field, expected) in ["t", "u"].iter().zip(expected) {
            assert_eq!(
                found[field].as_str().unwrap_or_default(),
                expected,
                "{found}"
            );
        }
    }
    // The same for a new record.
    save(json!([{"_id": "note/2", "t": "x"}, {"_id": "note/2", "u": "y"}]));
    let ids = json!({"ids": ["note/2"]});
    let found = ada.call("record:fetch", ids).result()[0].take();
    assert_eq!([&found["t"], &found["u"]], ["x", "y"]);
}

/// Values that are unique together may each come from a different copy.
#[test]
fn what_copies_of_a_user_say_together_is_unique() {
    let server = TestServer::with(&[("AUTH_RECORD_KEYS", "(username,nick)")]);
    let master = Client::master(&server);
    let sign_up = |name: &str, nick: &str| {
        let body = json!({
            "auth_data": {"username": name, "nick": nick},
            "password": "secret-of-the-test",
        });
        Client::anonymous(&server)
            .call("auth:signup", body)
            .result()["user_id"]
            .clone()
    };
    let ada = sign_up("ada", "a");
    sign_up("bob", "b");
    let id = format!("user/{}", ada.as_str().unwrap());
    let records = json!([{"_id": id, "username": "bob"}, {"_id": id, "nick": "b"}]);
    let saved = master
        .call("record:save", json!({"records": records}))
        .result();
    assert_eq!(
        [&saved[0]["code"], &saved[1]["code"]],
        [109, 109],
        "{saved}"
    );
}

#[test]
fn a_value_that_a_save_gives_up_is_free_behind_it() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let number = json!({"fields": [{"name": "n", "type": "sequence"}]});
    let types = json!({"record_types": {"bill": number}});
    assert_eq!(master.call("schema:create", types).code(), 0);
    let save = |records: Json| {
        ada.call("record:save", json!({"records": records}))
            .result()
    };
    save(json!([{"_id": "bill/a"}, {"_id": "bill/b"}]));
    // The last record would get the value that `a` gave up and then took again.
    let saved = save(json!([
        {"_id": "bill/a", "n": 9},
        {"_id": "bill/b", "n": 1},
        {"_id": "bill/a", "n": 1},
        {"_id": "bill/c", "n": 2},
    ]));
    assert_eq!(saved[1]["n"], 1, "{saved}");
    assert_eq!(saved[2]["code"], 109, "{saved}");
    assert_eq!(saved[3]["n"], 2, "{saved}");
    let mut numbers: Vec<_> = ada
        .query("bill", json!(null))
        .iter()
        .map(|bill| bill["n"].clone())
        .collect();
    numbers.sort_by_key(Json::as_i64);
    assert_eq!(numbers, [1, 2, 9]);
}

#[test]
fn numbers_that_are_given_and_numbers_that_are_asked_for_are_never_the_same() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let first = ada.save("bill/first", json!({"n": {"$type": "seq"}}));
    assert_eq!(first["n"], 1);
    let records = json!({"records": [{"_id": "bill/a"}, {"_id": "bill/b", "n": 2}]});
    let saved = ada.call("record:save", records).result();
    assert_eq!([&saved[0]["n"], &saved[1]["n"]], [3, 2], "{saved}");

    // Numbers close to those that are assigned meanwhile.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ada = &ada;
            scope.spawn(move || {
                for number in 0..30 {
                    let id = format!("bill/{thread}-{number}");
                    let record = match thread % 2 {
                        0 => json!({"_id": id}),
                        _ => json!({"_id": id, "n": 4 + 2 * number + thread}),
                    };
                    let saved = ada
                        .call("record:save", json!({"records": [record]}))
                        .result();
                    let code = &saved[0]["code"];
                    assert!(code.is_null() || code == 109, "{saved}");
                }
            });
        }
    });
    let query = json!({"record_type": "bill", "limit": 200});
    let found = ada.call("record:query", query).result();
    let found = found.as_array().unwrap();
    let numbers: BTreeSet<_> = found.iter().map(|bill| bill["n"].as_i64()).collect();
    assert_eq!(numbers.len(), found.len());
    assert!(
        found.len() >= 3 + 60,
        "those that asked for nothing are there"
    );
}

/// Overwrites the pages of the record store from `first` on.
fn damage_store(server: &TestServer, first: usize) {
    const PAGE: usize = 4096;
    let path = server.data_dir().join("records.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > (first + 2) * PAGE, "{} bytes", bytes.len());
    bytes[first * PAGE..].fill(0);
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_record_store_that_does_not_open_any_more_is_made_anew() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert!(server.terminate().success());
    damage_store(&server, 1);
    server.restart();
    let notes = ada.at(&server).query("note", json!(null));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(server.data_dir().join("records.damaged-1").exists());
}

#[test]
fn damage_that_a_query_meets_is_told_and_the_store_made_anew() {
    let mut server = TestServer::with(&[("STORE_CHECK_PERIOD", "0")]);
    let ada = Client::signed_up(&server, "ada");
    for number in 0..300 {
        ada.save(
            &format!("note/{number}"),
            json!({"text": "kept ".repeat(20)}),
        );
    }
    assert!(server.terminate().success());
    server.restart();
    // The server reads the store itself when it starts, and would find the damage too early.
    for read in [
        "the keys of all records are known",
        "devices without an address are deleted",
    ] {
        eventually(read, || server.output().contains(read).then_some(()));
    }
    damage_store(&server, 40);
    let query = json!({"record_type": "note"});
    let answer = ada.at(&server).call("record:query", query.clone());
    assert_eq!(answer.code(), 10000, "{}", answer.status);
    server.await_start(2);
    let answer = ada.at(&server).call("record:query", query);
    assert_eq!(answer.result().as_array().unwrap().len(), 300);
}

/// As docs/API.md documents mistakes.
#[test]
fn mistakes_in_queries_and_references_have_the_codes_that_are_documented() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1, "text": "a"}));
    let field = |name: &str| json!({"$type": "keypath", "$val": name});
    for (name, value) in [
        ("predicate", json!(["in", field("text"), "a"])),
        ("predicate", json!(["eq", field("n"), "x"])),
        ("sort", json!([[field("nope"), "asc"]])),
        ("limit", json!(-1)),
    ] {
        let answer = ada.call("record:query", json!({"record_type": "note", name: value}));
        assert_eq!((answer.status, answer.code()), (500, 10000), "{answer:?}");
    }
    let reference = json!({"$type": "ref", "$id": "note/none"});
    ada.save("link/1", json!({"to": {"$type": "ref", "$id": "note/1"}}));
    let body = json!({"records": [{"_id": "link/2", "to": reference}]});
    let item = ada.call("record:save", body).result()[0].clone();
    assert_eq!(item["code"], 10000, "{item}");
    let records = json!([{"_id": "note/2", "n": 2}, {"_id": "note/3", "n": "three"}]);
    let answer = ada.call("record:save", json!({"records": records}));
    assert_eq!((answer.status, answer.code()), (409, 114), "{answer:?}");
    assert_eq!(ada.query("note", json!(null)).len(), 1);
}

/// Records are deleted in the given order. A record that another refers to stays, and so does what
/// it refers to.
#[test]
fn records_that_refer_to_each_other_are_deleted_in_their_order() {
    let database = shared().database(&[]);
    let url = database.url();
    for url in ["", url.as_str()] {
        let server = TestServer::with(&[("DATABASE_URL", url)]);
        let ada = Client::signed_up(&server, "ada");
        let to = |id: &str| json!({"$type": "ref", "$id": id});
        let delete = |ids: &[&str]| -> Vec<i64> {
            let deleted = ada.call("record:delete", json!({"ids": ids})).result();
            let code = |it: &Json| it["code"].as_i64().unwrap_or_default();
            deleted.as_array().unwrap().iter().map(code).collect()
        };
        // d → c → b → a, and e → a.
        ada.save("note/a", json!({"n": 1}));
        for (id, target) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "a")] {
            let target = to(&format!("note/{target}"));
            ada.save(
                &format!("note/{id}"),
                json!({"to": target, "other": target}),
            );
        }
        assert_eq!(
            delete(&["note/b", "note/c", "note/b", "note/d"]),
            [113, 113, 113, 0]
        );
        // A record that is refused for another reason keeps what it refers to.
        let list = json!([{"public": true, "level": "read"}]);
        let item = json!({"_id": "page/1", "to": to("note/c"), "_access": list});
        let theirs = Client::signed_up(&server, "eve");
        let saved = theirs
            .call("record:save", json!({"records": [item]}))
            .result();
        assert_eq!(saved[0]["_type"], "record", "{saved}");
        assert_eq!(
            delete(&["page/1", "note/c", "note/b", "note/a"]),
            [102, 113, 113, 113]
        );
        let gone = theirs.call("record:delete", json!({"ids": ["page/1"]}));
        assert_eq!(gone.result()[0]["_type"], "record");
        let ids = ["note/c", "note/c", "note/b", "note/a", "note/e", "note/a"];
        assert_eq!(delete(&ids), [0, 0, 0, 113, 0, 0]);

        // Records that refer to themselves or to each other.
        ada.save("note/x", json!({"n": 1}));
        ada.save("note/x", json!({"to": to("note/x")}));
        assert_eq!(delete(&["note/x"]), [0]);
        ada.save("note/x", json!({"n": 1}));
        ada.save("note/y", json!({"to": to("note/x")}));
        ada.save("note/x", json!({"to": to("note/y")}));
        assert_eq!(delete(&["note/x", "note/y"]), [113, 113]);
    }
}

/// Names of types that do not exist must not use up memory.
#[test]
fn types_that_there_are_not_leave_no_actors() {
    let server = TestServer::with(&[("DEV_MODE", "NO")]);
    let ada = Client::signed_up(&server, "ada");
    for number in 0..200 {
        let body = json!({"records": [{"_id": format!("t{number}/a"), "n": 1}]});
        assert_eq!(ada.call("record:save", body).code(), 114);
        let body = json!({"ids": [format!("d{number}/a")]});
        let refused = ada.call("record:delete", body).result();
        assert_eq!(refused[0]["code"], 110, "{refused}");
    }
    let shown = crate::support::client::send(
        "GET",
        &format!("{}/_/metrics", server.base_url),
        &[("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())],
        None,
    );
    let text = String::from_utf8(shown.unwrap().bytes).unwrap();
    let mut lines = text.lines();
    let actors = lines.find_map(|line| line.strip_prefix("skytrail_record_actors "));
    let actors: f64 = actors.unwrap().parse().unwrap();
    assert!(actors < 100.0, "{actors}");
}
