//! The numbers that records get when their type gets a sequence field: they are the same wherever
//! the past is shown, also if the store keeps the past, and restoring a record does not change them.

use serde_json::{Value as Json, json};

use super::{delete, fetch, restore, versions};
use crate::support::client::Client;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

/// A server whose store is a file or a database.
struct World {
    server: TestServer,
    /// Where commands find the store as well.
    url: String,
    master: Client,
}

impl World {
    fn new(url: &str) -> Self {
        let server = TestServer::with(&[("DATABASE_URL", url)]);
        let master = Client::master(&server);
        let url = format!("DATABASE_URL={url}");
        Self {
            server,
            url,
            master,
        }
    }

    /// Rebuilds the store, after checking that a store built from the log is the same.
    fn rebuild(&mut self) {
        assert!(self.server.terminate().success());
        for command in [&["rebuild", "--verify"][..], &["rebuild"]] {
            let arguments = [&["--set", &self.url][..], command].concat();
            let output = self.server.skytrail(&arguments);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}");
        }
        self.server.restart();
        self.master = self.master.at(&self.server);
    }

    fn head(&self) -> Json {
        let read = self.master.call("log:read", json!({"limit": 1})).json();
        read["info"]["head"].clone()
    }

    fn save(&self, id: &str, text: &str) -> Json {
        self.master.save(id, json!({ "text": text }))
    }

    fn add_field(&self, name: &str) -> Json {
        let fields = json!([{"name": name, "type": "sequence"}]);
        let body = json!({"record_types": {"bill": {"fields": fields}}});
        self.master.call("schema:create", body).result();
        self.head()
    }

    /// Asserts the numbers that records had at a position, whichever way one asks.
    fn assert_numbers(&self, as_of: &Json, field: &str, expected: &[(&str, Json)]) {
        let ids: Vec<&str> = expected.iter().map(|(id, _)| *id).collect();
        let shown = |records: &Json| -> Vec<(String, Json)> {
            let records = records.as_array().unwrap().iter();
            let number = |it: &Json| (it["_id"].as_str().unwrap().to_owned(), it[field].clone());
            let mut shown: Vec<_> = records.map(number).collect();
            shown.sort_by_key(|(id, _)| ids.iter().position(|it| it == id));
            shown
        };
        let wanted: Vec<(String, Json)> = expected
            .iter()
            .map(|(id, number)| ((*id).to_owned(), number.clone()))
            .collect();
        let body = json!({"ids": ids, "as_of": as_of});
        let fetched = self.master.call("record:fetch", body).result();
        assert_eq!(shown(&fetched), wanted, "fetched as of {as_of}");
        for action in ["record:query", "record:export"] {
            let body = json!({"record_type": "bill", "as_of": as_of});
            let found = self.master.call(action, body).result();
            assert_eq!(shown(&found), wanted, "{action} as of {as_of}");
        }
    }
}

fn check_every_way_to_look(mut world: World, is_temporal: bool) {
    for id in ["bill/1", "bill/2", "bill/3", "bill/4"] {
        world.save(id, "first");
    }
    let temporal = json!({"type": "bill", "temporal": is_temporal});
    world.master.call("schema:temporal", temporal).result();
    // The order of creation is not that of the ids.
    delete(&world.master, "bill/2");
    world.save("bill/2", "again");
    delete(&world.master, "bill/4");
    let before = world.head();
    let none = Json::Null;
    let without = [
        ("bill/1", none.clone()),
        ("bill/2", none.clone()),
        ("bill/3", none),
    ];
    let with = [
        ("bill/1", json!(1)),
        ("bill/2", json!(3)),
        ("bill/3", json!(2)),
    ];
    let given = world.add_field("no");
    world.assert_numbers(&before, "no", &without);
    world.assert_numbers(&given, "no", &with);

    world.save("bill/1", "changed");
    // More changes than one full state serves.
    for number in 0..40 {
        world.save("bill/2", &format!("changed {number}"));
    }
    let changed = world.head();
    delete(&world.master, "bill/3");
    world.save("bill/5", "new");
    for _ in 0..2 {
        world.assert_numbers(&before, "no", &without);
        world.assert_numbers(&given, "no", &with);
        world.assert_numbers(&changed, "no", &with);
        let listed = versions(&world.master, "bill/1");
        let numbers: Vec<&Json> = listed.iter().map(|it| &it["record"]["no"]).collect();
        assert_eq!(numbers, [&json!(1), &Json::Null]);
        // The version did not change the number.
        let changes = json!({"text": {"before": "first", "after": "changed"}});
        assert_eq!(listed[0]["changes"], changes);
        assert_eq!(
            versions(&world.master, "bill/3")[0]["changes"]["no"]["before"],
            2
        );
        world.rebuild();
    }

    let rename = json!({"record_type": "bill", "item_name": "no", "new_name": "number"});
    world.master.call("schema:rename", rename).result();
    world.assert_numbers(&given, "no", &with);
    world.assert_numbers(&changed, "no", &with);
    let drop = json!({"record_type": "bill", "item_name": "number"});
    let renamed = world.head();
    world.master.call("schema:delete", drop).result();
    assert_eq!(fetch(&world.master, "bill/1", &renamed)["number"], 1);
    world.assert_numbers(&given, "no", &with);
    world.rebuild();
    world.assert_numbers(&given, "no", &with);

    // The same field once more, with other numbers.
    let dropped = world.head();
    let again = world.add_field("no");
    let two = [("bill/1", json!(1)), ("bill/2", json!(2))];
    let five = ("bill/5", json!(3));
    let without = [
        ("bill/1", Json::Null),
        ("bill/2", Json::Null),
        ("bill/5", Json::Null),
    ];
    for _ in 0..2 {
        world.assert_numbers(&given, "no", &with);
        world.assert_numbers(&dropped, "no", &without);
        world.assert_numbers(
            &again,
            "no",
            &[two.as_slice(), std::slice::from_ref(&five)].concat(),
        );
        world.rebuild();
    }
}

