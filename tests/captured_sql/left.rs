//! The store is rebuilt, or replaced by another: no change by SQL is lost or doubled.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use super::World;
use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::server::{TestServer, lasting_address};
use crate::support::{SetOnDrop, eventually};

const COLUMNS: &str = "_id, _database_id, _owner_id, _created_at, _updated_at, n";

fn skytrail(server: &TestServer, arguments: &[&str]) -> String {
    let output = server.skytrail(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}\n{}", server.output());
    said
}

/// Returns a world whose server is stopped, and whose tables hold something that is not in the log:
/// changes that wait, a parked row, and a constraint.
fn with_something_left() -> World {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.ada.save("note/2", json!({"n": 1}));
    world.applied();
    world.sql("ALTER TABLE note ADD CONSTRAINT small CHECK (n < 100)");
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    world.sql("UPDATE note SET extra = 'x' WHERE _id = '2'");
    world.settled();
    assert!(world.server.terminate().success());
    world.sql("UPDATE note SET n = n + 1 WHERE _id = '1'");
    world.sql("UPDATE note SET n = n + 1 WHERE _id = '1'");
    world.sql(&format!(
        "INSERT INTO note ({COLUMNS}) VALUES ('3', '', 'ada', now(), now(), 7)"
    ));
    world.sql("DELETE FROM note WHERE _id = '2'");
    world
}

/// Compares a server whose records are elsewhere now with what was left.
fn assert_nothing_is_lost_or_doubled(ada: &Client, master: &Client) {
    let fetched = ada.call(
        "record:fetch",
        json!({"ids": ["note/1", "note/2", "note/3"]}),
    );
    let fetched = fetched.result();
    assert_eq!((&fetched[0]["n"], &fetched[2]["n"]), (&json!(3), &json!(7)));
    assert_eq!(fetched[1]["code"], 110);
    let numbers = |record: &str| -> Vec<Json> {
        let listed = master.call("history:list", json!({"record": record}));
        let listed = listed.result()["versions"].clone();
        let versions = listed.as_array().unwrap().iter().rev();
        versions.map(|it| it["record"]["n"].clone()).collect()
    };
    assert_eq!(numbers("note/1"), [json!(1), json!(2), json!(3)]);
    assert_eq!(numbers("note/3"), [json!(7)]);
}

fn count(database: &Database<'_>, table: &str) -> String {
    database.sql(&format!("SELECT count(*) FROM app_myapp.{table}"))
}

