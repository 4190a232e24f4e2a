//! A user's records are erased after the user, however many there are and whatever interrupts it.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CANARY, assert_store_is_the_logs, said, verified};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// More than are erased in a second or two.
const NUM_RECORDS: usize = 300;

/// Signs a user up who has many records.
fn user_with_records(server: &TestServer, record_type: &str) -> Client {
    let ada = Client::signed_up(server, "ada");
    for batch in 0..NUM_RECORDS / 100 {
        let id = |number| format!("{record_type}/{batch}-{number}");
        let records = (0..100).map(|number| json!({"_id": id(number), "text": CANARY}));
        let body = json!({"records": records.collect::<Vec<_>>()});
        ada.call("record:save", body).result();
    }
    ada
}

fn num_left(master: &Client, record_type: &str) -> u64 {
    let body = json!({"record_type": record_type, "count": true, "limit": 1});
    let found = master.call("record:query", body).json();
    found["info"]["count"].as_u64().unwrap()
}

fn listed(master: &Client, body: &Json) -> Vec<Json> {
    let listed = master.call("erase:list", body.clone()).result();
    listed["erasures"].as_array().unwrap().clone()
}

/// Returns the erasure of a user.
fn erasure_of(master: &Client, user: &Client) -> Option<Json> {
    let is_of_user = |it: &Json| it["scope"]["user"] == json!(user.user);
    listed(master, &json!({})).into_iter().find(is_of_user)
}

/// Returns the erasures of a user's records, the newest first.
fn parts_of(master: &Client, erasure: &Json) -> Vec<Json> {
    let body = json!({"part_of": erasure["position"], "limit": 1000});
    listed(master, &body)
}

fn assert_cannot_sign_in(server: &TestServer, ada: &Client) {
    assert_eq!(ada.at(server).call("me", json!({})).code(), 104);
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret"});
    let answer = Client::anonymous(server).call("auth:login", body);
    assert_ne!(answer.status, 200);
}

/// Waits until a user and all their records are erased.
fn await_end(server: &TestServer, master: &Client, ada: &Client, record_type: &str) {
    let finished = eventually("the user is erased", || {
        erasure_of(master, ada).filter(|it| it["finished"] == true)
    });
    assert_eq!(finished["num_records"], NUM_RECORDS, "{finished}");
    assert_eq!(num_left(master, record_type), 0);
    let parts = parts_of(master, &finished);
    assert!(parts.iter().all(|it| it["finished"] == true));
    assert_eq!(master.health()["erasures"]["num_open"], 0);
    assert_eq!(places_of(server, CANARY), Vec::<String>::new());
    verified(server);
}

/// Kills the server when some of a user's records are erased, and runs a command, if there is one.
fn kill_in_the_middle(record_type: &str, is_personal: bool, then: &[&str]) {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let body = json!({"type": record_type, "personal": is_personal});
    master.call("schema:personal", body).result();
    let ada = user_with_records(&server, record_type);
    let (eraser, user) = (master.clone(), ada.user.clone());
    let erasing = std::thread::spawn(move || {
        let body = json!({"user": user, "records": !is_personal, "why": "a test"});
        eraser.try_call("erase:user", body).is_ok()
    });
    eventually("some are erased", || {
        let begun = erasure_of(&master, &ada)?;
        (begun["num_records"].as_u64()? > 5).then_some(())
    });
    server.kill();
    assert!(!erasing.join().unwrap(), "it was answered before the kill");
    if !then.is_empty() {
        let output = server.skytrail(then);
        assert!(output.status.success(), "{}", said(&output));
    }
    server.restart();
    let master = master.at(&server);
    assert_cannot_sign_in(&server, &ada);
    await_end(&server, &master, &ada, record_type);
    assert_store_is_the_logs(&mut server);
}

#[test]
fn the_records_of_an_erased_user_are_erased_after_a_kill() {
    kill_in_the_middle("note", false, &[]);
}

#[test]
fn personal_records_of_an_erased_user_are_erased_after_a_kill() {
    kill_in_the_middle("diary", true, &[]);
}

/// A store that is built without the key knows nothing of the records that are left.
#[test]
fn personal_records_are_erased_though_the_store_was_rebuilt_in_between() {
    kill_in_the_middle("diary", true, &["rebuild"]);
}

#[test]
fn an_erasure_that_takes_longer_than_a_request_is_answered_and_goes_on() {
    let server = TestServer::with(&[("RESPONSE_TIMEOUT", "3")]);
    let master = Client::master(&server);
    let ada = user_with_records(&server, "note");
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["finished"], false, "{erased}");
    assert_cannot_sign_in(&server, &ada);
    await_end(&server, &master, &ada, "note");
}

