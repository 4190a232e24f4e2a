//! What devices may leave behind: up to the limit it is kept; beyond the limit it is refused by
//! name, or makes room.

use serde_json::{Value as Json, json};

use super::{Listener, notes, register, subscribe, subscriptions};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::server::TestServer;

fn save(client: &Client, device: &str, subscriptions: &[(&str, Json)]) -> Answer {
    let wire = |(id, query): &(&str, Json)| json!({"id": id, "type": "query", "query": query});
    let subscriptions: Vec<Json> = subscriptions.iter().map(wire).collect();
    let body = json!({"device_id": device, "subscriptions": subscriptions});
    client.call("subscription:save", body)
}

/// Fails unless it is an error that names the limit.
fn assert_names(error: &Json, name: &str, max: u64) {
    assert_eq!(error["code"], 108, "{error}");
    let limit = json!({"name": name, "max": max});
    assert_eq!(error["info"]["limit"], limit, "{error}");
}

fn chain(operator: &str, number: usize) -> Json {
    let equal = json!(["eq", {"$type": "keypath", "$val": "text"}, "x"]);
    let parts = std::iter::once(json!(operator)).chain(vec![equal; number]);
    json!({"record_type": "note", "predicate": parts.collect::<Json>()})
}

#[test]
fn a_subscription_is_no_larger_than_a_query() {
    let settings = [
        ("MAX_PREDICATE_NODES", "6"),
        ("MAX_SUBSCRIPTION_BYTES", "1000"),
    ];
    let server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    let device = register(&ada, "t");
    subscribe(&ada, &device, "six", chain("or", 5));
    let refused = save(
        &ada,
        &device,
        &[("fine", notes("x")), ("seven", chain("or", 6))],
    );
    assert_names(&refused.json()["error"], "MAX_PREDICATE_NODES", 6);
    let mut sorted = notes("x");
    sorted["sort"] = vec![json!([{"$type": "keypath", "$val": "text"}, "asc"]); 17].into();
    let refused = save(&ada, &device, &[("sorted", sorted)]);
    assert_names(&refused.json()["error"], "MAX_QUERY_SORTS", 16);

    subscribe(&ada, &device, "long", notes(&"x".repeat(700)));
    let refused = save(&ada, &device, &[("longer", notes(&"x".repeat(1000)))]);
    assert_names(&refused.json()["error"], "MAX_SUBSCRIPTION_BYTES", 1000);
    let told = json!({"aps": {"alert": {"body": "x".repeat(1000)}}});
    let subscription = json!({"id": "loud", "type": "query", "query": notes("x"),
        "notification_info": told});
    let body = json!({"device_id": device, "subscriptions": [subscription]});
    let refused = ada.call("subscription:save", body);
    assert_names(&refused.json()["error"], "MAX_SUBSCRIPTION_BYTES", 1000);
    assert_eq!(subscriptions(&ada, &device).len(), 2);
}

#[test]
fn a_device_has_so_many_subscriptions() {
    let mut server = TestServer::with(&[("MAX_DEVICE_SUBSCRIPTIONS", "3")]);
    let mut ada = Client::signed_up(&server, "ada");
    let device = register(&ada, "t");
    // Those of one request count one after the other, and an existing one may always change.
    let changes = ["a", "b", "a", "c", "d", "b"].map(|name| (name, notes("x")));
    let saved = save(&ada, &device, &changes).result();
    let failed = |entry: &Json| entry["_type"] == "error";
    let refused: Vec<bool> = saved.as_array().unwrap().iter().map(failed).collect();
    assert_eq!(
        refused,
        [false, false, false, false, true, false],
        "{saved}"
    );
    assert_names(&saved[4], "MAX_DEVICE_SUBSCRIPTIONS", 3);
    // Subscriptions of private records count, too.
    let body = json!({"device_id": device, "database_id": "_private",
        "subscriptions": [{"id": "a", "type": "query", "query": notes("x")}]});
    let refused = ada.call("subscription:save", body).result();
    assert_names(&refused[0], "MAX_DEVICE_SUBSCRIPTIONS", 3);
    let body = json!({"device_id": device, "subscription_ids": ["c"]});
    ada.call("subscription:delete", body).result();
    subscribe(&ada, &device, "d", notes("y"));

    // Existing ones stay when the limit is lowered.
    assert!(server.terminate().success());
    server.set("MAX_DEVICE_SUBSCRIPTIONS", "1");
    server.restart();
    ada = ada.at(&server);
    assert_eq!(subscriptions(&ada, &device).len(), 3);
    subscribe(&ada, &device, "a", notes("z"));
    let refused = save(&ada, &device, &[("e", notes("x"))]).result();
    assert_names(&refused[0], "MAX_DEVICE_SUBSCRIPTIONS", 1);
    let mut listener = Listener::new(&server, &device);
    ada.save("note/1", json!({"text": "y"}));
    listener.hears("d");
}

