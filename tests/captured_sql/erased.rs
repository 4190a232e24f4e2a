//! Erasures cover what was changed by SQL, including what waits and what is parked.

use serde_json::json;

use super::World;
use crate::erasure::search::places_of;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres, shared};
use crate::support::wire::Wire;

/// Text that occurs only where a test puts it.
const CANARY: &str = "canary-sql-71c0d95e";
/// Text that stays.
const CONTROL: &str = "control-sql-0be6a2f3";

impl World {
    fn erase(&self, what: &str, mut body: serde_json::Value) {
        body["why"] = json!("asked for on paper");
        let erased = self.master.call(&format!("erase:{what}"), body).result();
        let is_finished = || {
            let listed = self
                .master
                .call("erase:list", json!({"limit": 20}))
                .result();
            let listed = listed["erasures"].as_array().unwrap().clone();
            listed
                .iter()
                .all(|it| it["finished"] != false)
                .then_some(())
        };
        if erased["finished"] != true {
            eventually("it is erased", is_finished);
        }
        assert_eq!(
            self.database.relations_with(CANARY),
            Vec::<String>::new(),
            "{what}"
        );
        assert_eq!(places_of(&self.server, CANARY), Vec::<String>::new());
        assert!(!self.database.relations_with(CONTROL).is_empty());
        let parked = "SELECT key FROM _parked ORDER BY id";
        assert_eq!(self.sql(parked), "stays\n", "{what}");
    }
}

/// Changes notes by SQL so that each row is parked, with everything it holds.
fn park(world: &World, key: &str, text: &str) {
    world.sql(&format!(
        "UPDATE note SET text = '{text} parked', _access = '5' WHERE _id = '{key}'"
    ));
}

fn write(world: &World, client: &Client) {
    client.save(
        "note/gone",
        json!({"text": format!("{CANARY} saved"), "n": 1}),
    );
    world.applied();
    park(world, "gone", CANARY);
    world.sql(&format!(
        "UPDATE note SET text = '{CANARY} by sql' WHERE _id = 'gone'"
    ));
    world.settled();
    assert_eq!(
        world.sql("SELECT count(*) FROM _parked WHERE key <> 'stays'"),
        "1\n"
    );
    assert!(!world.database.relations_with(CANARY).is_empty());
    // This one still waits when the erasure begins, or has just been imported.
    world.sql(&format!(
        "UPDATE note SET text = '{CANARY} at last' WHERE _id = 'gone'"
    ));
}

/// Starts with a note that stays, and a parked row of it.
fn begin() -> World {
    begin_in(shared().database(&[]))
}

fn begin_in(database: Database<'static>) -> World {
    let world = World::in_database(database);
    world
        .ada
        .save("note/stays", json!({"text": CONTROL, "n": 1}));
    world.applied();
    park(&world, "stays", CONTROL);
    world.settled();
    world
}

