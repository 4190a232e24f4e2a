//! Live queries while what SQL has changed is on its way into the log: the rows are ahead of it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::World;
use crate::live::listener::{Followed, Listener};
use crate::support::client::Client;
use crate::support::postgres::Session;

const NAME: &str = "q";

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

impl World {
    /// From now on, the log gets nothing that SQL changes, until the session's transaction ends.
    fn hold_the_capture(&self) -> Session {
        let held = self.session("BEGIN; LOCK TABLE _lifted IN ACCESS EXCLUSIVE MODE");
        self.held_up();
        held
    }

    /// Returns what a client knows that has gone away.
    fn gone(&self, client: &Client, query: &Json) -> Followed {
        let mut listener = Listener::open(&self.server, client);
        listener.subscribe(NAME, query.clone()).clone()
    }

    /// The client is back and has asked.
    fn back(&self, client: &Client, query: &Json, known: &Followed) -> Listener {
        let mut query = query.clone();
        query["from"] = known.position.into();
        let mut listener = Listener::open(&self.server, client);
        listener.followed.insert(NAME.to_owned(), known.resumed());
        listener.ask(NAME, query);
        listener
    }

    /// Checks that a client has what the log says, after everything is in it.
    fn assert_current(&self, listener: &mut Listener, client: &Client, query: &Json) {
        self.settled();
        let last = json!({"text": "last", "n": 1, "room": reference("room/last")});
        self.ada.save("note/last", last);
        listener.until(NAME, |it| it.records.contains_key("note/last"));
        // What was told in the same difference has arrived when the next one does.
        let deleted = json!({"ids": ["note/last"]});
        self.ada.call("record:delete", deleted).result();
        listener.until(NAME, |it| !it.records.contains_key("note/last"));
        let found = client.call("record:query", query.clone()).result();
        let found = found.as_array().unwrap().iter();
        let found: BTreeMap<&str, &Json> = found
            .map(|record| (record["_id"].as_str().unwrap(), record))
            .collect();
        let followed = listener.followed[NAME].records.iter();
        let followed: BTreeMap<&str, &Json> =
            followed.map(|(id, record)| (id.as_str(), record)).collect();
        assert_eq!(followed, found);
    }
}

fn reference(id: &str) -> Json {
    json!({"$type": "ref", "$id": id})
}

/// A query of plain records, one that shows others with them, and one that depends on others.
fn queries() -> [Json; 3] {
    let few = json!(["lt", path("n"), 5]);
    [
        json!({"record_type": "note", "predicate": few}),
        json!({"record_type": "note", "predicate": few, "include": {"room": path("room")}}),
        json!({"record_type": "note", "predicate": ["lt", path("room.n"), 5]}),
    ]
}

/// A room with notes in it, of which the first is ada's own, and somebody else who reads.
fn with_notes() -> (World, Client) {
    let world = World::new();
    world.ada.save("room/1", json!({"n": 1}));
    world.ada.save("room/2", json!({"n": 9}));
    world.ada.save("room/last", json!({"n": 1}));
    for id in 1..=6 {
        let fields = json!({"n": id, "text": "saved", "room": reference("room/1")});
        world.ada.save(&format!("note/{id}"), fields);
    }
    world.ada.query("note", Json::Null);
    world.sql("UPDATE note SET text = 'by sql' WHERE _id = '6'");
    world.settled();
    let bob = Client::signed_up(&world.server, "bob");
    (world, bob)
}

/// What SQL does while the clients are away, and what undoes it.
const CHANGES: [[&str; 2]; 4] = [
    [
        "UPDATE note SET n = 9, room = '2' WHERE _id IN ('1', '2')",
        "UPDATE note SET n = 1, room = '1' WHERE _id IN ('1', '2')",
    ],
    [
        "UPDATE note SET _access = '[]', text = 'secret' WHERE _id IN ('1', '2')",
        "UPDATE note SET _access = '[{\"public\": true, \"level\": \"read\"}]' WHERE _id IN ('1', '2')",
    ],
    [
        "UPDATE room SET n = 9 WHERE _id = '1'",
        "UPDATE room SET n = 1 WHERE _id = '1'",
    ],
    [
        "DELETE FROM note WHERE _id IN ('1', '2')",
        "INSERT INTO note (_id, _database_id, _owner_id, _created_at, _updated_at, n, room) \
         VALUES ('1', '', 'ada', now(), now(), 1, '1'), ('2', '', 'ada', now(), now(), 2, '1')",
    ],
];

