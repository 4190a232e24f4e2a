//! Personal types: their records are erased with their owners.

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CANARY, CONTROL, assert_store_is_the_logs, erase, said, verified, versions};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn mark(master: &Client, name: &str, is_personal: bool) {
    let body = json!({"type": name, "personal": is_personal});
    assert_eq!(
        master.call("schema:personal", body.clone()).result(),
        json!({"type": name, "personal": is_personal})
    );
}

/// Returns where the log has a text unencrypted.
fn in_the_log(server: &TestServer, text: &str) -> Vec<String> {
    let places = places_of(server, text).into_iter();
    let of_log = places.filter(|it| it.contains("/journal/") || it.contains("/sled/"));
    of_log.collect()
}

/// Waits until sled and the record store have everything written so far.
fn await_all(server: &TestServer, master: &Client) {
    master.save("mark/1", json!({"text": "mark-77e0"}));
    for place in ["/sled/", "/records.sqlite"] {
        eventually(&format!("everything is in {place}"), || {
            master.call("record:query", json!({"record_type": "mark", "limit": 1}));
            let places = places_of(server, "mark-77e0");
            places.iter().any(|it| it.contains(place)).then_some(())
        });
    }
}

fn fetch(client: &Client, id: &str) -> Json {
    let found = client.call("record:fetch", json!({"ids": [id]})).result();
    found[0].clone()
}

#[test]
fn records_of_a_personal_type_are_sealed_with_their_owners_key_and_go_with_him() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let bob = Client::signed_up(&server, "bob");
    let user = ada.user.clone().unwrap();
    // Sealed from the marking on; earlier events are erased as well.
    ada.save("diary/early", json!({"text": "early-31c9"}));
    mark(&master, "diary", true);
    let created = ada.save("diary/1", json!({"text": format!("{CANARY} 0"), "n": 0}));
    for number in 1..=40 {
        ada.save("diary/1", json!({"text": format!("{CANARY} {number}")}));
    }
    // Sealed whoever writes to it, and also when the record is deleted.
    master.save("diary/1", json!({"more": [format!("{CANARY} more")]}));
    ada.save("diary/gone", json!({"text": format!("{CANARY} gone")}));
    ada.call("record:delete", json!({"ids": ["diary/gone"]}))
        .result();
    ada.save("note/hers", json!({"text": CONTROL}));
    bob.save("diary/bobs", json!({"text": "of bob-5a5e"}));
    await_all(&server, &master);
    assert_eq!(in_the_log(&server, CANARY), Vec::<String>::new());
    assert_eq!(in_the_log(&server, "of bob-5a5e"), Vec::<String>::new());
    assert!(!in_the_log(&server, "early-31c9").is_empty());
    assert!(!places_of(&server, CANARY).is_empty(), "the store has it");

    // With the keys everything reads as before: history, the past, a rebuilt store.
    let shown = versions(&master, "diary/1");
    assert_eq!(shown.len(), 42);
    assert_eq!(shown[1]["record"]["text"], format!("{CANARY} 40"));
    let at = shown[30]["position"].clone();
    let body = json!({"ids": ["diary/1"], "as_of": at});
    let then = master.call("record:fetch", body.clone()).result();
    assert_eq!(then[0]["text"], format!("{CANARY} 11"));
    assert_eq!(created["text"], format!("{CANARY} 0"));
    assert_store_is_the_logs(&mut server);
    let (master, bob) = (master.at(&server), bob.at(&server));
    assert_eq!(fetch(&master, "diary/1")["text"], format!("{CANARY} 40"));
    await_all(&server, &master);

    let erased = erase(&server, &["user", &user]);
    assert!(erased.status.success(), "{}", said(&erased));
    for text in [CANARY, "early-31c9"] {
        assert_eq!(places_of(&server, text), Vec::<String>::new());
    }
    verified(&server);
    for id in ["diary/1", "diary/early", "diary/gone"] {
        assert_eq!(fetch(&master, id)["code"], 110, "{id}");
        for version in versions(&master, id) {
            let is_blank = version.get("erased").is_some();
            assert!(is_blank || version["kind"] == "record.deleted", "{version}");
        }
    }
    assert_eq!(
        master.call("record:fetch", body).result()[0]["code"],
        110,
        "the past is gone, too"
    );
    assert_eq!(fetch(&master, "note/hers")["text"], CONTROL);
    assert_eq!(fetch(&bob, "diary/bobs")["text"], "of bob-5a5e");
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    assert_eq!(fetch(&master, "note/hers")["text"], CONTROL);
    assert_eq!(fetch(&master, "diary/1")["code"], 110);
    let again = json!({"user": user, "why": "again"});
    assert_eq!(master.call("erase:user", again).code(), 110);
}

