//! Users, and single fields.

use serde_json::json;

use super::search::{await_copies, places_of};
use super::{CANARY, CONTROL, assert_store_is_the_logs, erase, said, verified, versions};
use crate::devices::{register, subscribe};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

#[test]
fn a_user_is_gone_with_his_devices_and_records() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, &format!("{CANARY}-ada"));
    let user = ada.user.clone().unwrap();
    let device = json!({"type": "ios", "device_token": format!("{CANARY}-device")});
    ada.call("device:register", device).result();
    ada.save("note/hers", json!({"text": format!("{CANARY} one")}));
    ada.save("note/old", json!({"text": format!("{CANARY} two")}));
    ada.call("record:delete", json!({"ids": ["note/old"]}))
        .result();
    let bob = Client::signed_up(&server, &format!("{CONTROL}-bob"));
    let refers = json!({"of": {"$type": "ref", "$id": format!("user/{user}")}, "text": CONTROL});
    bob.save("note/bobs", refers);
    await_copies(&server, &master, CANARY);
    let before = versions(&master, &format!("user/{user}"));

    let erased = erase(&server, &["user", &user, "--records"]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_ne!(ada.call("me", json!({})).status, 200);
    let body = json!({"auth_data": {"username": format!("{CANARY}-ada")}, "password": "x"});
    assert_ne!(
        Client::anonymous(&server).call("auth:login", body).status,
        200
    );
    // Bob's record refers to the user's, which stays, empty.
    let ids = json!({"ids": [format!("user/{user}"), "note/bobs", "note/hers"]});
    let found = master.call("record:fetch", ids.clone()).result();
    assert_eq!(found[0].get("username"), None, "{found}");
    assert_eq!(
        (&found[1]["text"], &found[2]["code"]),
        (&json!(CONTROL), &json!(110))
    );
    assert_eq!(
        versions(&master, &format!("user/{user}")).len(),
        before.len() + 1
    );

    assert_store_is_the_logs(&mut server);
    let (master, bob) = (master.at(&server), bob.at(&server));
    assert_eq!(master.call("record:fetch", ids).result(), found);
    assert_eq!(bob.call("me", json!({})).status, 200);
    assert!(!places_of(&server, CONTROL).is_empty());
    let again = master.call("erase:user", json!({"user": user, "why": "again"}));
    assert_eq!(again.code(), 110);
}

/// Apps take a device from its user before they log out, and the next user who logs in gets it.
#[test]
fn a_user_is_gone_from_devices_that_are_not_his_any_more() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let bob = Client::signed_up(&server, "bob");
    let user = ada.user.clone().unwrap();
    let notes = |text: &str| {
        let predicate = json!(["eq", {"$type": "keypath", "$val": "text"}, text]);
        json!({"record_type": "note", "predicate": predicate})
    };
    let hers = notes(CANARY);
    let left = register(&ada, &format!("{CANARY}-left"));
    subscribe(&ada, &left, "hers", hers.clone());
    subscribe(&master, &left, "for-her", hers.clone());
    ada.call("device:unregister", json!({"id": left})).result();
    let [next, last] = ["next", "last"].map(|token| {
        let device = register(&ada, token);
        subscribe(&ada, &device, "hers", hers.clone());
        subscribe(&ada, &device, "ended", hers.clone());
        let ended = json!({"device_id": device, "subscription_ids": ["ended"]});
        ada.call("subscription:delete", ended).result();
        device
    });
    // Ada's subscriptions there ended before Bob got the device; what Bob does with it stays.
    let ended = json!({"device_id": last, "subscription_ids": ["hers"]});
    ada.call("subscription:delete", ended).result();
    for device in [&next, &last] {
        let his =
            json!({"id": device, "type": "ios", "device_token": format!("{CONTROL}-{device}")});
        bob.call("device:register", his).result();
    }
    subscribe(&bob, &next, "his", notes(CONTROL));
    await_copies_in_store(&server, &master, CANARY);
    let in_the_log = places_of(&server, CANARY);
    assert!(in_the_log.iter().all(|it| !it.contains("/journal/")));

    let erased = erase(&server, &["user", &user]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    let names = |master: &Client, device: &str| {
        let listed = master.call("subscription:fetch_all", json!({"device_id": device}));
        let listed = listed.result();
        let names = listed.as_array().unwrap().iter();
        names.map(|it| it["id"].clone()).collect::<Vec<_>>()
    };
    let kept = [
        (&left, vec![]),
        (&next, vec![json!("his")]),
        (&last, vec![]),
    ];
    for (device, expected) in &kept {
        assert_eq!(names(&master, device), *expected);
    }
    let listed = bob.call("device:register", json!({"id": left, "type": "ios"}));
    assert_eq!(listed.code(), 110, "nobody's device is gone");
    assert_store_is_the_logs(&mut server);
    let bob = bob.at(&server);
    for (device, expected) in &kept {
        assert_eq!(names(&master.at(&server), device), *expected);
    }
    subscribe(&bob, &last, "his", notes(CONTROL));
    let places = places_of(&server, &format!("{CONTROL}-{last}"));
    assert!(places.iter().any(|it| it.contains("/records.sqlite")));
    assert_store_is_the_logs(&mut server);
}

