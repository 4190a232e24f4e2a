//! What a save can require of the stored records: `if`, `create_only`; and `keep_access`.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn save_if(client: &Client, condition: &Json, record: &Json) -> Answer {
    let body = json!({"records": [record], "if": condition});
    client.call("record:save", body)
}

/// Lets many save at once; returns how often each code was answered, 0 for a success.
fn race(clients: &[Client], body: impl Fn(usize) -> Json) -> BTreeMap<i64, usize> {
    let mut codes = BTreeMap::new();
    std::thread::scope(|scope| {
        let savers = clients.iter().enumerate().map(|(number, client)| {
            let body = body(number);
            scope.spawn(move || client.call("record:save", body))
        });
        for saver in savers.collect::<Vec<_>>() {
            let answer = saver.join().unwrap();
            let code = match answer.status {
                200 => answer.json()["result"][0]["code"].as_i64().unwrap_or(0),
                _ => answer.code(),
            };
            *codes.entry(code).or_default() += 1;
        }
    });
    codes
}

#[test]
fn of_many_saves_that_need_the_same_state_one_is_stored() {
    let server = TestServer::start();
    let clients: Vec<_> = (0..8)
        .map(|number| Client::signed_up(&server, &format!("user{number}")))
        .collect();
    let is_free = json!(["eq", path("taken_by"), null]);
    for round in 0..10 {
        let (seat, ledger) = (format!("seat/{round}"), format!("ledger/{round}"));
        clients[0].save(&seat, json!({"row": 1}));
        clients[0].save(&ledger, json!({}));
        clients[0].save("seat/model", json!({"taken_by": "nobody"}));
        clients[0].save("ledger/model", json!({"taken_by": "nobody"}));
        let is_atomic = round % 2 == 1;
        let codes = race(&clients, |number| {
            let by = format!("user{number}");
            json!({"atomic": is_atomic, "if": is_free, "records": [
                {"_id": seat, "taken_by": by}, {"_id": ledger, "taken_by": by}]})
        });
        let refused = if is_atomic { 115 } else { 113 };
        assert_eq!(codes, BTreeMap::from([(0, 1), (refused, 7)]), "{round}");
        let taken = json!(["neq", path("taken_by"), null]);
        let body = json!({"ids": [seat, ledger]});
        let both = clients[0].call("record:fetch", body).result();
        assert!(both[0]["taken_by"].is_string());
        if is_atomic {
            assert_eq!(both[0]["taken_by"], both[1]["taken_by"]);
        }
        let late = save_if(&clients[1], &is_free, &json!({"_id": seat, "row": 2})).result();
        assert_eq!(late[0]["code"], 113, "{late}");
        let again = save_if(&clients[1], &taken, &json!({"_id": seat, "row": 2})).result();
        assert_eq!(again[0]["row"], 2, "{again}");
    }
}

#[test]
fn of_many_saves_that_only_create_one_is_stored() {
    let server = TestServer::start();
    let clients: Vec<_> = (0..8)
        .map(|number| Client::signed_up(&server, &format!("user{number}")))
        .collect();
    clients[0].save("event/model", json!({"by": 0}));
    for round in 0..10 {
        let is_atomic = round % 2 == 1;
        let body = |number| {
            let record = json!({"_id": format!("event/{round}"), "by": number});
            json!({"atomic": is_atomic, "create_only": true, "records": [record]})
        };
        let codes = race(&clients, body);
        let refused = if is_atomic { 115 } else { 109 };
        assert_eq!(codes, BTreeMap::from([(0, 1), (refused, 7)]), "{round}");
    }
}

#[test]
fn each_record_of_a_batch_is_judged_by_its_own_stored_version() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1, "kind": "a"}));
    ada.save("note/2", json!({"n": 2, "kind": "a"}));
    ada.save("page/1", json!({"n": 1}));
    let body = |is_atomic: bool| {
        json!({"atomic": is_atomic, "if": ["eq", path("n"), 1], "records": [
            {"_id": "note/1", "n": 2, "kind": "b"},
            {"_id": "note/2", "n": 1, "kind": "b"},
            {"_id": "note/3", "n": 1},
            {"_id": "page/1", "n": 3}]})
    };
    let refused = ada.call("record:save", body(true));
    assert_eq!((refused.status, refused.code()), (409, 115));
    let info = refused.json()["error"]["info"].take();
    let of = |id: &str| info[id]["code"].as_i64();
    assert_eq!([of("note/2"), of("note/3")], [Some(113); 2], "{info}");
    assert_eq!([of("note/1"), of("page/1")], [None; 2], "{info}");
    assert_eq!(ada.query("note", json!(["eq", path("kind"), "b"])).len(), 0);

    let saved = ada.call("record:save", body(false)).result();
    assert_eq!((&saved[0]["n"], &saved[3]["n"]), (&json!(2), &json!(3)));
    for (number, id) in [(1, "note/2"), (2, "note/3")] {
        assert_eq!(
            (&saved[number]["code"], &saved[number]["_id"]),
            (&json!(113), &json!(id)),
            "{saved}"
        );
        let message = saved[number]["message"].as_str().unwrap();
        assert!(message.contains("\"if\""), "{message}");
    }
    assert_eq!(saved[1]["message"], saved[2]["message"]);
}

