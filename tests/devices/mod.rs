//! Devices from outside, and the notices that reach subscribers.

mod behind;
mod leaving;
mod limits;
mod many;
mod missed;
mod owners;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

pub fn register(client: &Client, token: &str) -> String {
    let body = json!({"type": "ios", "device_token": token});
    let registered = client.call("device:register", body).result();
    registered["id"].as_str().unwrap().to_owned()
}

pub fn subscribe(client: &Client, device: &str, id: &str, query: Json) {
    let body = json!({
        "device_id": device,
        "subscriptions": [{"id": id, "type": "query", "query": query}],
    });
    let saved = client.call("subscription:save", body).result();
    assert_eq!(saved[0]["id"], id, "{saved}");
}

fn subscriptions(client: &Client, device: &str) -> Vec<Json> {
    let listed = client.call("subscription:fetch_all", json!({"device_id": device}));
    listed.result().as_array().unwrap().clone()
}

/// Notes with a text.
fn notes(text: &str) -> Json {
    let predicate = json!(["eq", {"$type": "keypath", "$val": "text"}, text]);
    json!({"record_type": "note", "predicate": predicate})
}

/// What a device hears.
pub struct Listener {
    socket: Socket,
    /// Messages that arrived before the device knew that it is listening.
    early: VecDeque<Json>,
}

impl Listener {
    pub fn new(server: &TestServer, device: &str) -> Self {
        let path = format!("/_/pubsub?api_key={MASTER_KEY}");
        let Ok(mut socket) = Socket::open(server.address(), &path, &[]) else {
            panic!("the hub is closed");
        };
        let channel = format!("_sub_{device}");
        socket.send(&json!({"action": "sub", "channel": channel}).to_string());
        let probe = json!({"action": "pub", "channel": channel, "data": "probe"});
        socket.send(&probe.to_string());
        let early = VecDeque::new();
        let mut listener = Self { socket, early };
        loop {
            match listener.receive() {
                Some(message) if message["data"] == "probe" => return listener,
                Some(message) => listener.early.push_back(message),
                None => panic!("the hub closed"),
            }
        }
    }

    /// Returns the next message; `None` when the server is gone.
    fn receive(&mut self) -> Option<Json> {
        match self.socket.receive(Duration::from_secs(20)) {
            Incoming::Text(text) => Some(serde_json::from_str(&text).unwrap()),
            Incoming::Closed => None,
            Incoming::Nothing => panic!("nothing comes"),
        }
    }

    fn next(&mut self) -> Json {
        let early = self.early.pop_front();
        let next = early.or_else(|| self.receive());
        next.unwrap()
    }

    /// Returns the subscription's name and the number of the next notice.
    fn notice(&mut self) -> (String, u64) {
        let message = self.next();
        let data = &message["data"];
        let number = data["seq-num"].as_u64();
        let id = data["subscription-id"].as_str();
        (id.unwrap().to_owned(), number.unwrap())
    }

    pub fn hears(&mut self, subscription: &str) -> u64 {
        let (id, number) = self.notice();
        assert_eq!(id, subscription);
        number
    }
}

#[test]
fn an_address_belongs_to_one_device() {
    let mut server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let old = register(&ada, "token-1");
    subscribe(&ada, &old, "mine", notes("x"));
    // The same device again: its subscriptions stay.
    let again = json!({"id": old, "type": "ios", "device_token": "token-1"});
    assert_eq!(ada.call("device:register", again).result()["id"], *old);
    assert_eq!(subscriptions(&ada, &old).len(), 1);
    // Another device with its address replaces it.
    let new = register(&ben, "token-1");
    assert_ne!(old, new);
    let unknown = json!({"id": old, "type": "ios"});
    assert_eq!(ada.call("device:register", unknown).code(), 110);
    assert_eq!(subscriptions(&ada, &old), [json!(null); 0]);
    // A device without an address is kept for a day.
    let plain = ada
        .call("device:register", json!({"type": "android"}))
        .result();
    server.kill();
    server.restart();
    let (ada, ben) = (ada.at(&server), ben.at(&server));
    for (client, id) in [(&ada, &plain["id"]), (&ben, &json!(new))] {
        let gone = client.call("device:unregister", json!({"id": id}));
        assert_eq!(gone.result()["id"], *id);
    }
    assert_eq!(
        ada.call("device:unregister", json!({"id": old})).code(),
        110
    );
}

