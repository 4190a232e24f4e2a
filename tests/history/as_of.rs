//! Queries over the past.

use super::*;

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn reference(id: &str) -> Json {
    json!({"$type": "ref", "$id": id})
}

fn query(client: &Client, more: &Json, as_of: &Json) -> Json {
    let mut body = json!({"record_type": "note", "sort": [[path("_id"), "asc"]], "as_of": as_of});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    client.call("record:query", body).json()
}

fn ids(answer: &Json) -> Vec<&str> {
    let records = answer["result"].as_array().unwrap();
    records
        .iter()
        .map(|record| record["_id"].as_str().unwrap())
        .collect()
}

fn now(server: &TestServer) -> Json {
    Client::master(server).health()["log"]["head"].clone()
}

#[test]
fn references_and_what_is_included_are_of_the_same_moment() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("page/a", json!({"name": "old"}));
    ada.save("page/b", json!({"name": "other"}));
    ada.save("note/1", json!({"page": reference("page/a"), "n": 1}));
    ada.save("note/2", json!({"page": reference("page/b"), "n": 2}));
    let then = now(&server);
    let asked = json!({
        "predicate": ["eq", path("page.name"), "old"],
        "include": {"page": path("page"), "owner": path("_owner_id")},
        "desired_keys": ["n"], "count": true,
    });
    let answer = query(&ada, &asked, &Json::Null);
    assert_eq!(ids(&answer), ["note/1"]);
    assert_eq!(answer["result"][0]["_transient"]["page"]["name"], "old");

    ada.save("page/a", json!({"name": "new"}));
    ada.save("note/1", json!({"page": null}));
    delete(&ada, "note/2");
    delete(&ada, "page/b");
    assert_eq!(ids(&query(&ada, &asked, &Json::Null)), Vec::<&str>::new());
    assert_eq!(query(&ada, &asked, &then), answer);
    let deleted = json!({"predicate": ["eq", path("page.name"), "other"]});
    assert_eq!(ids(&query(&ada, &deleted, &then)), ["note/2"]);

    // Under the names of that time, and not under today's.
    let rename = json!({"record_type": "page", "item_name": "name", "new_name": "title"});
    let master = Client::master(&server);
    assert_eq!(master.call("schema:rename", rename).code(), 0);
    assert_eq!(query(&ada, &asked, &then), answer);
    let today = json!({"predicate": ["eq", path("page.title"), "old"]});
    let wrong = query(&ada, &today, &then);
    assert_eq!(wrong["error"]["code"], 120, "{wrong}");
    // Before the type existed, it had no records.
    let before = query(&ada, &json!({"count": true}), &json!(1));
    assert_eq!(
        [&before["result"], &before["info"]["count"]],
        [&json!([]), &json!(0)]
    );
    let beyond = query(&ada, &json!({}), &json!(1_000_000));
    assert_eq!(beyond["error"]["code"], 108);
}

#[test]
fn equal_records_come_in_the_order_in_which_they_came() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let place = json!({"$type": "geo", "$lng": 1, "$lat": 0});
    for number in 0..8 {
        ada.save(&format!("note/{number}"), json!({"n": 1, "place": place}));
    }
    let distance = json!(["func", "distance", path("place"), place]);
    let sorts = [
        json!([]),
        json!([[path("n"), "asc"]]),
        json!([[path("n"), "desc"]]),
        json!([[distance, "desc"]]),
    ];
    let pages = |as_of: &Json| {
        let all = sorts.iter().map(|sort| {
            let page = |offset: u32| {
                let more = json!({"sort": sort, "limit": 3, "offset": offset});
                query(&ada, &more, as_of)["result"].clone()
            };
            [0, 3, 6].map(page)
        });
        all.collect::<Vec<_>>()
    };
    let then = now(&server);
    let was = pages(&Json::Null);
    assert_eq!(was[2][0][0]["_id"], "note/7");
    for number in [6, 1, 3] {
        delete(&ada, &format!("note/{number}"));
    }
    ada.save("note/0", json!({"n": 2}));
    ada.save("note/3", json!({"n": 1, "place": place}));
    assert_eq!(pages(&then), was);
}

