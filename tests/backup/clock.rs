//! Automatic backups on a machine whose clock was wrong.

use super::{World, said, text};
use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{faketime, skipped};

const LAST: &str = "skytrail_backup_last_timestamp_seconds";

#[test]
fn a_clock_that_was_a_year_ahead_delays_no_backup_and_hides_none_that_is_missing() {
    let Some(faketime) = faketime() else {
        return skipped("a clock that was ahead", "faketime is not installed");
    };
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("backups");
    let mut world = World::with(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME", "+365d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("BACKUP_TARGET", text(&target)),
        ("BACKUP_PERIOD", "86400"),
    ]);
    let num_listed = |world: &World| {
        let listed = world.server.skytrail(&["backup", text(&target), "--list"]);
        said(&listed).lines().count()
    };
    let last = |world: &World| figure(&scrape(&world.server), LAST);
    let made = |world: &World| {
        let health = Client::master(&world.server).health();
        health["backups"]["num_made"].as_u64().unwrap()
    };
    eventually("a backup", || (made(&world) == 1).then_some(()));
    let ahead = last(&world);

    // The clock is right again, but there is no place for backups: the figure tells.
    assert!(world.server.terminate().success());
    std::fs::rename(&target, place.path().join("away")).unwrap();
    std::fs::write(&target, "not a folder").unwrap();
    world.server.set("FAKETIME", "+0");
    world.server.restart();
    eventually("a failure", || {
        let health = Client::master(&world.server).health();
        health["backups"]["last_error"].as_str().map(drop)
    });
    assert!(last(&world) < 1.0, "{}", last(&world));

    std::fs::remove_file(&target).unwrap();
    std::fs::rename(place.path().join("away"), &target).unwrap();
    world.server.restart();
    eventually("another backup", || (made(&world) == 1).then_some(()));
    let now = last(&world);
    assert!(now > 1.0 && now < ahead - 300.0 * 86_400.0, "{now} {ahead}");
    assert!(world.server.output().contains("clock was set back"));
    assert_eq!(num_listed(&world), 2);

    // The next one is due in a day, whatever the first one says.
    assert!(world.server.terminate().success());
    world.server.restart();
    eventually("the last backup is known", || {
        (last(&world) > 1.0).then_some(())
    });
    assert!((last(&world) - now).abs() < 1.0);
    assert_eq!(num_listed(&world), 2);
}
