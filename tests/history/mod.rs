//! What records were: versions, the past, and restoring it.

mod as_of;
mod field_rights;
mod numbers;
mod one_hash;
mod random;
mod readers;
mod rights;

use std::process::Command;

use serde_json::{Value as Json, json};
use skytrail_schema::time::Timestamp;

use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::server::TestServer;

fn list(client: &Client, record: &str, more: Json) -> Json {
    let mut body = json!({"record": record});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    client.call("history:list", body).result()
}

fn versions(client: &Client, record: &str) -> Vec<Json> {
    let listed = list(client, record, json!({"limit": 1000}));
    assert_eq!(listed["next"], Json::Null);
    listed["versions"].as_array().unwrap().clone()
}

fn kinds(versions: &[Json]) -> Vec<&str> {
    let kind = |version: &'_ Json| version["kind"].as_str().unwrap().to_owned();
    let known = ["record.created", "record.changed", "record.deleted"];
    versions
        .iter()
        .map(|version| *known.iter().find(|it| **it == kind(version)).unwrap())
        .collect()
}

/// Parses a time: as strings, times do not sort, because trailing zeros are cut.
fn time(text: &Json) -> Timestamp {
    Timestamp::parse(text.as_str().unwrap()).unwrap()
}

fn delete(client: &Client, record: &str) {
    let deleted = client.call("record:delete", json!({"ids": [record]}));
    assert_eq!(deleted.result()[0]["_type"], "record");
}

fn restore(client: &Client, record: &str, as_of: &Json) -> Json {
    let body = json!({"record": record, "as_of": as_of});
    client.call("history:restore", body).result()
}

fn fetch(client: &Client, record: &str, as_of: &Json) -> Json {
    let body = json!({"ids": [record], "as_of": as_of});
    client.call("record:fetch", body).result()[0].clone()
}

#[test]
fn every_version_says_who_made_it_when_and_what_it_changed() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let point = json!({"hook": [crate::plugin::hook("note", "beforeSave")]});
    let worker = Worker::ready(&server, &json!({}), &point);
    let _serving = worker.serve(|worker, message| {
        if message["kind"] == "hook" {
            worker.answer_record(message, &json!({"words": 1}));
        } else if message["type"] == "request" {
            worker.answer(message, &Json::Null);
        }
    });
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"title": "one", "done": false}));
    let saved = ada.call(
        "record:save",
        json!({"records": [{"_id": "note/1", "title": "two", "done": null}]}),
    );
    let request = saved.header("X-Skygear-Request-Id").unwrap().to_owned();
    let saved = saved.result()[0].clone();
    delete(&ada, "note/1");

    let versions = versions(&master, "note/1");
    let user = ada.user.clone().unwrap();
    assert_eq!(
        kinds(&versions),
        ["record.deleted", "record.changed", "record.created"]
    );
    for version in &versions {
        assert_eq!(version["actor"]["user"], user, "{version}");
        assert_eq!(version["actor"]["key"], "client");
        assert_eq!(version["actor"]["origin"], "api");
    }
    let [deleted, changed, created] = &versions[..] else {
        panic!("{versions:?}")
    };
    assert_eq!(
        created["changes"],
        json!({
            "title": {"after": "one"}, "done": {"after": false}, "words": {"after": 1},
            "_ownerID": {"after": user},
        })
    );
    let hook = json!([{"plugin": "TEST", "hook": "note_beforeSave", "changed": ["words"]}]);
    assert_eq!(created["hooks"], hook);
    assert_eq!(
        changed["changes"],
        json!({"title": {"before": "one", "after": "two"}, "done": {"before": false}})
    );
    assert_eq!(changed["request_id"], request);
    assert_eq!(changed["record"], saved);
    let times = [created, changed, deleted].map(|version| time(&version["time"]));
    assert!(times.is_sorted() && times[1] >= time(&saved["_updated_at"]));
    assert_eq!(deleted["record"], Json::Null);
    assert_eq!(deleted["changes"]["title"], json!({"before": "two"}));
}