fn await_copies_in_store(server: &TestServer, client: &Client, text: &str) {
    eventually(&format!("{text} is in the store"), || {
        // A query makes the store catch up.
        client.call("record:query", json!({"record_type": "note", "limit": 1}));
        let places = places_of(server, text);
        let is_there = places.iter().any(|it| it.contains("/records.sqlite"));
        is_there.then_some(())
    });
}

/// The exit code also shows that more was asked for than could be erased.
#[test]
fn records_that_could_not_be_erased_with_their_owner_are_told() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    ada.save("note/1", json!({"text": CANARY}));
    master.save("link/1", json!({"to": {"$type": "ref", "$id": "note/1"}}));
    let erased = erase(&server, &["user", &user, "--records"]);
    assert_eq!(erased.status.code(), Some(1), "{}", said(&erased));
    let said = said(&erased);
    assert!(
        said.contains("note/1: ") && said.contains("1 record is not erased"),
        "{said}"
    );
    assert_ne!(ada.call("me", json!({})).status, 200, "she is gone");
    let listed = master.call("erase:list", json!({"limit": 1})).result();
    let erasure = &listed["erasures"][0];
    let refused = json!([{"record": "note/1", "code": 113, "referred_by": "link/1"}]);
    assert_eq!(
        (&erasure["num_refused"], &erasure["refused"]),
        (&json!(1), &refused),
        "{erasure}"
    );
    // The command names what prevents it, and what to do.
    let again = format!("skytrail erase user {user} --records");
    assert!(
        said.contains("link/1 refers to it") && said.contains(&again),
        "{said}"
    );
    master
        .call("record:delete", json!({"ids": ["link/1"]}))
        .result();
    let erased = erase(&server, &["user", &user, "--records"]);
    let said = self::said(&erased);
    assert!(erased.status.success(), "{said}");
    assert!(
        said.contains("1 record of the user is erased") && said.contains("1 event is erased"),
        "{said}"
    );
}

/// The order in which a user's records are erased makes no difference.
#[test]
fn records_that_only_others_of_the_user_refer_to_go_with_them() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    for (id, of) in [
        ("album/1", None),
        ("photo/1", Some("album/1")),
        ("tag/1", Some("photo/1")),
    ] {
        let of = of.map(|id| json!({"$type": "ref", "$id": id}));
        ada.save(id, json!({"of": of}));
    }
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(
        (&erased["num_records"], &erased["refused"]),
        (&json!(3), &json!([])),
        "{erased}"
    );
}

