//! The owner of the record tables can disable and drop their triggers: the server restores them,
//! and says so when it cannot.

use serde_json::json;

use super::World;
use crate::support::client::Client;
use crate::support::eventually;

/// The triggers of notes that fire.
const FIRING: &str = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'note'::regclass \
    AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname";

const WARNING: &str = "note are captured again";

fn with_note() -> World {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world
}

fn await_triggers(world: &World) {
    eventually("the triggers are back", || {
        (world.sql(FIRING) == "_capture\n_keep_place\n_refuse\n").then_some(())
    });
}

#[test]
fn a_trigger_that_is_taken_away_comes_back() {
    let world = with_note();
    let taken_away = [
        "ALTER TABLE note DISABLE TRIGGER _capture",
        "ALTER TABLE note DISABLE TRIGGER ALL",
        "ALTER TABLE note ENABLE REPLICA TRIGGER _capture",
        "DROP TRIGGER _capture ON note",
        "DROP TRIGGER _refuse ON note",
        "DROP TRIGGER _keep_place ON note",
    ];
    for (sql, n) in taken_away.iter().zip(2..) {
        world.sql(sql);
        await_triggers(&world);
        world.sql(&format!("UPDATE note SET n = {n}"));
        world.settled();
        assert_eq!(world.fetch("note/1")["n"], n, "{sql}");
        eventually("each time is told", || {
            let told = world.server.output().matches(WARNING).count();
            (told == n - 1).then_some(())
        });
    }
}

#[test]
fn a_trigger_that_is_missing_at_a_start_comes_back() {
    let mut world = with_note();
    assert!(world.server.terminate().success());
    world.sql("DROP TRIGGER _capture ON note");
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    await_triggers(&world);
    eventually("the log says so", || {
        world.server.output().contains(WARNING).then_some(())
    });
    world.sql("UPDATE note SET n = 2");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
}

#[test]
fn a_trigger_that_cannot_come_back_is_in_the_health() {
    let world = with_note();
    let master = Client::master(&world.server);
    world.sql(
        "CREATE FUNCTION public.stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'no triggers here'; END $$; \
         CREATE EVENT TRIGGER stop ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') \
         EXECUTE FUNCTION public.stop(); DROP TRIGGER _capture ON note",
    );
    let reason = eventually("the health says so", || {
        let health = master.health();
        let reason = health["captured"]["reason"].as_str()?.to_owned();
        (health["status"] == "degraded").then_some(reason)
    });
    assert!(reason.contains("note are not captured"), "{reason}");
    assert!(reason.contains("no triggers here"), "{reason}");
    // Meanwhile everything that can be captured is imported.
    world.sql("UPDATE \"user\" SET last_login_at = NULL");
    world.settled();
    world.sql("DROP EVENT TRIGGER stop");
    await_triggers(&world);
    eventually("the health is good again", || {
        let health = master.health();
        let is_good = health["status"] == "OK" && health["captured"]["reason"].is_null();
        is_good.then_some(())
    });
}