#[test]
fn one_device_more_takes_the_place_of_the_one_that_was_registered_longest_ago() {
    let server = TestServer::with(&[("MAX_USER_DEVICES", "3")]);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let again = |client: &Client, device: &str| {
        let body = json!({"id": device, "type": "ios"});
        client.call("device:register", body)
    };
    let [first, second, third] = ["1", "2", "3"].map(|token| register(&ada, token));
    let bens = register(&ben, "4");
    for device in [&first, &second, &third] {
        subscribe(&ada, device, "s", notes("x"));
    }
    // Apps register at each start.
    assert_eq!(again(&ada, &first).result()["id"], *first);
    let fourth = register(&ada, "5");
    assert_eq!(again(&ada, &second).code(), 110);
    assert!(subscriptions(&ada, &second).is_empty());
    for device in [&first, &third, &fourth] {
        assert_eq!(again(&ada, device).result()["id"], **device);
    }
    assert_eq!(subscriptions(&ada, &first).len(), 1);
    // A device that another user had counts as one more; this user's other one with its address has
    // been removed by then.
    assert_eq!(again(&ada, &bens).result()["id"], *bens);
    assert_eq!(again(&ada, &first).code(), 110);
    let fifth = register(&ada, "3");
    assert_eq!(again(&ada, &third).code(), 110);
    for device in [&fourth, &bens, &fifth] {
        assert_eq!(again(&ada, device).result()["id"], **device);
    }
    // A caller with the master key may have devices for others.
    let master = Client::master(&server);
    let mut many = ["6", "7", "8", "9"]
        .map(|token| register(&master, token))
        .into_iter();
    assert!(many.all(|device| again(&master, &device).code() != 110));
}

#[test]
fn a_subscription_that_looks_at_too_much_of_a_change_is_not_told_of_it_and_the_others_are() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/0", json!({"text": "b"}));
    let device = register(&ada, "t");
    let path = json!({"$type": "keypath", "$val": "text"});
    let like = |pattern: &str| json!(["like", path, pattern]);
    let likes = |number: usize| {
        let parts = [json!("or"), like("a%")].into_iter();
        let parts: Json = parts.chain(vec![like("%x%"); number - 1]).collect();
        json!({"record_type": "note", "predicate": parts})
    };
    // The notices of one device are sent in the order of the subscriptions' names.
    subscribe(&ada, &device, "1 costly", likes(33));
    subscribe(&ada, &device, "2 cheap", likes(2));
    let mut listener = Listener::new(&server, &device);
    let text = "a".repeat(2 << 20);
    ada.save("note/1", json!({"text": text}));
    listener.hears("2 cheap");
    let master = Client::master(&server);
    eventually("it is counted", || {
        let consumer = &master.health()["notices"]["consumer"];
        (consumer["num_skipped"] == 1).then_some(())
    });
    // All subscriptions of a user count together.
    for number in 3..=7 {
        subscribe(&ada, &device, &format!("{number} less"), likes(31));
    }
    ada.save("note/2", json!({"text": text}));
    for name in ["2 cheap", "3 less", "4 less", "5 less", "6 less"] {
        listener.hears(name);
    }
    eventually("they are counted", || {
        let consumer = &master.health()["notices"]["consumer"];
        (consumer["num_skipped"] == 3).then_some(())
    });
    ada.save("note/0", json!({"text": "ax"}));
    listener.hears("1 costly");
}
