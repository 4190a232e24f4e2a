//! Notices of changes that were committed while notices were stopped, for records that have changed
//! again since.

use serde_json::{Value as Json, json};

use super::{Listener, register, subscribe};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// A server whose notices lag behind.
struct World {
    server: TestServer,
    master: Client,
    ada: Client,
    device: String,
}

impl World {
    /// Ada subscribes to queries; notices are stopped for now.
    fn new(rules: &[Json], subscriptions: &[(&str, Json)]) -> Self {
        let server = TestServer::start();
        let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
        let fields = |fields: &[(&str, &str)]| {
            let fields = fields.iter();
            let fields = fields.map(|(name, kind)| json!({"name": name, "type": kind}));
            json!({"fields": fields.collect::<Json>()})
        };
        let note = [
            ("text", "string"),
            ("secret", "string"),
            ("room", "ref(room)"),
        ];
        let types = json!({
            "room": fields(&[("name", "string")]),
            "note": fields(&note),
            "mark": fields(&[("text", "string")]),
        });
        let create = json!({"record_types": types});
        master.call("schema:create", create).result();
        let body = json!({"access": rules});
        master.call("schema:field_access:update", body).result();
        master.save("room/r", json!({"name": "r"}));
        let device = register(&ada, "t");
        for (name, query) in subscriptions {
            subscribe(&ada, &device, name, query.clone());
        }
        for name in ["begin", "end"] {
            let query = json!({"record_type": "mark", "predicate": is("text", name)});
            subscribe(&ada, &device, name, query);
        }
        // The position of notices is kept once a device is listening.
        let mut listener = Listener::new(&server, &device);
        ada.save("mark/1", json!({"text": "begin"}));
        listener.hears("begin");
        drop(listener);
        let mut world = Self {
            server,
            master,
            ada,
            device,
        };
        world.go_on("YES");
        world
    }

    fn go_on(&mut self, is_slave: &str) {
        assert!(self.server.terminate().success());
        self.server.set("SLAVE", is_slave);
        self.server.restart();
        self.ada = self.ada.at(&self.server);
        self.master = Client::master(&self.server);
    }

    fn rename(&self, record_type: &str, from: &str, to: &str) {
        let body = json!({"record_type": record_type, "item_name": from, "new_name": to});
        self.master.call("schema:rename", body).result();
    }

    /// Lets notices continue; returns the names of the subscriptions that they are about, in order.
    fn catch_up(&mut self) -> Vec<String> {
        self.go_on("NO");
        let mut listener = Listener::new(&self.server, &self.device);
        self.ada.save("mark/2", json!({"text": "end"}));
        let mut told = Vec::new();
        loop {
            match listener.notice().0.as_str() {
                "begin" => {}
                "end" => return told,
                name => told.push(name.to_owned()),
            }
        }
    }
}

fn is(path: &str, value: &str) -> Json {
    json!(["eq", {"$type": "keypath", "$val": path}, value])
}

fn notes(predicate: Json) -> Json {
    json!({"record_type": "note", "predicate": predicate})
}

#[test]
fn a_change_is_told_by_the_names_that_fields_had() {
    let hidden = json!({"record_type": "note", "record_field": "secret", "user_role": "_public",
        "writable": false, "readable": false, "comparable": false, "discoverable": false});
    let subscriptions = [
        ("guess", notes(is("secret", "x"))),
        ("text", notes(is("text", "x"))),
        ("room", notes(is("room.name", "r"))),
    ];
    let mut world = World::new(&[hidden], &subscriptions);
    let room = json!({"$type": "ref", "$id": "room/r"});
    let note = json!({"text": "x", "secret": "x", "room": room});
    world.master.save("note/1", note);
    world.rename("note", "text", "title");
    world.rename("room", "name", "label");
    // Another field has the name of the hidden one; everybody may search it.
    world.rename("note", "secret", "hidden");
    world.master.save("note/2", json!({"secret": "y"}));
    assert_eq!(world.catch_up(), ["room", "text"]);
}

#[test]
fn who_has_a_record_hears_that_it_is_gone_though_nothing_is_left_of_it() {
    let subscriptions = [
        ("notes", notes(is("text", "x"))),
        ("rooms", json!({"record_type": "room"})),
    ];
    let mut world = World::new(&[], &subscriptions);
    world.master.save("note/1", json!({"text": "x"}));
    let body = json!({"record": "note/1", "why": "a test"});
    let erased = world.master.call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(world.catch_up(), ["notes"]);
}
