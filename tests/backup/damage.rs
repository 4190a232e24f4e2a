//! Damage in the backup or in the log is found and named; everything else is saved.

use super::*;

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_flipped_byte_of_a_backup_is_found() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "page");
    let file = world.server.data_dir().join("asset/a.txt");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"some text").unwrap();
    world.back_up(&[]);
    let mut number = 0;
    for folder in ["segments", "files", "keys", "backups"] {
        for path in world.objects(folder) {
            let size = std::fs::metadata(&path).unwrap().len() as usize;
            let last = size - 1;
            for at in [0, 9, 100, size / 3, size / 2, size.saturating_sub(90), last]
                .map(|at| at.min(last))
            {
                flip(&path, at);
                number += 1;
                let said = refusal(&world.try_restore(&format!("r{number}"), &[]));
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(said.contains(name), "byte {at}: {said}");
                assert!(said.contains("offset"), "byte {at}: {said}");
                assert!(said.contains(&format!("{folder}/")), "byte {at}: {said}");
                refusal(&world.try_back_up(&["--verify"]));
                flip(&path, at);
            }
        }
    }
    said(&world.try_back_up(&["--verify"]));
    let segment = world.objects("segments").remove(0);
    std::fs::rename(&segment, segment.with_extension("gone")).unwrap();
    let said = refusal(&world.try_restore("missing", &[]));
    assert!(said.contains("it does not exist"), "{said}");
}

/// Flips a byte in the middle of the server's first segment.
fn damage_log(world: &World) {
    let journal = world.server.data_dir().join("journal");
    let name = "00000000000000000001.journal";
    let size = std::fs::metadata(journal.join(name)).unwrap().len() as usize;
    flip(&journal.join(name), size / 2);
}

#[test]
fn a_backup_of_a_damaged_log_says_what_is_missing_and_has_the_rest() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "page");
    damage_log(&world);
    let said = refusal(&world.try_back_up(&[]));
    assert!(said.contains("the backup lacks this"), "{said}");
    assert!(
        said.contains("00000000000000000001.journal at offset"),
        "{said}"
    );
    let missing = said.split("events ").nth(1).unwrap();
    let (first, last) = missing.trim().split_once(" to ").unwrap();
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    assert!(first > 1 && last == first, "{said}");

    let refused = refusal(&world.try_restore("all", &[]));
    assert!(
        refused.contains("was damaged when it was saved"),
        "{refused}"
    );
    let until = first - 1;
    assert!(refused.contains(&format!("--until {until}")), "{refused}");
    let restored = world.restore("before", &["--until", &until.to_string()]);
    is_restored_until(&restored, until);
    said_listed(&world);
}

fn said_listed(world: &World) {
    let listed = world.back_up(&["--list"]);
    assert!(listed.contains("of a damaged log"), "{listed}");
}

#[test]
fn what_an_earlier_backup_has_is_not_lost() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "page");
    world.back_up(&[]);
    client.save("single/1", json!({"number": 1}));
    let until = world.head();
    // A sealed segment that is already in the backups is not read again. Its seal must be damaged,
    // too, for a backup to notice.
    let journal = world.server.data_dir().join("journal");
    let segment = journal.join("00000000000000000001.journal");
    let size = std::fs::metadata(&segment).unwrap().len() as usize;
    flip(&segment, size / 2);
    flip(&segment, 20);
    let said = world.back_up(&[]);
    assert!(said.contains("from an earlier one"), "{said}");
    let restored = world.restore("restored", &[]);
    is_restored_until(&restored, until);
    said_whole(&world, world.names().last().unwrap());

    std::fs::remove_file(&segment).unwrap();
    client.save("single/2", json!({"number": 2}));
    let said = world.back_up(&[]);
    assert!(said.contains("from an earlier one"), "{said}");
    let restored = world.restore("again", &[]);
    is_restored_until(&restored, until + 1);
}