/// The log holds everything about a user only under their key; with the key, history shows all of
/// it.
#[test]
fn who_a_user_is_stands_nowhere_in_the_log_in_the_open() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let name = format!("{CANARY}-ada");
    let ada = Client::signed_up(&server, &name);
    let user = ada.user.clone().unwrap();
    let record = format!("user/{user}");
    ada.save(&record, json!({"street": format!("{CANARY} street")}));
    master.save("note/1", json!({"text": CONTROL}));
    await_copies(&server, &master, CONTROL);
    let in_the_log = |server: &TestServer| {
        let places = places_of(server, CANARY).into_iter();
        let of_log = places.filter(|it| it.contains("/journal/") || it.contains("/sled/"));
        of_log.collect::<Vec<_>>()
    };
    assert_eq!(in_the_log(&server), Vec::<String>::new());
    server.kill();
    server.restart();
    let (master, ada) = (master.at(&server), ada.at(&server));
    assert_eq!(
        ada.call("me", json!({})).result()["profile"]["username"],
        name.as_str()
    );
    let shown = versions(&master, &record);
    assert_eq!(shown[0]["record"]["street"], format!("{CANARY} street"));
    let said = server.skytrail(&["log", "show", &format!("record/{record}")]);
    assert!(super::said(&said).contains(&name), "{}", super::said(&said));
    assert_store_is_the_logs(&mut server);
    assert_eq!(in_the_log(&server), Vec::<String>::new());

    let master = master.at(&server);
    let erased = master.call("erase:user", json!({"user": user, "why": "a test"}));
    assert_eq!(erased.result()["finished"], true);
    let listed = master.call("erase:list", json!({})).result();
    assert_eq!(listed["erasures"][0]["num_keys"], 1, "{listed}");
    assert!(
        versions(&master, &record)
            .iter()
            .all(|it| it["record"].is_null() || it["deleted"] == true)
    );
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

#[test]
fn what_is_listed_as_part_of_an_erasure_is_of_a_user() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    ada.save("note/1", json!({"text": "hers"}));
    master.save("note/2", json!({"text": "not hers"}));
    let position = |action: &str, body| {
        let erased = master.call(action, body).result();
        erased["position"].as_u64().unwrap()
    };
    let of_record = position("erase:record", json!({"record": "note/2", "why": "a test"}));
    let of_user = position("erase:user", json!({"user": user, "why": "a test"}));
    for of_nobody in [of_record, of_user + 1000] {
        let listed = master.call("erase:list", json!({"part_of": of_nobody}));
        assert_eq!(listed.code(), 110, "{}", listed.json());
    }
    let key = format!("MASTER_KEY={}", crate::support::server::MASTER_KEY);
    let list = |position: u64| {
        let position = position.to_string();
        let list = ["--set", &key, "erase", "list", "--part-of", &position];
        let of_server = ["--server", &server.base_url];
        let listed = server.skytrail(&[&list[..], &of_server].concat());
        assert!(listed.stdout.is_empty());
        let said = String::from_utf8(listed.stderr).unwrap();
        (listed.status.success(), said)
    };
    // The user's record stays, since it was not to be erased.
    assert_eq!(list(of_user), (true, "skytrail: no erasures\n".to_owned()));
    let (is_listed, said) = list(of_record);
    assert!(!is_listed, "{said}");
    let expected = format!("no erasure of a user was requested at {of_record}");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_field_is_gone_and_the_record_goes_on() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"text": CONTROL, "n": 0}));
    for number in 1..=3 {
        master.save("note/1", json!({"secret": format!("{CANARY} {number}")}));
    }
    master.save("note/1", json!({"n": 4}));
    await_copies(&server, &master, CANARY);
    let erased = erase(&server, &["field", "note/1", "secret"]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert!(
        said(&erased).contains("3 events are erased"),
        "{}",
        said(&erased)
    );
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    let ids = json!({"ids": ["note/1"]});
    let now = master.call("record:fetch", ids.clone()).result();
    assert_eq!(
        (&now[0]["text"], &now[0]["n"]),
        (&json!(CONTROL), &json!(4))
    );
    assert_eq!(now[0].get("secret"), None);
    let listed = versions(&master, "note/1");
    // Created, three with the secret, one more, unset, saved once more in full.
    assert_eq!(listed.len(), 7);
    let blank: Vec<bool> = listed.iter().map(|it| it.get("erased").is_some()).collect();
    assert_eq!(blank, [false, false, false, true, true, true, false]);
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    assert_eq!(master.call("record:fetch", ids).result(), now);
    master.save("note/1", json!({"n": 5}));
    let body = json!({"record": "note/1", "field": "none", "why": "x"});
    assert_eq!(master.call("erase:field", body).code(), 110);
}