#[test]
fn what_is_erased_is_not_parked_and_does_not_wait() {
    let world = begin();

    write(&world, &world.ada);
    world.erase("record", json!({"record": "note/gone"}));

    write(&world, &world.ada);
    world.erase("field", json!({"record": "note/gone", "field": "text"}));
    assert_eq!(world.fetch("note/gone")["n"], 1);

    // A user with a record, and a row of that user that was never a record.
    world.erase("record", json!({"record": "note/gone"}));
    let bob = Client::signed_up(&world.server, "bob");
    let id = bob.user.clone().unwrap();
    bob.save(&format!("user/{id}"), json!({"bio": CANARY}));
    write(&world, &bob);
    world.sql(&format!(
        "UPDATE \"user\" SET bio = '{CANARY} parked', _access = '5' WHERE _id = '{id}'; \
         INSERT INTO note (_id, _database_id, _owner_id, _created_at, _updated_at, text, _access) \
         VALUES ('never', '', '{id}', now(), now(), '{CANARY}', '5')"
    ));
    world.settled();
    assert_eq!(
        world.sql("SELECT count(*) FROM _parked WHERE key <> 'stays'"),
        "3\n"
    );
    world.erase("user", json!({"user": id, "records": true}));
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

#[test]
fn a_record_that_is_only_parked_can_be_erased() {
    let world = begin();
    let insert = |key: &str| {
        world.sql(&format!(
            "INSERT INTO note (_id, _database_id, _owner_id, _created_at, _updated_at, text, _access) \
             VALUES ('{key}', '', 'ada', now(), now(), '{CANARY}', '5')"
        ));
    };
    insert("never");
    world.settled();
    world.erase("record", json!({"record": "note/never"}));
    // One that still waits.
    insert("never");
    world.erase("record", json!({"record": "note/never"}));
    let erase = json!({"record": "note/never", "why": "nothing is left"});
    assert_eq!(world.master.call("erase:record", erase).code(), 110);
}

/// The store's writing connection is lost in the middle of it. Nothing else is written that would
/// open another one.
#[test]
fn an_erasure_goes_on_after_a_lost_connection() {
    let world = begin();
    write(&world, &world.ada);
    world.settled();
    let lock = "BEGIN; LOCK TABLE app_myapp._parked IN EXCLUSIVE MODE";
    let holding = world.database.session(lock);
    std::thread::scope(|scope| {
        scope.spawn(|| world.erase("record", json!({"record": "note/gone"})));
        eventually("it is forgotten in the store", || {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
            (world.sql(end) == "t\n").then_some(())
        });
        drop(holding);
    });
}

/// A dump, or any other transaction, may still see what is erased: the erasure waits for it, and
/// nothing else does.
#[test]
fn while_a_transaction_is_open_an_erasure_waits_and_queries_are_answered() {
    // In a shared server, the erasures of other tests would wait, too.
    let postgres = Postgres::start_with("").lasting();
    let world = begin_in(postgres.database(&[]));
    write(&world, &world.ada);
    world.settled();
    world.sql("CREATE TABLE public.other (n integer)");
    let name = "SET application_name TO 'the nightly report'";
    let open = [
        "INSERT INTO public.other VALUES (1)",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_myapp.note",
    ];
    let open = open.map(|sql| world.database.session(&format!("{name}; BEGIN; {sql}")));
    let num_segments = || {
        let journal = world.server.data_dir().join("journal");
        std::fs::read_dir(journal).unwrap().count()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| world.erase("record", json!({"record": "note/gone"})));
        let (mut number, mut segments) = (100, Vec::new());
        for (num_attempts, open) in (1..).zip(open) {
            eventually("the health names who is waited for", || {
                number += 1;
                let saved = json!({"text": CONTROL, "n": number});
                world.ada.save(&format!("note/{number}"), saved);
                let is_it = json!(["eq", {"$type": "keypath", "$val": "n"}, number]);
                assert_eq!(world.ada.query("note", is_it).len(), 1);
                let health = world.master.health();
                let reasons = health["reasons"].to_string();
                assert_eq!(health["erasures"]["num_finished"], 0);
                let said = world.server.output();
                (said.matches("an erasure is not done yet").count() >= num_attempts
                    && health["status"] == "degraded"
                    && reasons.contains("an erasure is not finished")
                    && reasons.contains("the nightly report, role postgres"))
                .then_some(())
            });
            segments.push(num_segments());
            drop(open);
        }
        assert_eq!(segments[0], segments[1], "the log is asked only once");
    });
    eventually("all is well again", || {
        (world.master.health()["status"] == "OK").then_some(())
    });
}