/// What there is may be all that is left.
#[test]
fn nothing_is_removed_while_the_log_is_damaged() {
    let world = World::start();
    let ada = Client::signed_up(&world.server, "ada");
    world.fill(&world.master(), "page");
    for number in 0..2 {
        world.master().save("single/1", json!({"number": number}));
        world.back_up(&[]);
    }
    let (names, keys) = (world.names(), world.objects("keys"));
    let body = json!({"user": ada.user, "why": "asked for"});
    let erased = world.master().call("erase:user", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    let segment = "journal/00000000000000000001.journal";
    let segment = world.server.data_dir().join(segment);
    let whole = std::fs::read(&segment).unwrap();
    flip(&segment, 20);
    std::fs::remove_file(&world.objects("segments")[0]).unwrap();
    let told = refusal(&world.try_back_up(&["--keep", "1"]));
    assert_eq!(world.names()[..2], names, "{told}");
    assert!(told.contains("nothing was removed"), "{told}");
    assert!(!told.contains("another history"), "{told}");
    assert!(world.objects("keys").contains(&keys[0]), "{told}");

    std::fs::write(&segment, whole).unwrap();
    world.back_up(&["--keep", "1"]);
    assert_eq!((world.names().len(), world.objects("keys").len()), (1, 1));
}

/// One unreadable manifest must not prevent a restore.
#[test]
fn a_damaged_manifest_is_named_and_the_newest_backup_is_restored() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    let file = world.server.data_dir().join("asset/old.txt");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"in the first two").unwrap();
    for number in 0..3 {
        client.save("single/1", json!({"number": number}));
        world.back_up(&[]);
        if number == 1 {
            std::fs::remove_file(&file).unwrap();
        }
    }
    let names = world.names();
    let manifest = |number: usize| world.objects("backups").remove(number);
    flip(&manifest(1), 100);
    let listed = world.try_back_up(&["--list"]);
    let lines = lossy(&listed.stdout);
    assert!(
        names.iter().all(|name| lines.contains(name)),
        "the others are listed all the same: {lines}"
    );
    let refused = refusal(&listed);
    assert!(
        refused.contains("1 of 3 backups cannot be read"),
        "{refused}"
    );
    flip(&manifest(1), 100);
    world.back_up(&["--list"]);
    // Even one that another backup follows.
    for damaged in [0, 1] {
        flip(&manifest(damaged), 100);
        let to = format!("without-{damaged}");
        for output in [
            world.try_back_up(&["--verify"]),
            world.try_restore(&to, &[]),
        ] {
            let named = format!("backups/{}.json", names[damaged]);
            assert!(said(&output).contains(&names[2]), "{output:?}");
            assert!(lossy(&output.stderr).contains(&named), "{output:?}");
        }
        flip(&manifest(damaged), 100);
    }
    // The newest one would be the one to restore.
    flip(&manifest(2), 100);
    let refused = refusal(&world.try_back_up(&["--verify"]));
    assert!(refused.contains("cannot be read"), "{refused}");
    said(&world.try_restore("before-it", &[]));
    flip(&manifest(2), 100);
    (0..3).for_each(|number| flip(&manifest(number), 100));
    let refused = refusal(&world.try_restore("none", &[]));
    assert!(refused.contains(&names[0]), "{refused}");
    (1..3).for_each(|number| flip(&manifest(number), 100));

    // It is removed when its time has come, and then no longer keeps garbage from being removed.
    let digest = blake3::hash(b"in the first two").to_hex();
    let object = world.repository.join(format!("files/{digest}"));
    assert!(object.exists());
    let said = world.back_up(&["--keep", "2"]);
    let removed = format!("removed {}, {}", names[0], names[1]);
    assert!(said.contains(&removed), "{said}");
    assert!(!object.exists(), "{said}");
    assert_eq!(world.names().len(), 2);
}

#[test]
fn backups_of_a_newer_program_are_left_alone() {
    let world = World::start();
    Client::master(&world.server).save("single/1", json!({"number": 1}));
    world.back_up(&[]);
    let about = world.repository.join("repository.json");
    let text = std::fs::read_to_string(&about).unwrap();
    let mut newer: Json = serde_json::from_str(&text).unwrap();
    newer["format"] = json!(99);
    std::fs::write(&about, newer.to_string()).unwrap();
    for output in [
        world.try_restore("newer", &[]),
        world.try_back_up(&[]),
        world.try_back_up(&["--verify"]),
        world.try_back_up(&["--list"]),
    ] {
        let refused = refusal(&output);
        assert!(refused.contains("has format=99"), "{refused}");
    }
    // A file that only names the store is not needed for a restore.
    std::fs::write(&about, "{").unwrap();
    said(&world.try_restore("unnamed", &[]));
}

/// An object that was cut off is not taken for the one that a backup needs, so the next backup
/// heals it. Removing a damaged object does the same.
#[test]
fn what_is_damaged_in_the_backups_is_written_again() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "page");
    let file = world.server.data_dir().join("asset/a.txt");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"some text").unwrap();
    world.back_up(&[]);
    let cut_off = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    for folder in ["segments", "files", "keys"] {
        world.objects(folder).iter().for_each(cut_off);
        refusal(&world.try_back_up(&["--verify"]));
        world.back_up(&[]);
        said(&world.try_back_up(&["--verify"]));
        for path in world.objects(folder) {
            std::fs::remove_file(path).unwrap();
        }
        refusal(&world.try_back_up(&["--verify"]));
        world.back_up(&[]);
        said(&world.try_back_up(&["--verify"]));
    }
    std::fs::remove_file(world.repository.join("repository.json")).unwrap();
    world.back_up(&[]);
    assert!(world.repository.join("repository.json").exists());
}