#[test]
fn a_store_that_is_made_anew_has_what_sql_left_and_what_is_parked() {
    let mut world = with_something_left();
    let setting = format!("DATABASE_URL={}", world.database.url());
    let said = skytrail(&world.server, &["--set", &setting, "rebuild"]);
    assert!(said.contains("rebuilt from"), "{said}");
    // The old store takes no more changes; in the new one everything is already up to date.
    let old = "UPDATE \"app_myapp~old\".note SET n = 0";
    let refused = world.try_sql(old).unwrap_err();
    assert!(refused.contains("the record store is closed"), "{refused}");
    assert_eq!(
        world.sql("SELECT _id, n FROM note ORDER BY _id"),
        "1|3\n3|7\n"
    );
    let parked = world.sql("SELECT key, after->>'extra' FROM _parked");
    assert_eq!(parked, "2|x\n");
    assert_eq!(world.sql("SELECT count(*) FROM _outbox"), "0\n");
    world.server.restart();
    let (ada, master) = (world.ada.at(&world.server), Client::master(&world.server));
    assert_nothing_is_lost_or_doubled(&ada, &master);
    eventually("the constraint is back", || {
        let there = "SELECT count(*) FROM pg_constraint WHERE conname = 'small' \
                     AND connamespace = 'app_myapp'::regnamespace";
        (world.sql(there) == "1\n").then_some(())
    });
    world.sql("UPDATE note SET n = n + 1 WHERE _id = '1'");
    let fetched = ada.call("record:fetch", json!({"ids": ["note/1"]}));
    assert_eq!(fetched.result()[0]["n"], 4);
    let said = skytrail(&world.server, &["--set", &setting, "rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
}

#[test]
fn a_move_to_another_database_takes_along_what_sql_left_and_what_is_parked() {
    let mut world = with_something_left();
    let other = shared().database(&[]);
    let setting = format!("DATABASE_URL={}", world.database.url());
    let said = skytrail(
        &world.server,
        &["--set", &setting, "rebuild", "--to", &other.url()],
    );
    assert!(said.contains("the next start uses it"), "{said}");
    // A change between the command and the start.
    world.sql("UPDATE note SET n = 8 WHERE _id = '1'");
    world.server.restart();
    let (ada, master) = (world.ada.at(&world.server), Client::master(&world.server));
    let fetched = ada.call("record:fetch", json!({"ids": ["note/1"]}));
    assert_eq!(fetched.result()[0]["n"], 8);
    assert_eq!(count(&world.database, "_outbox"), "0\n");
    assert_eq!(count(&world.database, "_parked"), "0\n");
    let refused = world.try_sql("UPDATE note SET n = 0").unwrap_err();
    assert!(refused.contains("the record store is closed"), "{refused}");
    let listed = master.call("captured:list", json!({})).result();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["after"]["extra"], "x");
    // The row has a number of the other database, which means nothing here. It is retried all the
    // same, and fails for the same reason.
    let retried = master.call("captured:retry", json!({"all": true})).result();
    assert_eq!(retried["retried"], 1);
    let again = &retried["parked"][0];
    assert_eq!(again["reason"], listed[0]["reason"], "{retried}");
    // A file cannot hold it.
    let output = world
        .server
        .skytrail(&["--set", &setting, "rebuild", "--to", "file"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("1 rows"),
        "{said}"
    );
    master
        .call("captured:discard", json!({"all": true}))
        .result();
    other.sql("UPDATE app_myapp.note SET n = 4 WHERE _id = '1'");
    assert!(world.server.terminate().success());
    other.sql("UPDATE app_myapp.note SET n = 5 WHERE _id = '1'");
    skytrail(
        &world.server,
        &["--set", &setting, "rebuild", "--to", "file"],
    );
    world.server.restart();
    let (ada, master) = (world.ada.at(&world.server), Client::master(&world.server));
    let fetched = ada.call("record:fetch", json!({"ids": ["note/1"]}));
    assert_eq!(fetched.result()[0]["n"], 5);
    assert_eq!(count(&other, "_outbox"), "0\n");
    assert_eq!(master.call("captured:list", json!({})).result(), json!([]));
    let said = skytrail(&world.server, &["--set", &setting, "rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
}

/// A plugin keeps counting while the store moves, in whichever store accepts its changes.
#[test]
fn counting_by_sql_goes_on_while_the_store_moves_and_comes_back() {
    let databases = [shared().database(&[]), shared().database(&[])];
    let urls = databases.each_ref().map(Database::url);
    let settings = [("HOST", &*lasting_address()), ("DATABASE_URL", &urls[0])];
    let server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 0}));
    ada.query("note", json!(null));
    let (is_over, done, tried) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let count = || {
        while !is_over.load(Ordering::Relaxed) {
            for database in &databases {
                tried.fetch_add(1, Ordering::Relaxed);
                let sql = "UPDATE app_myapp.note SET n = n + 1 RETURNING n";
                let is_done = database.try_sql(sql).is_ok_and(|said| !said.is_empty());
                done.fetch_add(u64::from(is_done), Ordering::Relaxed);
            }
        }
    };
    let await_more = || {
        let before = done.load(Ordering::Relaxed);
        eventually("counting goes on", || {
            (done.load(Ordering::Relaxed) > before + 5).then_some(())
        });
    };
    let setting = format!("DATABASE_URL={}", urls[0]);
    std::thread::scope(|scope| {
        let _ending = SetOnDrop(&is_over);
        scope.spawn(count);
        await_more();
        for url in [&urls[1], &urls[0]] {
            skytrail(&server, &["--set", &setting, "rebuild", "--to", url]);
            await_more();
        }
    });
    let done = done.into_inner();
    eventually("everything is taken in", || {
        let fetched = ada.call("record:fetch", json!({"ids": ["note/1"]}));
        (fetched.result()[0]["n"] == done).then_some(())
    });
    let master = Client::master(&server);
    let listed = master.call("history:list", json!({"record": "note/1", "limit": 1000}));
    let numbers: Vec<u64> = listed.result()["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["record"]["n"].as_f64().unwrap() as u64)
        .collect();
    let expected: Vec<u64> = (0..=done).rev().collect();
    assert_eq!(numbers, expected, "each once and in order");
    assert!(
        tried.into_inner() > done,
        "the store that is left took nothing"
    );
}

#[test]
fn parked_rows_keep_their_numbers_in_a_store_that_is_made_anew() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    let park = |world: &World, value: &str| {
        world.sql(&format!("UPDATE note SET extra = '{value}'"));
        world.settled();
    };
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    for value in ["first", "second", "third"] {
        park(&world, value);
    }
    let numbered = |world: &World| world.sql("SELECT id, after->>'extra' FROM _parked ORDER BY id");
    let all = numbered(&world);
    let number = |line: &str| line.split('|').next().unwrap().parse::<u64>().unwrap();
    let last = all.lines().last().map(number).unwrap();
    let rest = json!({"ids": [number(all.lines().next().unwrap()), last]});
    world.master.call("captured:discard", rest).result();
    let kept = numbered(&world);
    assert!(world.server.terminate().success());
    let setting = format!("DATABASE_URL={}", world.database.url());
    skytrail(&world.server, &["--set", &setting, "rebuild"]);
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    assert_eq!(numbered(&world), kept);
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    park(&world, "later");
    let later = numbered(&world).lines().last().map(number).unwrap();
    assert!(later > last, "{later} after {last}");
}

/// The log has no such column, so it is no difference.
#[test]
fn a_column_of_others_is_no_difference_and_is_named_when_it_stays_behind() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql("ALTER TABLE note ADD COLUMN extra text DEFAULT 'theirs'");
    world
        .ada
        .save("note/1", json!({"text": "a field after it"}));
    world.applied();
    assert!(world.server.terminate().success());
    let setting = format!("DATABASE_URL={}", world.database.url());
    let said = skytrail(&world.server, &["--set", &setting, "rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
    let output = world.server.skytrail(&["--set", &setting, "rebuild"]);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no longer has the column extra"), "{said}");
    let kept = "SELECT extra FROM \"app_myapp~old\".note";
    assert_eq!(world.sql(kept), "theirs\n");
}