#[test]
fn of_devices_that_take_one_address_at_once_one_is_left() {
    let server = TestServer::start();
    let ada = &Client::signed_up(&server, "ada");
    for round in 0..5 {
        let token = &format!("token-{round}");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let tried: Vec<_> = (0..6)
                .map(|_| scope.spawn(move || register(ada, token)))
                .collect();
            tried
                .into_iter()
                .map(|tried| tried.join().unwrap())
                .collect()
        });
        let is_left = |id: &&String| {
            let again = json!({"id": id, "type": "ios"});
            ada.call("device:register", again).code() == 0
        };
        assert_eq!(ids.iter().filter(is_left).count(), 1);
    }
}

#[test]
fn changes_reach_those_who_subscribe_to_them() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let device = register(&ada, "t");
    ada.save("room/1", json!({"title": "den"}));
    ada.save(
        "note/0",
        json!({
            "text": "first", "n": 0, "at": {"$type": "date", "$date": "2017-01-01T00:00:00Z"},
            "room": {"$type": "ref", "$id": "room/1"},
        }),
    );
    let path = |path: &str| json!({"$type": "keypath", "$val": path});
    let about = |predicate: Json| json!({"record_type": "note", "predicate": predicate});
    let date = json!({"$type": "date", "$date": "2017-01-01T08:00:00+08:00"});
    for (id, predicate) in [
        ("a-all", json!([])),
        ("b-text", json!(["eq", path("text"), "x"])),
        ("c-more", json!(["gt", path("n"), 5])),
        ("d-at", json!(["eq", path("at"), date])),
        (
            "e-room",
            json!(["eq", path("room"), {"$type": "ref", "$id": "room/1"}]),
        ),
        ("f-title", json!(["eq", path("room.title"), "den"])),
        (
            "g-owner",
            json!(["func", "userRelation", path("_owner_id"),
            {"$type": "relation", "$name": "_follow", "$direction": "outward"}]),
        ),
        ("h-nonsense", json!(["gt", path("missing"), 1])),
        ("i-not", json!(["not", ["eq", path("text"), "x"]])),
    ] {
        subscribe(&ada, &device, id, about(predicate));
    }
    let mut heard = Listener::new(&server, &device);
    let mut hear = |expected: &[&str]| {
        let numbers = expected.iter().map(|id| heard.hears(id));
        let numbers: Vec<u64> = numbers.collect();
        assert!(
            numbers.iter().all(|number| *number == numbers[0]),
            "one per change"
        );
        numbers[0]
    };
    ada.save("note/1", json!({"text": "x", "n": 9, "at": date}));
    let first = hear(&["a-all", "b-text", "c-more", "d-at"]);
    ada.save(
        "note/1",
        json!({"text": "y", "room": {"$type": "ref", "$id": "room/1"}}),
    );
    // "b-text" because the note leaves it.
    let second = hear(&[
        "a-all", "b-text", "c-more", "d-at", "e-room", "f-title", "i-not",
    ]);
    assert!(second > first);
    // As it was before the deletion, under the present names of its fields.
    let rename = json!({"record_type": "note", "item_name": "n", "new_name": "number"});
    Client::master(&server)
        .call("schema:rename", rename)
        .result();
    ada.call("record:delete", json!({"ids": ["note/1"]}))
        .result();
    let third = hear(&["a-all", "d-at", "e-room", "f-title", "i-not"]);
    assert!(third > second);

    server.kill();
    server.restart();
    let ada = ada.at(&server);
    let mut heard = Listener::new(&server, &device);
    subscribe(&ada, &device, "a-all", json!({"record_type": "room"}));
    ada.save("note/2", json!({"text": "x", "number": 9}));
    // After a crash some notices are repeated, with the same numbers.
    let mut next = heard.notice();
    while next.1 <= third {
        next = heard.notice();
    }
    assert_eq!(next.0, "b-text");
    let ids = json!({"device_id": device, "subscription_ids": ["b-text", "i-not"]});
    ada.call("subscription:delete", ids).result();
    ada.save("note/2", json!({"text": "z"}));
    ada.save("room/1", json!({"title": "hall"}));
    heard.hears("a-all");
}

