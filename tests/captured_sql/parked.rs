//! Rows that could not be imported: listed, retried, discarded; and the metrics of all that.

use serde_json::{Value as Json, json};

use super::World;
use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::MASTER_KEY;

impl World {
    fn parked(&self) -> Vec<Json> {
        let listed = self.master.call("captured:list", json!({})).result();
        listed.as_array().unwrap().clone()
    }

    /// Runs `skytrail captured`; returns whether it succeeded and its output.
    fn captured(&self, arguments: &[&str]) -> (bool, String) {
        let key = format!("MASTER_KEY={MASTER_KEY}");
        let server = ["--server", &self.server.base_url];
        let all = [&["--set", &key, "captured"], &server[..], arguments].concat();
        let output = self.server.skytrail(&all);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}

fn ids(rows: &[Json]) -> Vec<u64> {
    rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
}

#[test]
fn parked_rows_are_listed_tried_again_and_forgotten() {
    let world = World::new();
    world.ada.save("room/1", json!({"n": 1}));
    world.ada.save(
        "note/1",
        json!({"n": 1, "room": {"$type": "ref", "$id": "room/1"}}),
    );
    world.applied();
    assert_eq!(
        world.captured(&["list"]),
        (true, "nothing is parked\n".into())
    );
    world.sql("UPDATE note SET room = 'later', n = 2 WHERE _id = '1'");
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    world.sql("UPDATE note SET n = 3, extra = 'x' WHERE _id = '1'");
    world.sql("UPDATE note SET room = 'never' WHERE _id = '1'");
    world.settled();
    let parked = world.parked();
    assert_eq!(parked.len(), 3, "{parked:?}");
    let first = &parked[0];
    assert_eq!(
        (&first["record"], &first["table"]),
        (&json!("note/1"), &json!("note"))
    );
    assert_eq!(first["before"]["room"], "1");
    assert_eq!(first["after"]["room"], "later");
    assert_eq!(first["role"], "postgres");
    assert!(first["reason"].as_str().unwrap().contains("room/later"));
    assert_eq!(first["columns"], json!([]));
    assert_eq!(parked[1]["columns"], json!(["extra"]));
    assert!(scrape(&world.server).contains("skytrail_captured_parked_rows 3\n"));
    let page = world
        .master
        .call("captured:list", json!({"after": first["id"], "limit": 1}));
    assert_eq!(page.result().as_array().unwrap()[..], parked[1..2]);
    let (is_done, said) = world.captured(&["list"]);
    assert!(is_done && said.lines().count() == 3, "{said}");
    assert!(
        said.contains("note/1") && said.contains("changed by postgres"),
        "{said}"
    );

    // The record that it referred to exists now. The row's other values are not restored, because
    // `n` was saved since.
    world.ada.save("room/later", json!({"n": 2}));
    world.ada.save("note/1", json!({"n": 9}));
    let [moved, extra, never] = ids(&parked)[..] else {
        panic!("{parked:?}");
    };
    let (is_done, said) = world.captured(&["retry", &moved.to_string()]);
    assert!(is_done && said.contains("1 rows imported"), "{said}");
    let note = world.fetch("note/1");
    assert_eq!(
        (&note["room"]["$id"], &note["n"]),
        (&json!("room/later"), &json!(2))
    );
    let version = &world.versions("note/1")[0];
    assert_eq!(version["sql"]["role"], "postgres");
    assert_eq!(version["sql"]["transaction"], first["transaction"]);

    // For a row that was imported except for one column, only that column is retried.
    world.sql("ALTER TABLE note DROP COLUMN extra");
    world.ada.save("note/1", json!({"n": 10, "extra": "mine"}));
    let retried = world
        .master
        .call("captured:retry", json!({"ids": [extra, never]}));
    let retried = retried.result();
    assert_eq!(retried["retried"], 2);
    let again = retried["parked"].as_array().unwrap();
    assert_eq!(again.len(), 1, "{retried}");
    assert!(again[0]["reason"].as_str().unwrap().contains("room/never"));
    let note = world.fetch("note/1");
    assert_eq!((&note["extra"], &note["n"]), (&json!("x"), &json!(10)));
    assert_eq!(ids(&world.parked()), ids(again));
    let (is_done, said) = world.captured(&["retry", "--all"]);
    assert!(!is_done && said.contains("1 rows parked again"), "{said}");

    let gone = world
        .master
        .call("captured:discard", json!({"ids": [never]}));
    assert_eq!(gone.code(), 110);
    for wrong in [
        json!({}),
        json!({"ids": ["x"]}),
        json!({"ids": [1], "all": true}),
    ] {
        assert_eq!(world.master.call("captured:discard", wrong).code(), 108);
    }
    let (is_done, said) = world.captured(&["discard", "--all"]);
    assert!(is_done && said.contains("1 rows discarded"), "{said}");
    assert_eq!(world.parked(), [json!(null); 0]);
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

#[test]
fn what_waits_and_whether_it_is_taken_in_is_shown() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    let health = world.master.health();
    assert_eq!(health["captured"]["is_active"], false);
    assert_eq!(health["captured"]["num_waiting"], 0);
    world.sql("UPDATE note SET n = 2");
    world.settled();
    let figures = eventually("the transaction is counted", || {
        let figures = scrape(&world.server);
        let num = figure(&figures, "skytrail_captured_transactions_total");
        (num == 1.0).then_some(figures)
    });
    assert_eq!(figure(&figures, "skytrail_captured_active"), 1.0);
    assert_eq!(figure(&figures, "skytrail_captured_waiting_rows"), 0.0);
    assert_eq!(figure(&figures, "skytrail_captured_failing"), 0.0);
    // Unreadable rows are not imported.
    world.sql("SET skytrail.own TO 'yes'; ALTER TABLE _outbox RENAME mark TO hidden");
    world.sql("UPDATE note SET n = 3");
    eventually("it is seen that something waits", || {
        let figures = scrape(&world.server);
        let is_seen = figure(&figures, "skytrail_captured_failing") == 1.0
            && figure(&figures, "skytrail_captured_waiting_rows") == 1.0
            && figure(&figures, "skytrail_captured_waiting_seconds") > 0.0;
        is_seen.then_some(())
    });
    assert_eq!(world.master.health()["captured"]["is_failing"], true);
    world.sql("ALTER TABLE _outbox RENAME hidden TO mark");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 3);
}

#[test]
fn a_row_whose_access_list_is_none_is_nobodys_until_it_is_parked() {
    let world = World::new();
    for id in ["1", "2", "3"] {
        world.ada.save(&format!("note/{id}"), json!({"n": 1}));
    }
    world.applied();
    // Nothing can be parked for now.
    world.sql(
        "SET skytrail.own TO 'yes'; \
         CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'not now'; END $$; \
         CREATE TRIGGER stop BEFORE INSERT ON _parked FOR EACH STATEMENT EXECUTE FUNCTION stop()",
    );
    world.sql("UPDATE note SET _access = '5' WHERE _id = '1'");
    world.sql("UPDATE note SET _access = '{\"role\": 5}' WHERE _id = '2'");
    let master = &world.master;
    eventually("the rows cannot be parked", || {
        (master.health()["captured"]["is_failing"] == true).then_some(())
    });
    let bob = Client::signed_up(&world.server, "bob");
    let found = bob.query("note", json!(null));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["_id"], "note/3");
    assert_eq!(master.query("note", json!(null)).len(), 3);
    world.sql("SET skytrail.own TO 'yes'; DROP TRIGGER stop ON _parked");
    world.settled();
    assert_eq!(bob.query("note", json!(null)).len(), 3);
}
