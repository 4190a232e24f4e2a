//! A copy whose log is damaged where it says that it is one: nobody can tell any more which of the
//! backups are its own.

use super::*;

/// How a segment is damaged, given where the event of the restore is in it.
type Damage = fn(&mut [u8], usize);

const ZEROED: Damage = |bytes, _| bytes[..4096].fill(0);
const FLIPPED: Damage = |bytes, at| bytes[at] ^= 1;

/// Damages the segment that has the event of the restore from a backup.
fn damage(server: &TestServer, backup: &str, damage: Damage) {
    let needle = backup.as_bytes();
    for entry in std::fs::read_dir(server.data_dir().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).position(|it| it == needle);
        if let Some(at) = found {
            damage(&mut bytes, at);
            std::fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("no event of a restore");
}

fn can_log_in(server: &TestServer, name: &str) -> bool {
    let login = json!({"auth_data": {"username": name}, "password": "secret-of-the-test"});
    Client::anonymous(server).call("auth:login", login).status == 200
}

#[test]
fn a_copy_that_cannot_read_its_restore_takes_no_backup_for_its_own() {
    let world = World::start();
    Client::signed_up(&world.server, "ada");
    world.fill(&world.master(), "sealed");
    world.back_up(&[]);
    Client::signed_up(&world.server, "bob");
    world.back_up(&[]);
    let originals = world.names();
    let keys = world.objects("keys");
    let mut messages = Vec::new();
    for (name, has_backup, how) in [
        ("zeroed", false, ZEROED),
        ("flipped", false, FLIPPED),
        ("young", true, ZEROED),
    ] {
        let copy = world.restore(name, &["--backup", &originals[0]]);
        Client::signed_up(&copy, name);
        let back_up = || copy.skytrail(&["backup", text(&world.repository), "--keep", "1"]);
        if has_backup {
            said(&back_up());
        }
        let before = world.names();
        world.fill(&Client::master(&copy), name);
        damage(&copy, &originals[0], how);
        let told = refusal(&back_up());
        messages.push(told.clone());
        let now = world.names();
        assert_eq!(now[..before.len()], before, "{name}: {told}");
        assert_eq!(now.len(), before.len() + 1);
        let made = now.last().unwrap();
        let manifest = world.repository.join(format!("backups/{made}.json"));
        let manifest: Json = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        let (history, follows) = (
            &manifest["manifest"]["history"],
            &manifest["manifest"]["follows"],
        );
        assert_eq!((history, follows), (&Json::Null, &Json::Null), "{name}");
        let forgotten =
            copy.skytrail(&["backup", text(&world.repository), "--forget", &originals[0]]);
        messages.push(refusal(&forgotten));
    }
    let kept = world.objects("keys");
    assert!(keys.iter().all(|key| kept.contains(key)), "{kept:?}");
    for (name, user) in originals.iter().zip(["ada", "bob"]) {
        said_whole(&world, name);
        let restored = world.restore(&format!("r-{name}"), &["--backup", name]);
        assert!(can_log_in(&restored, user));
    }
    for message in messages {
        assert!(message.contains("is unknown"), "{message}");
    }
    // The original goes on as before.
    let told = world.back_up(&["--keep", "1"]);
    assert!(told.contains(&originals.join(", ")), "{told}");
    assert!(world.names().iter().all(|name| !originals.contains(name)));
}