#[test]
fn nobody_hears_of_what_he_may_not_read() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let master = Client::master(&server);
    let device = register(&ben, "t");
    ada.save("note/0", json!({"text": "x", "secret": "s"}));
    subscribe(&ben, &device, "public", notes("x"));
    let secret = json!(["eq", {"$type": "keypath", "$val": "secret"}, "s"]);
    let query = json!({"record_type": "note", "predicate": secret});
    subscribe(&ben, &device, "secret", query);
    let own = json!({
        "device_id": device, "database_id": "_private",
        "subscriptions": [{"id": "own", "type": "query", "query": notes("x")}],
    });
    ben.call("subscription:save", own).result();
    let rule = json!({"record_type": "note", "record_field": "secret", "user_role": "_owner",
        "writable": true, "readable": true, "comparable": true, "discoverable": true});
    master
        .call("schema:field_access:update", json!({"access": [rule]}))
        .result();

    ada.save("mark/0", json!({"n": 0}));
    subscribe(&ben, &device, "mark", json!({"record_type": "mark"}));

    let mut heard = Listener::new(&server, &device);
    // When the mark is heard, everything before it has been processed, and the rest was silence.
    let only = |heard: &mut Listener, expected: &[&str]| {
        ada.save("mark/1", json!({"n": 1}));
        for id in expected.iter().chain(&["mark"]) {
            heard.hears(id);
        }
    };
    let private = |client: &Client, id: &str| {
        let records = json!([{"_id": id, "text": "x"}]);
        let body = json!({"database_id": "_private", "records": records});
        let saved = client.call("record:save", body).result();
        assert_eq!(saved[0]["_type"], "record", "{saved}");
    };
    // Ada's own, then one with a field that Ben may not search.
    ada.save("note/1", json!({"text": "x", "_access": []}));
    private(&ada, "note/2");
    ada.save("note/3", json!({"text": "y", "secret": "s"}));
    only(&mut heard, &[]);
    let for_ben = json!([{"user_id": ben.user, "level": "read"}]);
    ada.save("note/1", json!({"text": "x", "_access": for_ben}));
    private(&ben, "note/4");
    only(&mut heard, &["public", "own"]);

    // A reference leads Ben to nothing that he may not read.
    ada.save("room/1", json!({"title": "den", "_access": []}));
    let room = json!({"$type": "ref", "$id": "room/1"});
    ada.save("note/7", json!({"text": "y", "room": room}));
    let title = json!(["eq", {"$type": "keypath", "$val": "room.title"}, "den"]);
    let query = json!({"record_type": "note", "predicate": title});
    subscribe(&ben, &device, "behind", query);
    ada.save("note/7", json!({"text": "z"}));
    only(&mut heard, &[]);
    let for_all = json!([{"public": true, "level": "read"}]);
    ada.save("room/1", json!({"_access": for_all}));
    ada.save("note/7", json!({"text": "y"}));
    only(&mut heard, &["behind"]);

    // Ben reads it by a role that he gets later; a deleted record counts as it was.
    let for_role = json!([{"role": "reader", "level": "read"}]);
    ada.save("note/5", json!({"text": "x", "_access": for_role}));
    only(&mut heard, &[]);
    let assign = json!({"roles": ["reader"], "users": [ben.user]});
    master.call("role:assign", assign).result();
    let deleted = ada.call("record:delete", json!({"ids": ["note/5"]}));
    assert_eq!(deleted.result()[0]["_type"], "record");
    only(&mut heard, &["public"]);

    // A device without a user hears of what everyone may read.
    let gone = ben.call("device:unregister", json!({"id": device}));
    gone.result();
    ada.save("note/1", json!({"text": "x", "n": 1}));
    private(&ben, "note/4");
    ada.save("note/6", json!({"text": "x"}));
    only(&mut heard, &["public"]);
}
