//! An ops store that cannot be copied: the log is saved, and the backup is not mistaken for a whole
//! one.

use super::*;
use crate::support::eventually;

/// Creates a consumer, which the ops store keeps, and stops the server.
fn with_ops_store() -> World {
    let mut world = World::start();
    let body = json!({"consumer": "index", "from": 1});
    world.master().call("log:consumer:create", body).result();
    world.master().save("single/1", json!({"number": 1}));
    assert!(world.server.terminate().success());
    world
}

#[test]
fn a_backup_without_its_ops_store_says_so_and_pushes_out_none_that_has_one() {
    let mut world = with_ops_store();
    world.back_up(&["--keep", "1"]);
    let whole = world.names();
    let ops_store = world.server.data_dir().join("ops.sqlite");
    let good = std::fs::read(&ops_store).unwrap();
    let mut bad = good.clone();
    bad[4096..8192].fill(0xff);
    std::fs::write(&ops_store, bad).unwrap();

    let failed = world.try_back_up(&["--keep", "1"]);
    assert_eq!(failed.status.code(), Some(1));
    let said_then = refusal(&failed);
    assert!(said_then.contains("ops.sqlite"), "{said_then}");
    let names = world.names();
    assert_eq!(names.len(), 2, "the log is saved, and the whole one stays");
    assert_eq!(names[0], whole[0]);
    said_whole(&world, &names[0]);

    let listed = world.back_up(&["--list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(!lines[0].contains("without ops.sqlite"), "{listed}");
    assert!(lines[1].contains("without ops.sqlite"), "{listed}");
    let verified = world.try_back_up(&["--verify"]);
    assert!(
        !lossy(&verified.stdout).contains("is whole"),
        "{verified:?}"
    );
    assert!(refusal(&verified).contains("ops.sqlite"), "{verified:?}");
    let restored = said(&world.try_restore("without", &[]));
    assert!(restored.contains("lacks ops.sqlite"), "{restored}");
    let restored = said(&world.try_restore("with", &["--backup", &names[0]]));
    assert!(!restored.contains("lacks ops.sqlite"), "{restored}");
    assert!(world.server.folder().join("with/ops.sqlite").exists());

    std::fs::write(&ops_store, good).unwrap();
    let made = world.back_up(&["--keep", "1"]);
    let removed = format!("removed {}, {}", names[0], names[1]);
    assert!(made.contains(&removed), "{made}");
    world.server.restart();
}

#[test]
fn a_server_saves_its_log_when_its_ops_store_cannot_be_copied() {
    let mut world = with_ops_store();
    world.back_up(&[]);
    let whole = world.names().remove(0);
    // The copy cannot be written.
    let place = world.server.data_dir().join("backup.ops");
    std::fs::create_dir_all(place.join("in the way")).unwrap();
    world.server.set("BACKUP_TARGET", text(&world.repository));
    world.server.set("BACKUP_PERIOD", "1");
    world.server.set("BACKUP_KEEP", "1");
    world.server.restart();
    let backups = eventually("a backup is made or fails", || {
        let backups = world.master().health()["backups"].take();
        let is_done = backups["num_made"] != 0 || backups["num_failed"] != 0;
        is_done.then_some(backups)
    });
    assert_eq!(backups["num_failed"], 0, "{backups}");
    assert!(backups["missing_ledger"].is_string(), "{backups}");
    assert!(world.server.output().contains("lacks ops.sqlite"));
    assert!(world.names().contains(&whole));
    let listed = world.back_up(&["--list"]);
    assert!(listed.contains("without ops.sqlite"), "{listed}");
}