#[test]
fn who_returns_before_the_log_has_what_sql_did_is_told_of_it() {
    let (world, bob) = with_notes();
    for sql in CHANGES.iter().flatten() {
        let known = queries().map(|query| world.gone(&bob, &query));
        let mut held = world.hold_the_capture();
        world.sql(sql);
        let mut back = Vec::new();
        for (query, known) in queries().iter().zip(&known) {
            back.push(world.back(&bob, query, known));
        }
        let has_returned = |it: &Followed| !it.is_returning();
        // The last one depends on what is on its way.
        for back in &mut back[..2] {
            back.until(NAME, has_returned);
        }
        held.sql("COMMIT");
        for (back, query) in back.iter_mut().zip(&queries()) {
            back.until(NAME, has_returned);
            world.assert_current(back, &bob, query);
        }
    }
}

#[test]
fn what_sql_did_and_the_log_refuses_is_in_no_result() {
    let (world, bob) = with_notes();
    world
        .ada
        .save("mark/1", json!({"note": reference("note/1")}));
    world
        .ada
        .save("mark/2", json!({"note": reference("note/2")}));
    world.ada.query("mark", Json::Null);
    let query = &queries()[0];
    // Marks refer to these notes, and no room has the other's key.
    for sql in [
        "DELETE FROM note WHERE _id IN ('1', '2')",
        "UPDATE note SET n = 9, room = 'none' WHERE _id = '1'",
        "UPDATE note SET n = 0, room = 'none' WHERE _id = '6'",
        "INSERT INTO note (_id, _database_id, _owner_id, _created_at, _updated_at, n, room) \
         VALUES ('7', '', 'ada', now(), now(), 1, 'none')",
    ] {
        let known = world.gone(&bob, query);
        let mut held = world.hold_the_capture();
        world.sql(sql);
        let mut back = world.back(&bob, query, &known);
        let mut fresh = Listener::open(&world.server, &bob);
        fresh.subscribe(NAME, query.clone());
        back.until(NAME, |it| !it.is_returning());
        held.sql("COMMIT");
        for listener in [&mut back, &mut fresh] {
            world.assert_current(listener, &bob, query);
        }
    }
}

/// More than are looked up one by one.
#[test]
fn who_returns_before_the_log_has_very_much_waits_for_it() {
    let (world, bob) = with_notes();
    let notes: Vec<Json> = (0..700)
        .map(|id| json!({"_id": format!("note/many{id}"), "n": 1, "room": reference("room/1")}))
        .collect();
    world
        .ada
        .call("record:save", json!({"records": notes}))
        .result();
    world.ada.query("note", Json::Null);
    let query = &queries()[0];
    let known = world.gone(&bob, query);
    let mut held = world.hold_the_capture();
    world.sql("UPDATE note SET n = 9 WHERE _id LIKE 'many%'");
    let mut back = world.back(&bob, query, &known);
    held.sql("COMMIT");
    back.until(NAME, |it| !it.is_returning());
    world.assert_current(&mut back, &bob, query);
}

/// Queries that look into other records wait for what SQL has changed of those.
#[test]
fn who_waits_for_the_log_holds_up_nobody_else() {
    let (world, bob) = with_notes();
    world.ada.save("mark/1", json!({"n": 1}));
    world.ada.query("mark", Json::Null);
    let mut held = world.hold_the_capture();
    world.sql("UPDATE room SET n = 2 WHERE _id = '1'");
    // As many as are looked up at once.
    let number = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let waiting = (0..number).map(|number| {
        let mut listener = Listener::open(&world.server, &bob);
        let few = json!(["lt", path("room.n"), 5 + number]);
        listener.ask(NAME, json!({"record_type": "note", "predicate": few}));
        listener
    });
    let mut waiting: Vec<Listener> = waiting.collect();
    let marks = json!({"record_type": "mark"});
    for (name, listener) in [
        ("over the same connection", &mut waiting[0]),
        ("over another", &mut Listener::open(&world.server, &bob)),
    ] {
        let found = listener.subscribe(name, marks.clone());
        assert_eq!(found.records.len(), 1);
    }
    held.sql("COMMIT");
    for listener in &mut waiting {
        listener.until(NAME, |it| it.num_ready == 1);
        // It was not told in between that the log is too late.
        let followed = &listener.followed[NAME];
        assert_eq!(followed.events, ["result", "ready"]);
        assert_eq!(followed.records.len(), 6);
    }
}