#[test]
fn whoever_may_see_it_today_and_might_then_sees_what_it_was() {
    for is_temporal in [false, true] {
        sees_what_it_was_who_may_see_it_today(is_temporal);
    }
}

fn sees_what_it_was_who_may_see_it_today(is_temporal: bool) {
    let server = TestServer::start();
    let master = Client::master(&server);
    let set = json!({"type": "note", "temporal": is_temporal});
    assert_eq!(master.call("schema:temporal", set.clone()).result(), set);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let public = json!([{"level": "read", "public": true}]);
    for (id, access) in [
        ("open", json!([])),
        ("closed", public.clone()),
        ("gone", public.clone()),
    ] {
        ada.save(&format!("note/{id}"), json!({"n": 1, "_access": access}));
    }
    let private = json!({"database_id": "_private", "records": [{"_id": "note/own", "n": 1}]});
    ada.call("record:save", private).result();
    ada.call(
        "relation:add",
        json!({"name": "follow", "targets": [bob.user]}),
    )
    .result();
    let then = now(&server);
    ada.save("note/open", json!({"n": 2, "_access": public}));
    ada.save("note/closed", json!({"n": 2, "_access": []}));
    delete(&ada, "note/gone");
    let all = json!({});
    assert_eq!(ids(&query(&bob, &all, &then)), ["note/gone"]);
    let counted = json!({"count": true, "limit": 0});
    assert_eq!(query(&bob, &counted, &then)["info"]["count"], 1);
    assert_eq!(
        ids(&query(&ada, &all, &then)),
        ["note/closed", "note/gone", "note/open"]
    );
    assert_eq!(
        ids(&query(&master, &all, &then)),
        ["note/closed", "note/gone", "note/open"]
    );
    let own = json!({"database_id": "_private"});
    assert_eq!(ids(&query(&ada, &own, &then)), ["note/own"]);
    assert_eq!(ids(&query(&bob, &own, &then)), Vec::<&str>::new());
    let followed = json!({"predicate": [
        "func", "userRelation", path("_owner_id"),
        {"$type": "relation", "$name": "_follow", "$direction": "inward"},
    ]});
    assert_eq!(ids(&query(&bob, &followed, &then)), ["note/gone"]);

    let rule = json!({
        "record_type": "note", "record_field": "n", "user_role": "_any_user",
        "writable": true, "readable": false, "comparable": false, "discoverable": false,
    });
    let body = json!({"access": [rule]});
    master.call("schema:field_access:update", body).result();
    let answer = query(&bob, &all, &then);
    assert!(answer["result"][0].get("n").is_none(), "{answer}");
    let looked_for = json!({"predicate": ["eq", path("n"), 1]});
    assert_eq!(query(&bob, &looked_for, &then)["error"]["code"], 124);
}

#[test]
fn what_was_hidden_then_is_neither_included_nor_looked_into() {
    for is_temporal in [false, true] {
        let server = TestServer::start();
        let master = Client::master(&server);
        let [ada, bob] = ["ada", "bob"].map(|name| Client::signed_up(&server, name));
        ada.save("room/1", json!({"name": "draft", "_access": []}));
        ada.save("note/1", json!({"room": reference("room/1")}));
        for name in ["note", "room"] {
            let set = json!({"type": name, "temporal": is_temporal});
            master.call("schema:temporal", set).result();
        }
        let then = now(&server);
        let public = json!([{"level": "read", "public": true}]);
        ada.save("room/1", json!({"name": "hall", "_access": public}));
        let included = json!({"include": {"room": path("room")}});
        let named = json!({"predicate": ["eq", path("room.name"), "draft"], "count": true});
        let check = |what: &str| {
            for (client, room, count) in [(&ada, json!("draft"), 1), (&bob, Json::Null, 0)] {
                let answer = query(client, &included, &then);
                let brought = &answer["result"][0]["_transient"]["room"]["name"];
                assert_eq!(*brought, room, "{what} {client:?} {answer}");
                let answer = query(client, &named, &then);
                assert_eq!(answer["info"]["count"], count, "{what} {client:?}");
            }
        };
        check("there");
        delete(&ada, "note/1");
        delete(&ada, "room/1");
        check("deleted");
    }
}