/// The copy of a record that a save has twice replaces the one before, so it is judged by that.
#[test]
fn each_copy_of_a_record_is_judged_by_the_copy_before() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let fetch = |id: &str| {
        let found = ada.call("record:fetch", json!({"ids": [id]}));
        found.result()[0].take()
    };
    let body = |members: Json, records: Json| {
        let mut body = members;
        body["records"] = records;
        ada.call("record:save", body)
    };
    ada.save("game/1", json!({"rev": 1, "first": "", "second": ""}));
    let moves = json!([
        {"_id": "game/1", "rev": 2, "first": "x"},
        {"_id": "game/1", "rev": 2, "second": "y"},
    ]);
    let is_next = json!({"if": ["eq", path("rev"), 1]});
    let refused = body(json!({"if": is_next["if"], "atomic": true}), moves.clone());
    assert_eq!((refused.status, refused.code()), (409, 115));
    assert_eq!(
        refused.json()["error"]["info"]["game/1"]["code"],
        113,
        "{}",
        refused.json()
    );
    assert_eq!(fetch("game/1")["rev"], 1);
    let saved = body(is_next, moves).result();
    assert_eq!([&saved[0]["rev"], &saved[1]["code"]], [2, 113], "{saved}");
    let stored = fetch("game/1");
    assert_eq!([&stored["first"], &stored["second"]], ["x", ""], "{stored}");

    // The other way round: it matches what the copy before leaves, and what that one creates.
    let steps = json!([
        {"_id": "game/1", "rev": 2, "second": "z"},
        {"_id": "game/2", "rev": 2},
        {"_id": "game/1", "rev": 3},
        {"_id": "game/1", "rev": 4},
    ]);
    let saved = body(json!({"if": ["eq", path("rev"), 2]}), steps).result();
    assert_eq!([&saved[0]["rev"], &saved[2]["rev"]], [3, 3], "{saved}");
    assert_eq!(
        [&saved[1]["code"], &saved[3]["code"]],
        [113, 113],
        "{saved}"
    );
    assert_eq!(fetch("game/1")["second"], "z");

    let seats = json!([{"_id": "seat/1", "by": "a"}, {"_id": "seat/1", "by": "b"}]);
    let refused = body(json!({"create_only": true, "atomic": true}), seats.clone());
    assert_eq!((refused.status, refused.code()), (409, 115));
    assert_eq!(fetch("seat/1")["code"], 110);
    let saved = body(json!({"create_only": true}), seats).result();
    assert_eq!(saved[0]["by"], "a", "{saved}");
    assert_eq!(saved[1]["code"], 109, "{saved}");
    assert_eq!(fetch("seat/1")["by"], "a");
}