/// A transaction has written rows of a user, and is committed when all that was known of the user's
/// records is erased: one row is imported then, and one cannot be.
#[test]
fn what_a_transaction_has_written_of_an_erased_user_is_erased_when_it_is_committed() {
    // In a shared server, the erasures of other tests would wait, too.
    let postgres = Postgres::start_with("").lasting();
    let world = begin_in(postgres.database(&[]));
    let bob = Client::signed_up(&world.server, "bob");
    let id = bob.user.clone().unwrap();
    bob.save("memo/1", json!({"text": format!("{CANARY} saved")}));
    world.applied();
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, text, _access";
    let mut open = world.session(&format!(
        "BEGIN; INSERT INTO note ({columns}) VALUES \
         ('open', '', '{id}', now(), now(), '{CANARY} open', NULL), \
         ('never', '', '{id}', now(), now(), '{CANARY} never', '5')"
    ));
    std::thread::scope(|scope| {
        scope.spawn(|| world.erase("user", json!({"user": id, "records": true})));
        eventually("the erasure waits", || {
            let reasons = world.master.health()["reasons"].to_string();
            reasons.contains("may still see erased data").then_some(())
        });
        open.sql("COMMIT");
    });
    assert_eq!(world.fetch("note/open")["code"], 110);
    assert_eq!(world.versions("note/open").len(), 2, "it was imported");
    let listed = world.master.call("erase:list", json!({})).result();
    assert_eq!(listed["erasures"][0]["num_records"], 2, "{listed}");
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

/// The database keeps deleted rows for readers of a standby, too, if that reports them.
#[test]
fn an_erasure_waits_for_readers_of_a_standby() {
    let arguments = "-c hot_standby_feedback=on -c wal_receiver_status_interval=1";
    let primary = Postgres::start_with(arguments).lasting();
    let between = Wire::to(primary.folder());
    let standby = primary.standby(between.port());
    let world = begin_in(primary.database(&[]));
    write(&world, &world.ada);
    world.settled();
    primary.await_standby(&standby);
    let report = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_myapp.note";
    let report = standby.session(("postgres", world.database.name()), report);
    std::thread::scope(|scope| {
        scope.spawn(|| world.erase("record", json!({"record": "note/gone"})));
        eventually("the health names who is waited for", || {
            let reasons = world.master.health()["reasons"].to_string();
            reasons.contains("walreceiver").then_some(())
        });
        drop(report);
    });
}

/// A transaction that began before the erasure keeps a table for itself.
#[test]
fn an_erasure_does_not_wait_for_a_table_without_end() {
    let postgres = Postgres::start_with("").lasting();
    let world = begin_in(postgres.database(&[]));
    world.ada.save("memo/1", json!({"text": CONTROL}));
    write(&world, &world.ada);
    world.settled();
    let memo = world.sql(FILE_OF_MEMO);
    // It has no snapshot, so it sees nothing.
    let locking = world
        .database
        .session("BEGIN; LOCK TABLE app_myapp.note IN ACCESS SHARE MODE");
    std::thread::scope(|scope| {
        scope.spawn(|| world.erase("record", json!({"record": "note/gone"})));
        eventually("the health names who is waited for", || {
            let reasons = world.master.health()["reasons"].to_string();
            (reasons.contains("role postgres") && reasons.contains("holds a table")).then_some(())
        });
        world.ada.save("page/1", json!({"text": CONTROL}));
        assert_eq!(world.ada.query("page", json!(null)).len(), 1);
        assert_eq!(world.sql(FILE_OF_MEMO), memo, "a table was written in vain");
        drop(locking);
    });
    assert_ne!(world.sql(FILE_OF_MEMO), memo);
}

const FILE_OF_MEMO: &str = "SELECT pg_relation_filenode('memo')";

/// Returns the process that rewrites memos.
fn rewrites(world: &World) -> String {
    world.sql(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'VACUUM%memo%' AND state = 'active'",
    )
}

/// A transaction takes a table while another one is being rewritten: that one need not be rewritten
/// again. The server is also stopped meanwhile, which ends the rewriting.
#[test]
fn a_table_is_rewritten_once_for_an_erasure() {
    let postgres = Postgres::start().lasting();
    let mut world = begin_in(postgres.database(&[]));
    world.ada.save("memo/1", json!({"text": CONTROL}));
    write(&world, &world.ada);
    world.settled();
    // The index is made with the table's new file. It takes until nobody has the advisory lock.
    world.sql(
        "CREATE FUNCTION public.slow(value text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ \
         BEGIN WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP PERFORM pg_sleep(0.01); END LOOP; \
         RETURN value; END $$; \
         CREATE INDEX slow ON memo (public.slow(text))",
    );
    let slow = world.database.session("SELECT pg_advisory_lock(7)");
    let asking = world.master.at(&world.server);
    let asking = std::thread::spawn(move || {
        let body = json!({"record": "note/gone", "why": "asked for on paper"});
        asking.call("erase:record", body).result()
    });
    let first = eventually("a table is rewritten", || {
        Some(rewrites(&world)).filter(|pid| !pid.is_empty())
    });
    world.server.terminate();
    let asked = asking.join().unwrap();
    assert_eq!(
        asked["finished"], false,
        "the stop does not wait for the erasure"
    );
    eventually("the database has noticed that the server is gone", || {
        (rewrites(&world) != first).then_some(())
    });
    world.server.restart();
    world.master = world.master.at(&world.server);
    eventually("a table is rewritten", || {
        Some(rewrites(&world)).filter(|pid| !pid.is_empty())
    });
    let lock = "BEGIN; LOCK TABLE app_myapp.note IN ACCESS SHARE MODE";
    let locking = world.database.session(lock);
    drop(slow);
    eventually("the erasure waits", || {
        let reasons = world.master.health()["reasons"].to_string();
        reasons.contains("holds a table").then_some(())
    });
    let memo = world.sql(FILE_OF_MEMO);
    drop(locking);
    eventually("it is erased", || {
        let listed = world.master.call("erase:list", json!({})).result();
        (listed["erasures"][0]["finished"] != false).then_some(())
    });
    assert_eq!(world.sql(FILE_OF_MEMO), memo, "it was rewritten again");
    assert_eq!(world.database.relations_with(CANARY), Vec::<String>::new());
}

/// Frequent values are in the statistics of the table.
#[test]
fn what_is_erased_is_not_in_the_statistics() {
    let world = begin();
    let known = || {
        let sql = format!(
            "SELECT tablename FROM pg_stats WHERE schemaname = 'app_myapp' \
             AND concat(most_common_vals, histogram_bounds) LIKE '%{CANARY}%' ORDER BY 1"
        );
        world.sql(&sql)
    };
    let types = ["memo", "note", "page"];
    for kind in types {
        for key in ["one", "two"] {
            let record = format!("{kind}/{key}");
            world.ada.save(&record, json!({"text": CANARY, "n": 1}));
        }
    }
    world.applied();
    world.sql("CREATE VIEW pages AS SELECT text FROM page");
    world.sql("ANALYZE");
    assert_eq!(known(), "memo\nnote\npage\n");
    assert!(
        world
            .database
            .relations_with(CANARY)
            .join(",")
            .contains("pg_statistic")
    );
    let erase = |record: &str| {
        let body = json!({"record": record, "why": "asked for on paper"});
        world.master.call("erase:record", body).result();
    };
    erase("memo/one");
    erase("memo/two");
    erase("note/one");
    erase("note/two");
    erase("page/one");
    world.erase("record", json!({"record": "page/two"}));
    assert_eq!(known(), "");
}

/// What SQL writes to a personal record is sealed like any save. A record that SQL gives to another
/// user belongs to that user from then on, and stays when its first owner is erased.
#[test]
fn personal_records_that_sql_writes_to_go_with_who_owns_them() {
    let world = World::new();
    let mark = json!({"type": "note", "personal": true});
    world.master.call("schema:personal", mark).result();
    let bob = Client::signed_up(&world.server, "bob");
    for key in ["hers", "given"] {
        let fields = json!({"text": format!("{CANARY} saved"), "n": 1});
        world.ada.save(&format!("note/{key}"), fields);
    }
    world.applied();
    world.sql(&format!(
        "UPDATE note SET text = '{CANARY} by sql', n = 2 WHERE _id = 'hers'"
    ));
    let id = bob.user.clone().unwrap();
    world.sql(&format!(
        "UPDATE note SET text = '{CONTROL} of bob', _owner_id = '{id}' WHERE _id = 'given'"
    ));
    world.settled();
    assert_eq!(world.fetch("note/hers")["n"], 2);
    assert_eq!(places_of(&world.server, CANARY), Vec::<String>::new());
    assert_eq!(places_of(&world.server, CONTROL), Vec::<String>::new());

    let body = json!({"user": world.ada.user, "why": "asked for on paper"});
    let erased = world.master.call("erase:user", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(world.database.relations_with(CANARY), Vec::<String>::new());
    let ids = json!({"ids": ["note/hers", "note/given"]});
    let found = world.master.call("record:fetch", ids).result();
    assert_eq!(found[0]["code"], 110);
    assert_eq!(found[1]["text"], format!("{CONTROL} of bob"));
    let output = world.server.skytrail(&["log", "verify"]);
    assert!(output.status.success(), "{output:?}");
    let versions = world.versions("note/given");
    assert_eq!(versions[0]["record"]["_ownerID"], json!(id));
    assert!(versions[1].get("erased").is_some(), "{versions:?}");
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}
