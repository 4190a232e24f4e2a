//! Subject keys that cannot be saved: the log is saved all the same, and the backup is not mistaken
//! for a whole one.

use super::*;

const SLOT_BYTES: usize = 64;

impl World {
    fn keys(&self) -> PathBuf {
        self.server.data_dir().join("subjects.keys")
    }

    /// Damages the first key in the server's file; returns the original content.
    fn damage_keys(&self) -> Vec<u8> {
        let whole = std::fs::read(self.keys()).unwrap();
        let mut damaged = whole.clone();
        damaged[SLOT_BYTES + 40] ^= 1;
        std::fs::write(self.keys(), damaged).unwrap();
        whole
    }

    /// Makes a backup without the present keys, and returns its name.
    fn back_up_without_keys(&self) -> String {
        let failed = self.try_back_up(&["--keep", "1"]);
        assert_eq!(failed.status.code(), Some(1));
        let refusal = refusal(&failed);
        assert!(refusal.contains("subjects.keys"), "{refusal}");
        self.names().pop().unwrap()
    }
}

fn can_log_in(server: &TestServer, name: &str) -> bool {
    let login = json!({"auth_data": {"username": name}, "password": "secret-of-the-test"});
    Client::anonymous(server).call("auth:login", login).status == 200
}

#[test]
fn a_backup_without_its_keys_has_the_log_and_is_restored_with_those_of_before() {
    let world = World::start();
    // The master key's user has its own key.
    world.master().save("single/early", json!({"number": 0}));
    Client::signed_up(&world.server, "ada");
    let bob = Client::signed_up(&world.server, "bob");
    let saved = world.back_up(&["--keep", "1"]);
    let whole = world.names().remove(0);
    assert!(saved.contains(&whole));
    let body = json!({"user": bob.user, "why": "asked for"});
    let erased = world.master().call("erase:user", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    let good = world.damage_keys();
    world.master().save("single/late", json!({"number": 1}));
    let without = world.back_up_without_keys();
    assert_eq!(world.names(), [whole.clone(), without]);
    said_whole(&world, &whole);

    let listed = world.back_up(&["--list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(!lines[0].contains("without the current keys"), "{listed}");
    assert!(lines[1].contains("without the current keys"), "{listed}");
    let verified = world.try_back_up(&["--verify"]);
    let is_whole = lossy(&verified.stdout).contains("is whole");
    assert!(!is_whole, "{verified:?}");
    assert!(refusal(&verified).contains("subjects.keys"), "{verified:?}");
    let told = said(&world.try_restore("told", &[]));
    assert!(told.contains("subjects.keys"), "{told}");

    let restored = world.restore("restored", &[]);
    let ids = json!({"ids": ["single/late"]});
    let late = Client::master(&restored).call("record:fetch", ids).result();
    assert_eq!(late[0]["number"], 1);
    assert!(can_log_in(&restored, "ada"));
    // A user who was erased since does not come back with the older keys.
    assert!(!can_log_in(&restored, "bob"));
    let keys = |folder: &Path| std::fs::read(folder.join("subjects.keys")).unwrap();
    let destroyed = |keys: &[u8]| keys.chunks(SLOT_BYTES).filter(|slot| slot[0] == 2).count();
    let before = keys(&world.server.folder().join("told"));
    assert_eq!(destroyed(&keys(&restored.data_dir())), destroyed(&good));
    assert_eq!(destroyed(&before) + 1, destroyed(&good));

    std::fs::write(world.keys(), good).unwrap();
    let made = world.back_up(&["--keep", "1"]);
    assert!(made.contains("removed"), "{made}");
    assert_eq!((world.names().len(), world.objects("keys").len()), (1, 1));
}

/// The open segment has grown in the backups; events after the requested end need no keys.
#[test]
fn users_who_came_since_the_keys_were_saved_keep_nobody_from_restoring_what_was_before() {
    let world = World::start();
    world.master().save("single/early", json!({"number": 0}));
    Client::signed_up(&world.server, "ada");
    world.back_up(&[]);
    let whole = world.names().remove(0);
    world.master().save("single/late", json!({"number": 1}));
    let until = world.head().to_string();
    Client::signed_up(&world.server, "eve");
    let good = world.damage_keys();
    let without = world.back_up_without_keys();

    said_whole(&world, &whole);
    said(&world.try_restore("whole", &["--backup", &whole]));
    let told = refusal(&world.try_restore("eve", &[]));
    assert!(
        told.contains("was made without them") && told.contains("--until"),
        "{told}"
    );
    let restored = world.restore("until", &["--until", &until]);
    assert!(can_log_in(&restored, "ada"));
    let ids = json!({"ids": ["single/late"]});
    let late = Client::master(&restored).call("record:fetch", ids).result();
    assert_eq!(late[0]["number"], 1);

    // The next backup has all of them.
    std::fs::write(world.keys(), good).unwrap();
    world.back_up(&[]);
    let restored = world.restore("later", &["--backup", &without]);
    assert!(can_log_in(&restored, "ada") && can_log_in(&restored, "eve"));
}

#[test]
fn a_first_backup_without_keys_is_restored_with_those_of_a_later_one() {
    let world = World::start();
    Client::signed_up(&world.server, "ada");
    let good = world.damage_keys();
    let without = world.back_up_without_keys();
    let told = refusal(&world.try_restore("none", &[]));
    assert!(told.contains("was made without them"), "{told}");
    std::fs::write(world.keys(), good).unwrap();
    world.back_up(&[]);
    assert!(can_log_in(
        &world.restore("later", &["--backup", &without]),
        "ada"
    ));
}

/// Keys that were added by hand serve backups whose own are gone; those of a copy would open
/// nothing.
#[test]
fn the_keys_of_a_copy_are_not_taken_for_those_that_are_gone() {
    let world = World::start();
    Client::signed_up(&world.server, "ada");
    world.back_up(&[]);
    let copy = world.restore("copy", &[]);
    Client::signed_up(&world.server, "bob");
    world.back_up(&[]);
    let keys = world.objects("keys");
    for name in ["cyd", "dan"] {
        Client::signed_up(&copy, name);
    }
    said(&copy.skytrail(&["backup", text(&world.repository)]));
    assert_eq!(keys.len(), 1);
    std::fs::remove_file(&keys[0]).unwrap();
    let own = keys[0].file_name().unwrap().to_str().unwrap();
    let newest = &world.names()[1];
    for output in [
        world.try_back_up(&["--verify", "--backup", newest]),
        world.try_restore("without", &["--backup", newest]),
    ] {
        let told = refusal(&output);
        assert!(told.contains(own), "{told}");
    }

    // Even if nothing says whose they are.
    let manifest = world.objects("backups").pop().unwrap();
    std::fs::remove_file(manifest).unwrap();
    for output in [
        world.try_back_up(&["--verify", "--backup", newest]),
        world.try_restore("opened", &["--backup", newest]),
    ] {
        let told = refusal(&output);
        assert!(
            told.contains("keys/") && told.contains("do not open"),
            "{told}"
        );
    }
}

#[test]
fn a_server_saves_its_log_when_its_keys_are_damaged_and_says_that_it_is_not_well() {
    let mut world = World::start();
    Client::signed_up(&world.server, "ada");
    world.server.set("BACKUP_TARGET", text(&world.repository));
    world.server.set("BACKUP_PERIOD", "1");
    world.server.restart();
    eventually("the first is made", || {
        (world.master().health()["backups"]["num_made"] != 0).then_some(())
    });
    let good = world.damage_keys();
    let health = eventually("one is made without keys", || {
        let health = world.master().health();
        health["backups"]["missing_keys"]
            .is_string()
            .then_some(health)
    });
    assert_eq!(health["backups"]["num_failed"], 0, "{health}");
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(
        health["reasons"].to_string().contains("subjects.keys"),
        "{health}"
    );
    std::fs::write(world.keys(), good).unwrap();
    eventually("the next one is whole", || {
        (world.master().health()["status"] == "OK").then_some(())
    });
}
