//! Changes by SQL are announced like other writes; only hooks do not hear of them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{PLACES_OF_BEFORE, ROLES_OF_BEFORE, World};
use crate::devices::{self, register, subscribe};
use crate::live::listener::{Followed, Listener};
use crate::live::stream::Stream;
use crate::plugin::worker::Worker;
use crate::stream::worker::{self as consumer, Worker as LogWorker};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

const COLUMNS: &str = "_id, _database_id, _owner_id, _created_at, _updated_at, stars, text";

fn insert(world: &World, id: &str, stars: i64) {
    world.sql(&format!(
        "INSERT INTO note ({COLUMNS}) VALUES ('{id}', '', 'ada', now(), now(), {stars}, 'by sql')"
    ));
}

#[test]
fn live_queries_are_told_what_sql_makes_of_their_results() {
    let world = World::new();
    world.ada.save("note/1", json!({"stars": 3, "text": "old"}));
    world.ada.save("note/2", json!({"stars": 1, "text": "old"}));
    world.applied();
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let mut socket = Listener::open(&world.server, &world.ada);
    socket.subscribe("q", query.clone());
    let mut stream = Stream::get(&world.server, &world.ada, &query, None);
    stream.until(|it| it.num_ready == 1);
    world.sql("UPDATE note SET stars = 4 WHERE _id = '2'");
    world.sql("UPDATE note SET text = 'new' WHERE _id = '1'");
    insert(&world, "3", 5);
    world.sql("UPDATE note SET stars = 0 WHERE _id = '1'");
    world.sql("DELETE FROM note WHERE _id = '2'");
    world.settled();
    // The last state in the log is the last that they receive.
    world.ada.save("note/last", json!({"stars": 9}));
    let is_told = |it: &Followed| it.records.contains_key("note/last");
    socket.until("q", is_told);
    stream.until(is_told);
    let told = ["enter", "change", "enter", "leave", "leave", "enter"];
    for followed in [&socket.followed["q"], &stream.followed] {
        assert_eq!(followed.events[2..], told);
        let ids: Vec<&String> = followed.records.keys().collect();
        assert_eq!(ids, ["note/3", "note/last"]);
        assert_eq!(followed.records["note/3"]["text"], "by sql");
    }
}

#[test]
fn subscriptions_and_the_logs_consumers_are_told_what_sql_changed() {
    let world = World::new();
    world.ada.save("note/1", json!({"stars": 1, "text": "old"}));
    world.applied();
    let device = register(&world.ada, "token");
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    subscribe(&world.ada, &device, "many", query);
    let mut notices = devices::Listener::new(&world.server, &device);
    consumer::create(&world.master, "search", &json!({}));
    let mut worker = LogWorker::connect(world.server.address(), "search", 8);
    world.sql("UPDATE note SET stars = 2 WHERE _id = '1'");
    world.sql("UPDATE note SET stars = 3 WHERE _id = '1'");
    let first = notices.hears("many");
    insert(&world, "2", 4);
    let second = notices.hears("many");
    world.sql("DELETE FROM note WHERE _id = '2'");
    assert!(first < second && second < notices.hears("many"));
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..4 {
        let event = worker.event();
        worker.ack(&event);
        let stream = consumer::stream(&event);
        let event = &event["event"];
        assert_eq!(event["actor"]["origin"], "sql", "{event}");
        assert_eq!(event["sql"]["role"], "postgres", "{event}");
        let kind = event["kind"].as_str().unwrap().to_owned();
        kinds.entry(stream).or_default().push(kind);
    }
    // Each record's events are in order.
    assert_eq!(kinds["record/note/1"], ["record.changed", "record.changed"]);
    assert_eq!(kinds["record/note/2"], ["record.created", "record.deleted"]);
}

#[test]
fn a_version_by_sql_says_who_when_and_in_which_transaction() {
    let world = World::new();
    world.ada.save("note/1", json!({"stars": 1}));
    world.applied();
    world.sql("DROP ROLE IF EXISTS teller");
    world.sql(
        "CREATE ROLE teller LOGIN; GRANT USAGE ON SCHEMA app_myapp TO teller; \
         GRANT SELECT, UPDATE ON note TO teller",
    );
    let said = world.database.sql_as(
        "teller",
        "BEGIN; UPDATE app_myapp.note SET stars = 2; \
         SELECT pg_current_xact_id(), to_char(statement_timestamp() AT TIME ZONE 'UTC', \
         'YYYY-MM-DD\"T\"HH24:MI:SS'); COMMIT",
    );
    let (transaction, second) = said.trim().split_once('|').unwrap();
    world.settled();
    let version = &world.versions("note/1")[0];
    assert_eq!(version["sql"]["role"], "teller");
    assert_eq!(
        version["sql"]["transaction"],
        json!(transaction.parse::<u64>().unwrap())
    );
    // The two statements are sent together, so they begin at the same time.
    assert_eq!(&version["sql"]["at"].as_str().unwrap()[..19], second);
    assert_eq!(
        version["changes"]["stars"],
        json!({"before": 1, "after": 2})
    );
    assert_eq!(version["actor"]["user"], Json::Null);
    // As of that position, and before it.
    let position = version["position"].as_u64().unwrap();
    for (as_of, stars) in [(position, 2), (position - 1, 1)] {
        let query = json!({
            "record_type": "note",
            "predicate": ["eq", path("stars"), stars],
            "as_of": as_of,
        });
        let found = world.master.call("record:query", query).result();
        assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    }
    world.sql("DROP OWNED BY teller; DROP ROLE teller");
}