/// More deletions than are read together, and ids that changed hands in between.
#[test]
fn deleted_records_of_an_erased_user_are_found_among_those_of_others() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let (ada, ben) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "ben"),
    );
    let save = |user: &Client, id: &str, text: &str| {
        let body = json!({"records": [{"_id": id, "text": text}]});
        user.call("record:save", body).result();
    };
    let delete = |user: &Client, ids: &[String]| {
        user.call("record:delete", json!({"ids": ids})).result();
    };
    save(&ada, "note/ada-first", CANARY);
    save(&ada, "note/handed-on", "Ada's");
    delete(&ada, &["note/ada-first".into(), "note/handed-on".into()]);
    save(&ben, "note/handed-on", "Ben's");
    for batch in 0..3 {
        let ids = (0..300).map(|number| format!("note/ben-{batch}-{number}"));
        let ids: Vec<_> = ids.collect();
        let records = ids.iter().map(|id| json!({"_id": id, "text": "Ben's"}));
        let body = json!({"records": records.collect::<Vec<_>>()});
        ben.call("record:save", body).result();
        delete(&ben, &ids);
    }
    save(&ben, "note/taken-over", "Ben's");
    delete(&ben, &["note/taken-over".into()]);
    save(&ada, "note/taken-over", CANARY);
    save(&ada, "note/ada-last", CANARY);
    delete(&ada, &["note/ada-last".into()]);

    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["refused"], json!([]), "{erased}");
    let finished = eventually("the user is erased", || {
        erasure_of(&master, &ada).filter(|it| it["finished"] == true)
    });
    let parts = parts_of(&master, &finished);
    let records = parts.iter().filter_map(|it| it["scope"]["record"].as_str());
    let records: BTreeSet<_> = records.collect();
    let hers = ["ada-first", "ada-last", "taken-over"].map(|key| format!("record/note/{key}"));
    assert_eq!(records, hers.iter().map(String::as_str).collect());
    let body = json!({"record_type": "note", "count": true});
    let left = master.call("record:query", body).json();
    assert_eq!(left["result"][0]["_id"], "note/handed-on", "{left}");
    assert_eq!(left["info"]["count"], 1);
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

/// What was refused stands with the user's erasure, however many records there were.
#[test]
fn an_erasure_with_many_records_is_listed_in_pages() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = user_with_records(&server, "note");
    master.save("note/other", json!({}));
    let refers = json!({"$type": "ref", "$id": "note/0-7"});
    master.save("link/1", json!({"note": refers}));
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    master.call("erase:user", body).result();
    let erasure = eventually("the user is erased", || {
        erasure_of(&master, &ada).filter(|it| it["finished"] == true)
    });
    assert_eq!(erasure["refused"][0]["record"], "note/0-7", "{erasure}");
    assert_eq!(erasure["num_records"], NUM_RECORDS - 1);
    assert_eq!(
        listed(&master, &json!({})).len(),
        1,
        "the parts are left out"
    );

    let (mut records, mut before) = (BTreeSet::new(), Json::Null);
    loop {
        let body = json!({"part_of": erasure["position"], "before": before, "limit": 120});
        let page = listed(&master, &body);
        let of_records = page.iter().filter_map(|it| it["scope"]["record"].as_str());
        for record in of_records {
            assert!(
                records.insert(record.to_owned()),
                "{record} is listed twice"
            );
        }
        let Some(last) = page.last() else { break };
        before = last["position"].clone();
    }
    assert_eq!(records.len(), NUM_RECORDS - 1);
}

/// Their deleted records are looked for together.
#[test]
fn users_who_are_erased_together_are_all_erased_wholly() {
    const NUM_USERS: usize = 12;
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let users = (0..NUM_USERS).map(|number| {
        let user = Client::signed_up(&server, &format!("user-{number}"));
        for id in ["note", "gone"].map(|name| format!("{name}/{number}")) {
            user.save(&id, json!({"text": CANARY}));
        }
        let body = json!({"ids": [format!("gone/{number}")]});
        user.call("record:delete", body).result();
        let refers = json!({"$type": "ref", "$id": format!("note/{number}")});
        user.save(&format!("link/{number}"), json!({"note": refers}));
        user
    });
    let users: Vec<Client> = users.collect();
    std::thread::scope(|scope| {
        for user in &users {
            let body = json!({"user": user.user, "records": true, "why": "a test"});
            scope.spawn(|| master.call("erase:user", body).result());
        }
    });
    for user in &users {
        let erasure = eventually("a user is erased", || {
            erasure_of(&master, user).filter(|it| it["finished"] == true)
        });
        assert_eq!(
            (&erasure["num_records"], erasure.get("refused")),
            (&json!(3), None),
            "{erasure}"
        );
    }
    assert_eq!(master.health()["erasures"]["num_open"], 0);
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

/// Two of them could go only together.
#[test]
fn records_that_refer_to_each_other_are_refused_though_their_owners_are_erased() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/1", json!({}));
    let refers = |id: &str| json!({"$type": "ref", "$id": id});
    ben.save("link/1", json!({"note": refers("note/1")}));
    ada.save("note/1", json!({"link": refers("link/1")}));
    std::thread::scope(|scope| {
        for user in [&ada, &ben] {
            let body = json!({"user": user.user, "records": true, "why": "a test"});
            scope.spawn(|| master.call("erase:user", body).result());
        }
    });
    for (user, record) in [(&ada, "note/1"), (&ben, "link/1")] {
        let erasure = eventually("a user is erased", || {
            erasure_of(&master, user).filter(|it| it["finished"] == true)
        });
        assert_eq!(erasure["refused"][0]["record"], record, "{erasure}");
    }
}