#[test]
fn a_user_is_found_by_whatever_names_him() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let anonymous = Client::anonymous(&server);
    let sign_up = |auth_data: serde_json::Value| {
        let body = json!({"auth_data": auth_data, "password": "a long secret"});
        let user = anonymous.call("auth:signup", body).result()["user_id"].clone();
        user.as_str().unwrap().to_owned()
    };
    let bob = sign_up(json!({"username": "bob"}));
    let eve = sign_up(json!({"username": "eve", "email": "eve@example.org"}));
    let dan = sign_up(json!({"username": "dan"}));
    let named = [
        ("bob".to_owned(), &bob),
        ("eve@example.org".to_owned(), &eve),
        (format!("user/{dan}"), &dan),
    ];
    for (name, id) in &named {
        let found = server.skytrail(&[
            "--set",
            &format!("MASTER_KEY={}", crate::support::server::MASTER_KEY),
            "audit",
            "changes",
            "--user",
            name,
            "--server",
            &server.base_url,
        ]);
        assert!(found.status.success(), "{}", said(&found));
        let erased = erase(&server, &["user", name]);
        assert!(erased.status.success(), "{name}: {}", said(&erased));
        assert!(said(&erased).contains(*id), "{name}: {}", said(&erased));
    }
    for (name, id) in &named {
        let record = json!({"ids": [format!("user/{id}")]});
        assert_eq!(master.call("record:fetch", record).result()[0]["code"], 110);
        // The answer for an unknown user must not look like success.
        let refused = erase(&server, &["user", name]);
        assert!(!refused.status.success());
        let said = said(&refused);
        assert!(said.contains(&format!("no user {name:?}")), "{said}");
    }
}

/// A user who was erased before may have left records, which can be erased without them.
#[test]
fn the_records_of_a_user_who_is_erased_already_are_erased() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    ada.save("note/hers", json!({"text": CANARY}));
    let erased = master.call("erase:user", json!({"user": user, "why": "x"}));
    assert_eq!(erased.result()["num_records"], 0);
    let body = json!({"user": user, "records": true, "why": "x"});
    let erased = master.call("erase:user", body.clone()).result();
    assert_eq!(
        (&erased["num_records"], &erased["finished"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(
        master.call("erase:user", body).code(),
        110,
        "nothing is left"
    );
    verified(&server);
}

/// Plugins act for the users that they are told of, and some are told late.
#[test]
fn the_master_key_brings_nobody_back_who_was_erased() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    let hers = |action: &str| {
        let more = match action {
            "record:save" => json!({"records": [{"_id": "note/1", "text": CONTROL}]}),
            "relation:query" => json!({"name": "friend", "direction": "outward"}),
            _ => json!({"record_type": "note", "ids": ["note/1"], "users": ["bob"]}),
        };
        let mut body = more;
        body["_user_id"] = json!(user);
        body
    };
    let acted = |master: &Client| {
        let actions = [
            "record:save",
            "record:query",
            "record:fetch",
            "relation:query",
            "role:get",
        ];
        actions.map(|action| {
            let answer = master.call(action, hers(action));
            let message = answer.json()["error"]["message"].clone();
            (
                answer.status,
                message.as_str().unwrap_or_default().to_owned(),
            )
        })
    };
    assert_eq!(acted(&master).map(|(status, _)| status), [200; 5]);
    let erased = master.call("erase:user", json!({"user": user, "why": "a test"}));
    assert_eq!(erased.result()["finished"], true);
    let head = |master: &Client| {
        let page = master.call("log:read", json!({"limit": 1})).json();
        page["info"]["head"].as_u64()
    };
    let before = head(&master);
    for is_restarted in [false, true] {
        if is_restarted {
            server.kill();
            server.restart();
        }
        let master = master.at(&server);
        for (status, message) in acted(&master) {
            assert_eq!(status, 404, "{message}");
            assert!(message.contains(&format!("{user} was erased")), "{message}");
        }
        if !is_restarted {
            assert_eq!(head(&master), before, "nothing is stored");
        }
    }
    // SDKs forget a session at code 104.
    let signed_in = ada.at(&server).call("me", json!({}));
    assert_eq!((signed_in.status, signed_in.code()), (401, 104));
    // Other users are still created on the spot, and an import that names her brings her back.
    let master = master.at(&server);
    let mut body = hers("record:query");
    body["_user_id"] = json!("stranger");
    assert_eq!(master.call("record:query", body).status, 200);
    let imported = json!({"users": [{"id": user, "auth_data": {"username": "ada"}}]});
    let imported = master.call("auth:import", imported).json();
    assert_eq!(imported["info"]["failed"], 0, "{imported}");
    assert_eq!(acted(&master).map(|(status, _)| status), [200; 5]);
}