/// A hook that wrote by SQL and was told of it would be called without end.
#[test]
fn hooks_are_not_asked_and_not_told_of_sql_so_nothing_goes_in_circles() {
    let database = shared().database(&[]);
    let settings = [("DATABASE_URL", &*database.url()), ("PLUGINS", "TEST")];
    let server = TestServer::with(&settings);
    let hook = |trigger: &str| {
        let is_after = trigger.starts_with("after");
        json!({"type": "note", "trigger": trigger, "name": trigger, "async": is_after})
    };
    let hook = ["beforeSave", "afterSave", "beforeDelete", "afterDelete"].map(hook);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"hook": hook}));
    let ada = Client::signed_up(&server, "ada");
    let serve = |worker: &mut Worker, name: &str| {
        let asked = worker.expect("request");
        assert_eq!(asked["name"], name, "{asked}");
        let record = asked["param"]["record"].clone();
        worker.answer_record(&asked, &json!({}));
        record
    };
    let save = |worker: &mut Worker, id: &str, n: i64| {
        std::thread::scope(|scope| {
            let saved = scope.spawn(|| ada.save(id, json!({"n": n})));
            serve(worker, "beforeSave");
            saved.join().unwrap();
        });
        serve(worker, "afterSave")
    };
    assert_eq!(save(&mut worker, "note/1", 1)["n"], 1);
    ada.query("note", json!(null));
    // Like an after-hook that changes the record it was told of.
    for n in 2..6 {
        database.sql(&format!("UPDATE app_myapp.note SET n = {n}"));
    }
    database.sql("DELETE FROM app_myapp.note");
    let fetched = ada.call("record:fetch", json!({"ids": ["note/1"]}));
    assert_eq!(fetched.result()[0]["code"], 110);
    // The next delivery is of the next save. The next one of the same record comes after everything
    // else of that record.
    for (id, n) in [("note/2", 7), ("note/1", 8)] {
        let told = save(&mut worker, id, n);
        assert_eq!((&told["_id"], &told["n"]), (&json!(id), &json!(n)));
    }
}

#[test]
fn sql_is_heard_of_however_long_the_apps_name_is() {
    let database = shared().database(&[]);
    let app = "a".repeat(63 - "app_".len());
    let settings = [("DATABASE_URL", &*database.url()), ("APP_NAME", &app)];
    let server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    ada.query("note", Json::Null);
    let listens = format!("LISTEN \"app_{app}\"");
    eventually("the server listens", || {
        let there = "SELECT query FROM pg_stat_activity WHERE datname = current_database()";
        database.sql(there).contains(&listens).then_some(())
    });
    let told = database.sql(&format!("{listens}; UPDATE app_{app}.note SET n = 2"));
    assert!(told.contains("Asynchronous notification"), "{told}");
    eventually("it is taken in", || {
        let found = ada.call("record:fetch", json!({"ids": ["note/1"]}));
        (found.result()[0]["n"] == 2).then_some(())
    });
}

/// Up to format 5 the announcements had a prefix before the schema's name.
#[test]
fn a_store_from_before_announces_what_the_server_listens_to() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"stars": 1}));
    world.applied();
    assert!(world.server.terminate().success());
    world.sql(
        "SET skytrail.own TO 'yes'; UPDATE _checkpoint SET format = 5; DROP TABLE _lost, _numbered; \
         DO $$ BEGIN EXECUTE replace(pg_get_functiondef('_capture'::regproc), \
         'pg_notify(TG_TABLE_SCHEMA', 'pg_notify(''skytrail.'' || TG_TABLE_SCHEMA'); END $$",
    );
    world.sql(ROLES_OF_BEFORE);
    world.sql(PLACES_OF_BEFORE);
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    let told = world.sql("LISTEN app_myapp; UPDATE note SET stars = 2");
    assert!(told.contains("Asynchronous notification"), "{told}");
    world.settled();
    assert_eq!(world.fetch("note/1")["stars"], 2);
}