#[test]
fn conditions_are_those_of_queries() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let here = json!({"$type": "geo", "$lat": 10, "$lng": 20});
    let fields = json!({"n": 5, "text": "Hello", "tags": ["a", "b"], "at": here,
        "book": {"$type": "ref", "$id": "book/1"}});
    master.save("book/1", json!({"title": "t"}));
    ada.save("note/1", fields);
    let near = |metres: i64| json!(["lt", ["func", "distance", path("at"), here], metres]);
    let long_ago = json!({"$type": "date", "$date": "2000-01-01T00:00:00Z"});
    for (condition, matches) in [
        (json!([]), true),
        (json!(["lt", path("n"), 6]), true),
        (json!(["lt", path("n"), 5]), false),
        (json!(["in", path("n"), [4, 5]]), true),
        (json!(["ilike", path("text"), "hell%"]), true),
        (json!(["like", path("text"), "hell%"]), false),
        (json!(["in", "a", path("tags")]), true),
        (json!(["in", "c", path("tags")]), false),
        (near(1), true),
        (json!(["not", near(1)]), false),
        (
            json!(["eq", path("book"), {"$type": "ref", "$id": "book/1"}]),
            true,
        ),
        (json!(["eq", path("_owner"), ada.user]), true),
        (json!(["eq", path("_id"), "1"]), true),
        (json!(["gt", path("_updated_at"), long_ago]), true),
        (json!(["lt", path("_created_at"), long_ago]), false),
        // Unknown is not true, and neither is its negation.
        (
            json!(["or", ["lt", path("n"), null], ["eq", path("n"), 5]]),
            true,
        ),
        (json!(["not", ["lt", path("n"), null]]), false),
    ] {
        let found = ada.query("note", condition.clone()).len();
        assert_eq!(found, usize::from(matches), "{condition}");
        let saved = save_if(&ada, &condition, &json!({"_id": "note/1", "text": "Hello"}));
        let saved = saved.result();
        let code = if matches { json!(null) } else { json!(113) };
        assert_eq!(saved[0]["code"], code, "{condition}: {saved}");
        let missing = save_if(&ada, &condition, &json!({"_id": "note/2"})).result();
        assert_eq!(missing[0]["code"], 113, "{condition}: {missing}");
    }
    // What a query refuses.
    for (condition, code) in [
        (json!(["eq", path("nothing"), 1]), 120),
        (json!(["eq", path("n"), "x"]), 10000),
    ] {
        let query = json!({"record_type": "note", "predicate": condition});
        assert_eq!(ada.call("record:query", query).code(), code);
        for id in ["note/1", "note/2"] {
            let refused = save_if(&ada, &condition, &json!({"_id": id})).result();
            assert_eq!(refused[0]["code"], code, "{condition} {id}: {refused}");
        }
    }
    assert_eq!(ada.query("note", json!([])).len(), 1);
}

#[test]
fn what_conditions_cannot_be_is_refused_as_a_whole() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let friends = json!(["func", "userRelation", path("_owner"),
        {"$type": "relation", "$name": "_friend", "$direction": "mutual"}]);
    let deep = (0..40).fold(json!(["eq", path("n"), 1]), |inner, _| {
        json!(["not", inner])
    });
    let save = |members: Json| {
        let mut body = json!({"records": [{"_id": "note/1", "n": 2}]});
        let members = members.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
        ada.call("record:save", body)
    };
    for (members, code, named) in [
        (json!({"if": true}), 108, "\"if\""),
        (json!({"if": "x"}), 108, "\"if\""),
        (json!({"if": {}}), 108, "\"if\""),
        (json!({"if": [1, 2]}), 108, "predicate"),
        (json!({"if": ["eq", path("n")]}), 108, "expressions"),
        (json!({"if": ["is", path("n"), 1]}), 108, "is"),
        (json!({"if": ["eq", path("book.n"), 1]}), 108, "book.n"),
        (json!({"if": ["not", friends]}), 108, "_friend"),
        (json!({"if": deep}), 108, "nested"),
        (json!({"if": [], "create_only": true}), 108, "condition"),
        (json!({"create_only": "yes"}), 107, "decode"),
        (json!({"create_only": 1}), 107, "decode"),
        (json!({"keep_access": []}), 107, "decode"),
    ] {
        let refused = save(members.clone());
        assert_eq!(refused.code(), code, "{members}: {}", refused.json());
        let message = refused.json()["error"]["message"].clone();
        assert!(
            message.as_str().unwrap().contains(named),
            "{members}: {message}"
        );
    }
    assert_eq!(ada.query("note", json!([]))[0]["n"], 1);
    let absent = json!({"if": null, "create_only": null, "keep_access": null});
    assert_eq!(save(absent).result()[0]["n"], 2);
}