#[test]
fn versions_come_in_pages_and_are_found_by_user_kind_and_moment() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    for n in 0..70 {
        let who = if n % 7 == 3 { &bob } else { &ada };
        who.save("note/1", json!({"n": n}));
        ada.save("note/other", json!({"n": n}));
    }
    let all = versions(&master, "note/1");
    assert_eq!(all.len(), 70);
    let numbers: Vec<i64> = all
        .iter()
        .map(|it| it["record"]["n"].as_i64().unwrap())
        .collect();
    assert!(numbers.iter().rev().copied().eq(0..70), "{numbers:?}");

    let (mut paged, mut until) = (Vec::new(), Json::Null);
    loop {
        let page = list(&master, "note/1", json!({"limit": 9, "until": until}));
        paged.extend(page["versions"].as_array().unwrap().iter().cloned());
        until = page["next"].clone();
        if until.is_null() {
            break;
        }
    }
    assert_eq!(paged, all);

    let by_bob = list(&master, "note/1", json!({"user": bob.user}));
    let by_bob = by_bob["versions"].as_array().unwrap().clone();
    let numbers: Vec<i64> = by_bob
        .iter()
        .map(|it| it["record"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [66, 59, 52, 45, 38, 31, 24, 17, 10, 3]);
    assert_eq!(
        by_bob[0]["changes"],
        json!({"n": {"before": 65, "after": 66}})
    );
    let created = list(&master, "note/1", json!({"kinds": ["record.created"]}));
    assert_eq!(created["versions"], json!([all[69]]));

    // Numbers fall along the list: 60 to 51 are at 9 to 18.
    let range = json!({"until": all[9]["position"], "after": all[19]["position"]});
    assert_eq!(
        list(&master, "note/1", range)["versions"],
        json!(all[9..19])
    );
    let times = json!({"until": all[9]["time"], "after": all[19]["time"], "limit": 1000});
    for version in list(&master, "note/1", times)["versions"]
        .as_array()
        .unwrap()
    {
        let at = time(&version["time"]);
        assert!(at <= time(&all[9]["time"]) && at > time(&all[19]["time"]));
    }
    let refused = |more: Json, wrong: &str| {
        let mut body = json!({"record": "note/1"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = master.call("history:list", body).json();
        assert_eq!(answer["error"]["code"], 108, "{answer}");
        assert_eq!(
            answer["error"]["info"]["arguments"],
            json!([wrong]),
            "{answer}"
        );
    };
    refused(json!({"limit": 0}), "limit");
    refused(json!({"limit": 1001}), "limit");
    refused(json!({"kinds": ["record.vanished"]}), "kinds");
    refused(json!({"until": "yesterday"}), "until");
    refused(json!({"until": 1_000_000}), "until");
    refused(json!({"record": "note"}), "record");
    let unknown = master.call("history:list", json!({"record": "note/never"}));
    assert_eq!(unknown.code(), 110);
}

#[test]
fn a_record_is_brought_back_with_everything_it_had() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let access = json!([{"level": "read", "public": true}]);
    let was = ada.save(
        "note/1",
        json!({"title": "one", "_access": access, "order": {"$type": "seq"}}),
    );
    ada.save(
        "note/1",
        json!({"title": "two", "more": true, "_access": []}),
    );
    delete(&ada, "note/1");
    let then = versions(&master, "note/1")[2]["position"].clone();

    // An administrator at the command line, who does not become the owner of the record.
    let position = then.to_string();
    let url = format!("http://{}", server.address());
    let said = Command::new(env!("CARGO_BIN_EXE_skytrail"))
        .args([
            "history", "restore", "note/1", "--as-of", &position, "--server", &url,
        ])
        .env_clear()
        .env("MASTER_KEY", crate::support::server::MASTER_KEY)
        .env("DATA_DIR", server.data_dir())
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let back = fetch(&ada, "note/1", &Json::Null);
    for member in [
        "title",
        "_access",
        "order",
        "_ownerID",
        "_created_at",
        "_created_by",
    ] {
        assert_eq!(back[member], was[member], "{member}");
    }
    assert_eq!(back.get("more"), None);

    // Present fields that the record did not have then are removed.
    ada.save("note/1", json!({"title": "three", "more": false}));
    let back = restore(&master, "note/1", &then);
    assert_eq!(
        [&back["title"], &back["order"]],
        [&was["title"], &was["order"]]
    );
    assert_eq!(back.get("more"), None);
    let newest = versions(&master, "note/1");
    assert_eq!(
        newest[0]["changes"]["title"],
        json!({"before": "three", "after": "one"})
    );
    assert_eq!(newest.len(), 6);

    let never = master.call("history:restore", json!({"record": "note/1", "as_of": 1}));
    assert_eq!(never.code(), 110);
}

#[test]
fn a_restore_takes_back_an_access_list() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let open = ada.save("note/1", json!({"title": "for all"}))["_access"].clone();
    let mine = json!([{"user_id": ada.user, "level": "write"}]);
    let closed = ada.save("note/1", json!({"title": "mine", "_access": mine}));
    assert_ne!(closed["_access"], open);
    let all = versions(&master, "note/1");
    let back = restore(&master, "note/1", &all[1]["position"]);
    assert_eq!(
        [&back["_access"], &back["title"]],
        [&open, &json!("for all")]
    );
    let bob = Client::signed_up(&server, "bob");
    assert_eq!(fetch(&bob, "note/1", &Json::Null)["title"], "for all");
    let changes = &versions(&master, "note/1")[0];
    assert_eq!(changes["kind"], "record.replaced", "{changes}");
    assert_eq!(changes["changes"]["_access"], json!({"before": mine}));
}

