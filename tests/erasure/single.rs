//! One event, and a field of a whole type.

use serde_json::{Value as Json, json};

use super::search::{await_copies, places_of};
use super::{CANARY, CONTROL, assert_store_is_the_logs, erase, said, verified, versions};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn one_event_loses_what_it_held_and_the_record_goes_on() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"text": CONTROL, "n": 0}));
    master.save("note/1", json!({"text": CANARY}));
    // The store may skip a version that is changed again at once.
    await_copies(&server, &master, CANARY);
    master.save(
        "note/1",
        json!({"text": format!("{CONTROL} again"), "n": 2}),
    );
    let listed = versions(&master, "note/1");
    let position = listed[1]["position"].to_string();
    let erased = erase(&server, &["event", &position]);
    assert!(
        said(&erased).contains("1 event is erased"),
        "{}",
        said(&erased)
    );
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    let ids = json!({"ids": ["note/1"]});
    let now = master.call("record:fetch", ids.clone()).result();
    assert_eq!(now[0]["text"], format!("{CONTROL} again"));
    let listed = versions(&master, "note/1");
    let blank: Vec<bool> = listed.iter().map(|it| it.get("erased").is_some()).collect();
    assert_eq!(blank, [false, false, true, false]);
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    assert_eq!(master.call("record:fetch", ids).result(), now);

    let code = |position: Json| {
        let body = json!({"position": position, "why": "x"});
        master.call("erase:event", body).code()
    };
    assert_eq!(code(listed[2]["position"].clone()), 110, "it is gone");
    assert_eq!(code(json!(1_000_000)), 110, "not there yet");
    assert_eq!(code(json!(0)), 110);
    let ada = Client::signed_up(&server, "ada");
    let stream = json!({"stream": format!("user/{}", ada.user.unwrap())});
    let of_user = master.call("log:read", stream).result()[0]["position"].clone();
    assert_eq!(code(of_user), 111, "no version of a record");
    assert_eq!(master.call("erase:event", json!({"why": "x"})).code(), 108);
}

#[test]
fn a_field_of_a_type_is_gone_from_all_records() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    for number in 1..=3 {
        let id = format!("note/{number}");
        master.save(&id, json!({"n": number}));
        master.save(&id, json!({"secret": format!("{CANARY} {number}")}));
    }
    master.save("note/4", json!({"n": 4, "text": CONTROL}));
    master.save("note/5", json!({"secret": format!("{CANARY} 5")}));
    master
        .call("record:delete", json!({"ids": ["note/5"]}))
        .result();
    await_copies(&server, &master, CANARY);
    let erased = erase(&server, &["field", "note", "secret"]);
    assert!(
        said(&erased).contains("4 events are erased"),
        "{}",
        said(&erased)
    );
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
    assert_eq!(versions(&master, "note/4").len(), 1, "it never had one");
    let by_id = json!([[{"$type": "keypath", "$val": "_id"}, "asc"]]);
    let query = json!({"record_type": "note", "sort": by_id});
    let found = master.call("record:query", query.clone()).result();
    let numbers: Vec<&Json> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["n"])
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    assert_eq!(master.call("record:query", query).result(), found);
    let code = |body: Json| master.call("erase:field", body).code();
    assert_eq!(
        code(json!({"type": "note", "field": "secret", "why": "x"})),
        110
    );
    assert_eq!(
        code(json!({"type": "none", "field": "secret", "why": "x"})),
        110
    );
    assert_eq!(code(json!({"field": "secret", "why": "x"})), 108);
}

/// What is refused has changed nothing, and is not half done.
#[test]
fn what_is_refused_of_a_temporal_type_is_as_it_was() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"text": CONTROL, "n": 1}));
    let body = json!({"type": "note", "temporal": true});
    master.call("schema:temporal", body).result();
    let position = &versions(&master, "note/1")[0]["position"];
    // A user for whom the master key acts for the first time gets a record.
    let body = json!({"position": 0, "why": "x"});
    assert_eq!(master.call("erase:event", body).code(), 110);
    let head = || master.health()["log"]["head"].clone();
    let before = head();
    assert!(before.is_u64(), "{before}");
    for (action, body) in [
        (
            "erase:field",
            json!({"record": "note/1", "field": "text", "why": "x"}),
        ),
        (
            "erase:field",
            json!({"type": "note", "field": "text", "why": "x"}),
        ),
        ("erase:event", json!({"position": position, "why": "x"})),
    ] {
        let refused = master.call(action, body);
        assert_eq!((refused.status, refused.code()), (501, 111), "{action}");
    }
    let ids = json!({"ids": ["note/1"]});
    let now = master.call("record:fetch", ids).result();
    assert_eq!(now[0]["text"], CONTROL);
    assert_eq!(head(), before, "nothing has happened");
}

/// A record whose owner has closed it must not get the type's default access again.
#[test]
fn the_access_list_of_a_record_outlives_the_erasure_of_a_field() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bo) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bo"),
    );
    ada.save(
        "note/closed",
        json!({"secret": "s", "text": "t", "_access": []}),
    );
    // Open, and still open when a default comes that is not.
    ada.save("note/open", json!({"secret": "s", "text": "t"}));
    let default = json!([{"public": true, "level": "read"}]);
    let body = json!({"type": "note", "default_access": default});
    master.call("schema:default_access", body).result();
    for id in ["note/closed", "note/open"] {
        let body = json!({"record": id, "field": "secret", "why": "x"});
        master.call("erase:field", body).result();
    }
    let ids = json!({"ids": ["note/closed", "note/open"]});
    let found = bo.call("record:fetch", ids.clone()).result();
    assert_eq!(found[0]["code"], 102, "{found}");
    assert_eq!(found[1]["_access"], json!(null), "{found}");
    let found = ada.call("record:fetch", ids).result();
    assert_eq!(found[0]["_access"], json!([]), "{found}");
    assert_eq!(found[0].get("secret"), None, "{found}");
}