fn check_what_is_restored(mut world: World) {
    for id in ["bill/1", "bill/2", "bill/3"] {
        world.save(id, "first");
    }
    let before = world.head();
    let given = world.add_field("no");
    let number = |world: &World, id: &str| {
        let body = json!({"ids": [id]});
        world.master.call("record:fetch", body).result()[0]["no"].clone()
    };
    for as_of in [&given, &before] {
        // Living, then deleted.
        world.save("bill/1", "changed");
        assert_eq!(restore(&world.master, "bill/1", as_of)["no"], 1, "{as_of}");
        delete(&world.master, "bill/1");
        assert_eq!(restore(&world.master, "bill/1", as_of)["no"], 1, "{as_of}");
        assert_eq!(number(&world, "bill/1"), 1);
    }
    // Another record under the same id has a number of its own, also when it becomes what the first
    // one was before there were numbers.
    delete(&world.master, "bill/2");
    assert_eq!(world.save("bill/2", "another")["no"], 4);
    assert_eq!(restore(&world.master, "bill/2", &before)["no"], 4);
    // A number that was changed since is not taken back by what was before all numbers.
    world.master.save("bill/3", json!({"no": 10}));
    assert_eq!(restore(&world.master, "bill/3", &before)["no"], 10);
    delete(&world.master, "bill/3");
    assert_eq!(restore(&world.master, "bill/3", &before)["no"], 10);
    assert_eq!(restore(&world.master, "bill/3", &given)["no"], 3);
    world.rebuild();
    assert_eq!(number(&world, "bill/1"), 1);
}

fn check_what_is_erased(mut world: World) {
    for id in ["bill/1", "bill/2", "bill/3", "bill/4"] {
        world.save(id, "first");
        world.save(id, "second");
    }
    world.add_field("no");
    for id in ["bill/3", "bill/4"] {
        world.save(id, "third");
    }
    let then = world.head();
    let erase = json!({"record": "bill/1", "why": "asked for"});
    world.master.call("erase:record", erase).result();
    let kept = json!({"type": "bill", "versions": 1});
    world.master.call("schema:retention", kept).result();
    world.save("bill/4", "fourth");
    world.master.call("log:compact", json!({})).result();
    let with = [
        ("bill/2", json!(2)),
        ("bill/3", json!(3)),
        ("bill/4", json!(4)),
    ];
    for _ in 0..2 {
        let now = world.head();
        world.assert_numbers(&now, "no", &with);
        for (id, number) in &with {
            let then = fetch(&world.master, id, &then);
            let is_gone = then["_type"] == "error";
            assert!(is_gone || then["no"] == *number, "{then}");
        }
        for (id, number) in &with[1..] {
            assert_eq!(versions(&world.master, id)[0]["record"]["no"], *number);
        }
        world.rebuild();
    }
}

#[test]
fn a_number_is_the_same_whichever_way_the_past_is_asked_for() {
    for is_temporal in [false, true] {
        check_every_way_to_look(World::new(""), is_temporal);
    }
}

#[test]
fn a_restored_record_keeps_its_number() {
    check_what_is_restored(World::new(""));
}

#[test]
fn what_was_erased_changes_no_number() {
    check_what_is_erased(World::new(""));
}

#[test]
fn numbers_of_the_past_are_the_same_in_postgresql() {
    for is_temporal in [false, true] {
        let database = shared().database(&[]);
        check_every_way_to_look(World::new(&database.url()), is_temporal);
    }
    for check in [check_what_is_restored, check_what_is_erased] {
        let database = shared().database(&[]);
        check(World::new(&database.url()));
    }
}