#[test]
fn a_personal_record_that_others_refer_to_stays_empty() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let bob = Client::signed_up(&server, "bob");
    let user = ada.user.clone().unwrap();
    mark(&master, "diary", true);
    ada.save("diary/1", json!({"text": CANARY}));
    ada.save("diary/1", json!({"n": 1}));
    let refers = json!({"of": {"$type": "ref", "$id": "diary/1"}, "text": CONTROL});
    bob.save("comment/1", refers);
    await_all(&server, &master);
    let erased = master.call("erase:user", json!({"user": user, "why": "a test"}));
    let erased = erased.result();
    assert_eq!(
        (&erased["finished"], &erased["num_records"]),
        (&json!(true), &json!(1)),
        "{erased}"
    );
    assert_eq!(erased["refused"], json!([]));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    let left = fetch(&master, "diary/1");
    assert_eq!((left.get("text"), left.get("n")), (None, None), "{left}");
    assert_eq!(left["_ownerID"], json!(user));
    assert_eq!(fetch(&bob, "comment/1")["text"], CONTROL);
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    assert_eq!(fetch(&master, "diary/1"), left);
    verified(&server);
}

/// What a deletion leaves of a temporal type is erased with the owner, though its events are blank
/// before the deletion.
#[test]
fn a_temporal_type_keeps_no_past_of_an_erased_owner() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    mark(&master, "diary", true);
    let body = json!({"type": "diary", "temporal": true});
    master.call("schema:temporal", body).result();
    ada.save("diary/1", json!({"text": CANARY}));
    ada.save("diary/1", json!({"text": format!("{CANARY} again")}));
    await_all(&server, &master);
    let body = json!({"user": ada.user, "why": "a test"});
    assert_eq!(master.call("erase:user", body).result()["finished"], true);
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

/// What was sealed stays sealed after the type is no longer personal, and is erased all the same.
#[test]
fn what_was_written_while_the_type_was_personal_goes_though_it_is_not_any_more() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    mark(&master, "diary", true);
    ada.save("diary/1", json!({"text": CANARY}));
    ada.save("diary/2", json!({"text": CANARY}));
    ada.call("record:delete", json!({"ids": ["diary/2"]}))
        .result();
    mark(&master, "diary", false);
    ada.save("diary/1", json!({"n": 1}));
    ada.save("diary/1", json!({"open": "open-6d1f"}));
    await_all(&server, &master);
    assert!(!in_the_log(&server, "open-6d1f").is_empty());
    assert_eq!(in_the_log(&server, CANARY), Vec::<String>::new());
    let erased = master.call("erase:user", json!({"user": user, "why": "a test"}));
    assert_eq!(erased.result()["finished"], true);
    for text in [CANARY, "open-6d1f"] {
        assert_eq!(places_of(&server, text), Vec::<String>::new());
    }
    assert_eq!(fetch(&master, "diary/1")["code"], 110);
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

/// Writes to her records during her erasure are refused or have no effect; every blank belongs to
/// an erasure.
#[test]
fn what_is_written_meanwhile_is_accounted_for() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    mark(&master, "diary", true);
    for round in 0..8 {
        let ada = Client::signed_up(&server, &format!("ada-{round}"));
        let user = ada.user.clone().unwrap();
        for number in 0..5 {
            let id = format!("diary/{round}-{number}");
            ada.save(&id, json!({"text": format!("{CANARY} {number}")}));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in (0..5).cycle().take(40) {
                    let id = format!("diary/{round}-{number}");
                    let body = json!({"records": [{"_id": id, "more": "more"}]});
                    master.call("record:save", body);
                }
            });
            let body = json!({"user": user, "why": "a test"});
            let erased = master.call("erase:user", body);
            assert_eq!(erased.status, 200, "{}", erased.json());
        });
    }
    eventually("all is erased", || {
        let listed = master.call("erase:list", json!({"limit": 1000})).result();
        let listed = listed["erasures"].as_array().unwrap().clone();
        let is_done = listed.iter().all(|it| it["finished"] == true);
        is_done.then_some(())
    });
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

#[test]
fn what_marking_a_type_refuses() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let code = |body: Json| master.call("schema:personal", body).code();
    assert_eq!(code(json!({"type": "diary"})), 108);
    assert_eq!(code(json!({"type": "diary", "personal": "yes"})), 108);
    assert_eq!(code(json!({"personal": true})), 108);
    assert_eq!(code(json!({"type": "user", "personal": true})), 108);
}
