//! Records whose streams have the same hash in the store's index: neither is mistaken for the
//! other.
//!
//! The index keeps 47 bits of a stream's name, without a key, so a client that chooses ids can
//! choose such a pair.

use super::*;

/// Two ids, found among the hashes of 60 million random ones.
const ONE: &str = "note/UF77R2Fg6O";
const OTHER: &str = "note/vjtk3wYNtc";

/// The index's hash of a record's stream.
fn hash(record: &str) -> u64 {
    let name = format!("record/{record}");
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    fnv >> 17
}

fn head(master: &Client) -> u64 {
    master.health()["log"]["head"].as_u64().unwrap()
}

fn numbers(versions: &[Json]) -> Vec<Json> {
    let numbers = versions
        .iter()
        .map(|it| it["changes"]["n"]["after"].clone());
    numbers.collect()
}

#[test]
fn each_is_as_of_a_moment_what_it_was() {
    assert_eq!(hash(ONE), hash(OTHER));
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save(ONE, json!({"n": 1}));
    master.save(ONE, json!({"n": 2}));
    master.save(OTHER, json!({"n": -1}));
    master.save(OTHER, json!({"n": -2}));
    let then = head(&master);
    master.save(ONE, json!({"n": 3}));
    master.save(OTHER, json!({"n": -3}));
    let bodies = [
        (
            "record:fetch",
            json!({"ids": [ONE, OTHER, "note/never"], "as_of": then}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "as_of": then, "sort": [
                [{"$type": "keypath", "$val": "n"}, "desc"]
            ]}),
        ),
    ];
    // The order in which the two are looked up varies.
    for round in 0..12 {
        for (action, body) in &bodies {
            let found = master.call(action, body.clone()).result();
            assert_eq!(found[0]["n"], 2, "{action}, {round}: {found}");
            assert_eq!(found[1]["n"], -2, "{action}, {round}: {found}");
        }
    }
}

#[test]
fn each_has_its_own_versions_and_comes_back_from_them() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let never = |record: &str| {
        let listed = master.call("history:list", json!({"record": record}));
        assert_eq!(listed.code(), 110, "{}", listed.json());
    };
    master.save("note/x", json!({"n": 0}));
    for n in 1..=3 {
        master.save(ONE, json!({"n": n}));
    }
    never(OTHER);
    never("note/never");
    let then = head(&master);
    for n in 1..=3 {
        master.save(OTHER, json!({"n": -n}));
        master.save(ONE, json!({"n": 3 + n}));
    }
    assert_eq!(numbers(&versions(&master, ONE)), [6, 5, 4, 3, 2, 1]);
    assert_eq!(numbers(&versions(&master, OTHER)), [-3, -2, -1]);
    delete(&master, ONE);
    let body = json!({"record": OTHER, "as_of": then});
    assert_eq!(master.call("history:restore", body).code(), 110);
    assert_eq!(fetch(&master, OTHER, &Json::Null)["n"], -3);
    let restored = restore(&master, ONE, &json!(then));
    assert_eq!(restored["n"], 3, "{restored}");
    assert_eq!(numbers(&versions(&master, OTHER)), [-3, -2, -1]);
    // A record that was deleted and created again is a different one.
    delete(&master, OTHER);
    master.save(OTHER, json!({"n": 7}));
    let listed = versions(&master, OTHER);
    assert_eq!(
        kinds(&listed[..2]),
        ["record.created", "record.deleted"],
        "{listed:?}"
    );
    assert_eq!(listed.len(), 5);
}

#[test]
fn an_owner_sees_of_his_own_what_it_was() {
    let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note")]);
    let [ada, bob] = ["ada", "bob"].map(|it| Client::signed_up(&server, it));
    bob.save(ONE, json!({"n": 1}));
    ada.save(OTHER, json!({"n": -1}));
    ada.save(OTHER, json!({"n": -2}));
    delete(&ada, OTHER);
    bob.save(ONE, json!({"n": 2}));
    assert_eq!(numbers(&versions(&bob, ONE)), [2, 1]);
    assert_eq!(
        numbers(&versions(&ada, OTHER)),
        [Json::Null, json!(-2), json!(-1)]
    );
    let refused = ada.call("history:list", json!({"record": ONE}));
    assert_eq!(refused.code(), 102, "{}", refused.json());
}

#[test]
fn who_could_read_one_says_nothing_of_the_other() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let asked = |record: &str, at: u64| {
        let body = json!({"record": record, "at": at});
        master.call("audit:readers", body).result()
    };
    ada.save(ONE, json!({"n": 1, "_access": null}));
    let first = head(&master);
    ada.save(OTHER, json!({"n": 1, "_access": []}));
    let second = head(&master);
    for at in [first, second] {
        let found = asked(ONE, at);
        assert_eq!(found["everyone"]["reason"], "no access list", "{found}");
    }
    assert_eq!(asked(OTHER, first)["exists"], false);
    let found = asked(OTHER, second);
    assert_eq!(
        (&found["exists"], &found["everyone"]),
        (&json!(true), &Json::Null)
    );
    // The erasure of one did not affect the other.
    let erase = json!({"record": ONE, "why": "asked for on paper"});
    master.call("erase:record", erase).result();
    assert_eq!(asked(ONE, first)["exists"], Json::Null);
    for at in [first, second, head(&master)] {
        let found = asked(OTHER, at);
        assert_eq!(found["exists"], at != first, "{found}");
        assert_eq!(found["erased"], Json::Null, "{found}");
    }
}

#[test]
fn an_erasure_of_one_leaves_the_other() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for n in 1..=3 {
        master.save(ONE, json!({"n": n}));
    }
    let erase = |record: &str| {
        let body = json!({"record": record, "why": "asked for on paper"});
        master.call("erase:record", body)
    };
    assert_eq!(erase(OTHER).code(), 110, "it never was");
    for n in 1..=3 {
        master.save(OTHER, json!({"n": -n}));
        master.save(ONE, json!({"n": 3 + n}));
    }
    let then = head(&master);
    let before = versions(&master, OTHER);
    assert_eq!(erase(ONE).result()["num_events"], 6);
    assert_eq!(versions(&master, OTHER), before);
    assert_eq!(fetch(&master, OTHER, &Json::Null)["n"], -3);
    assert_eq!(fetch(&master, OTHER, &json!(then))["n"], -3);
    assert_eq!(fetch(&master, ONE, &json!(then))["code"], 110);
    let erased = versions(&master, ONE);
    assert_eq!(erased.len(), 7);
    assert!(erased[1..].iter().all(|it| it.get("erased").is_some()));
    assert_eq!(numbers(&before), [-3, -2, -1]);
}