#[test]
fn a_condition_tells_nothing_that_a_query_would_not() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let master = Client::master(&server);
    let read_only = json!([{"user_id": ben.user, "level": "read"}]);
    ada.save("note/closed", json!({"n": 1, "grade": 3, "_access": []}));
    ada.save(
        "note/shown",
        json!({"n": 1, "grade": 3, "_access": read_only}),
    );
    ada.save("note/open", json!({"n": 1, "grade": 3}));
    let own = json!({"database_id": "_private", "records": [{"_id": "note/private", "n": 1}]});
    assert_eq!(ada.call("record:save", own).result()[0]["n"], 1);

    // Whether it matches or not makes no difference.
    for n in [1, 2] {
        let condition = json!(["eq", path("n"), n]);
        let answer = |id: &str| save_if(&ben, &condition, &json!({"_id": id})).result()[0].take();
        for id in ["note/closed", "note/shown"] {
            assert_eq!(answer(id)["code"], 102, "{id}");
        }
        // A record elsewhere is as one that is nowhere.
        let (elsewhere, nowhere) = (answer("note/private"), answer("note/none"));
        assert_eq!(elsewhere["code"], 113, "{elsewhere}");
        assert_eq!(elsewhere["message"], nowhere["message"]);
    }
    let rule = |discoverable: bool| {
        let rule = json!({"record_type": "note", "record_field": "grade", "user_role": "_public",
            "writable": false, "readable": false, "comparable": false,
            "discoverable": discoverable});
        let body = json!({"access": [rule]});
        master.call("schema:field_access:update", body).result();
    };
    let asked = |client: &Client, condition: &Json| {
        let query = json!({"record_type": "note", "predicate": condition});
        let query = client.call("record:query", query);
        let saves = ["note/open", "note/none"].map(|id| {
            let saved = save_if(client, condition, &json!({"_id": id})).result();
            (saved[0]["code"].clone(), saved[0]["message"].clone())
        });
        (query, saves)
    };
    rule(false);
    for grade in [3, 4] {
        for operator in ["eq", "gt"] {
            let (query, saves) = asked(&ben, &json!([operator, path("grade"), grade]));
            assert_eq!(query.code(), 124);
            let message = query.json()["error"]["message"].take();
            for save in saves {
                assert_eq!(save, (json!(124), message.clone()));
            }
        }
    }
    rule(true);
    let (query, saves) = asked(&ben, &json!(["eq", path("grade"), 3]));
    assert_eq!(query.result().as_array().unwrap().len(), 2);
    assert_eq!([&saves[0].0, &saves[1].0], [&json!(null), &json!(113)]);
    let (query, saves) = asked(&ben, &json!(["not", ["eq", path("grade"), 3]]));
    assert_eq!((query.code(), &saves[0].0), (124, &json!(124)));
    // Rules do not apply to the master key.
    let (_, saves) = asked(&master, &json!(["gt", path("grade"), 2]));
    assert_eq!(saves[0].0, json!(null));
}

#[test]
fn only_who_may_create_learns_that_a_record_exists() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let create = |client: &Client, id: &str| {
        let body = json!({"records": [{"_id": id, "n": 2}], "create_only": true});
        client.call("record:save", body).result()[0].take()
    };
    ada.save("note/closed", json!({"n": 1, "_access": []}));
    let own = json!({"database_id": "_private", "records": [{"_id": "note/private", "n": 1}]});
    ada.call("record:save", own).result();
    for (client, id) in [
        (&ada, "note/closed"),
        (&ben, "note/closed"),
        (&ben, "note/private"),
    ] {
        let refused = create(client, id);
        assert_eq!(
            (&refused["code"], &refused["_id"]),
            (&json!(109), &json!(id))
        );
        assert_eq!(refused["message"], "the record exists already");
    }
    let roles = json!({"type": "note", "create_roles": ["writer"]});
    Client::master(&server)
        .call("schema:access", roles)
        .result();
    for id in ["note/closed", "note/private", "note/none"] {
        assert_eq!(create(&ben, id)["code"], 102, "{id}");
    }
    // A condition creates nothing, so it does not ask for that right.
    let missing = save_if(&ben, &json!([]), &json!({"_id": "note/none"})).result();
    assert_eq!(missing[0]["code"], 113, "{missing}");
    assert_eq!(ada.query("note", json!([]))[0]["n"], 1);
}

#[test]
fn a_save_can_keep_the_access_list_in_a_type_with_a_default() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let open = json!([{"public": true, "level": "write"}]);
    ada.save("note/everybodys", json!({"n": 1}));
    ada.save("note/closed", json!({"n": 1, "_access": []}));
    let default = json!({"type": "note", "default_access": open});
    master.call("schema:default_access", default).result();
    let save = |keeps: bool, record: Json| {
        let body = json!({"records": [record], "keep_access": keeps});
        master.call("record:save", body).result()[0]["_access"].take()
    };
    assert_eq!(save(true, json!({"_id": "note/closed", "n": 2})), json!([]));
    let null = json!({"_id": "note/closed", "n": 3, "_access": null});
    assert_eq!(save(true, null), json!([]));
    assert_eq!(
        save(true, json!({"_id": "note/everybodys", "n": 2})),
        json!(null)
    );
    // A new record has none to keep, and a list that is sent counts.
    assert_eq!(save(true, json!({"_id": "note/new", "n": 1})), open);
    let sent = json!({"_id": "note/new", "_access": []});
    assert_eq!(save(true, sent), json!([]));
    // Without the member it is as it was in v1.
    assert_eq!(save(false, json!({"_id": "note/closed", "n": 4})), open);
}