#[test]
fn a_restore_goes_through_hooks() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let point = json!({"hook": [crate::plugin::hook("note", "beforeSave")]});
    let worker = Worker::ready(&server, &json!({}), &point);
    let _serving = worker.serve(|worker, message| {
        let is_new = message["param"]["original"].is_null();
        if message["param"]["record"]["title"] == "good" && !is_new {
            worker.refuse(message, &json!({"code": 128, "message": "not again"}));
        } else if message["kind"] == "hook" {
            worker.answer_record(message, &json!({"checked": true}));
        } else if message["type"] == "request" {
            worker.answer(message, &Json::Null);
        }
    });
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    for title in ["good", "better", "best"] {
        ada.save("note/1", json!({"title": title}));
    }
    let all = versions(&master, "note/1");
    let body = json!({"record": "note/1", "as_of": all[2]["position"]});
    let refused = master.call("history:restore", body).json();
    assert_eq!(refused["error"]["code"], 128, "{refused}");
    assert_eq!(fetch(&ada, "note/1", &Json::Null)["title"], "best");
    let back = restore(&master, "note/1", &all[1]["position"]);
    assert_eq!(
        [&back["title"], &back["checked"]],
        [&json!("better"), &json!(true)]
    );
}

#[test]
fn names_are_those_of_then_and_a_restore_follows_them() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"text": "one", "n": 1}));
    ada.save("note/1", json!({"n": 2}));
    let rename = json!({"record_type": "note", "item_name": "text", "new_name": "body"});
    assert_eq!(master.call("schema:rename", rename).code(), 0);
    ada.save("note/1", json!({"body": "two"}));
    let versions = versions(&master, "note/1");
    assert_eq!(
        versions[0]["changes"],
        json!({"body": {"before": "one", "after": "two"}})
    );
    assert_eq!(versions[1]["record"]["text"], "one");
    let then = &versions[1]["position"];
    assert_eq!(fetch(&ada, "note/1", then)["text"], "one");
    assert_eq!(restore(&master, "note/1", then)["body"], "one");
}
