//! What is erased stays erased, whatever is restored.

use super::*;
use crate::files::{ask, path_of, upload};
use crate::support::eventually;
use crate::support::search::files_with;
use crate::support::server::MASTER_KEY;

const CANARY: &str = "canary-2b77c01e";

fn has_canary(folder: &Path) -> Vec<PathBuf> {
    files_with(folder, CANARY)
}

#[test]
fn an_erasure_reaches_all_backups_and_no_restore_brings_it_back() {
    let world = World::start();
    let master = world.master();
    for number in 0..5 {
        master.save(
            "single/gone",
            json!({"text": format!("{CANARY} {number}"), "number": 1}),
        );
        master.save("single/stays", json!({"text": "control", "number": number}));
    }
    world.fill(&master, "sealed");
    let until = world.head();
    world.back_up(&[]);
    master.save("single/gone", json!({"text": format!("{CANARY} again")}));
    world.back_up(&[]);
    assert!(!has_canary(&world.repository).is_empty());

    let key = format!("MASTER_KEY={MASTER_KEY}");
    let server = ["--server", &world.server.base_url, "--why", "asked for"];
    let erase = [
        &["--set", &key, "erase", "record", "single/gone"][..],
        &server,
    ]
    .concat();
    said(&world.server.skytrail(&erase));
    eventually("it is erased here", || {
        has_canary(&world.server.data_dir())
            .is_empty()
            .then_some(())
    });
    world.back_up(&[]);
    assert_eq!(has_canary(&world.repository), Vec::<PathBuf>::new());

    let names = world.names();
    for (number, name) in names.iter().enumerate() {
        said_whole(&world, name);
        let mut restored = world.restore(&format!("r{number}"), &["--backup", name]);
        said(&restored.skytrail(&["log", "verify"]));
        let fetched =
            Client::master(&restored).call("record:fetch", json!({"ids": ["single/stays"]}));
        assert_eq!(fetched.result()[0]["number"], 4);
        assert!(restored.terminate().success());
        said(&restored.skytrail(&["rebuild", "--verify"]));
        assert_eq!(has_canary(&restored.data_dir()), Vec::<PathBuf>::new());
    }
    let restored = world.try_restore("until", &["--until", &until.to_string()]);
    assert!(
        said(&restored).contains("were erased later"),
        "{restored:?}"
    );
    assert_eq!(
        has_canary(&world.server.folder().join("until")),
        Vec::<PathBuf>::new()
    );
}

/// Events about a user are sealed with the user's own key. A copy of the backups kept elsewhere,
/// without the keys, reveals nothing of a user who has been erased.
#[test]
fn old_copies_of_the_backups_open_nothing_of_a_user_who_was_erased() {
    let world = World::start();
    let name = format!("{CANARY}-ada");
    let ada = Client::signed_up(&world.server, &name);
    let device = json!({"type": "ios", "device_token": format!("{CANARY}-device")});
    ada.call("device:register", device).result();
    let body = json!({"type": "diary", "personal": true});
    world.master().call("schema:personal", body).result();
    ada.save("diary/1", json!({"text": CANARY}));
    ada.save("diary/1", json!({"n": 1}));
    Client::signed_up(&world.server, "bob");
    world.fill(&world.master(), "sealed");
    world.back_up(&[]);
    // Unencrypted neither there nor here.
    assert_eq!(has_canary(&world.repository), Vec::<PathBuf>::new());
    assert_eq!(
        has_canary(&world.server.data_dir().join("journal")),
        Vec::<PathBuf>::new()
    );
    let tape = world.server.folder().join("tape");
    copy(&world.repository, &tape);
    assert_eq!(world.objects("keys").len(), 1, "the backup has the keys");

    // With its keys the copy has everything.
    let restored = world.restore("before", &[]);
    let login = json!({"auth_data": {"username": name}, "password": "secret-of-the-test"});
    let session = Client::anonymous(&restored).call("auth:login", login.clone());
    assert_eq!(session.status, 200);
    let diary = |server: &TestServer| {
        let ids = json!({"ids": ["diary/1"]});
        Client::master(server).call("record:fetch", ids).result()[0].clone()
    };
    assert_eq!(diary(&restored)["text"], CANARY);
    drop(restored);

    let body = json!({"user": ada.user, "why": "asked for"});
    let erased = world.master().call("erase:user", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    world.back_up(&[]);
    let keys = world.objects("keys");
    assert_eq!(keys.len(), 1, "only the newest keys are kept");

    // Without keys the old copy is useless; with the newest ones it has everybody except her.
    for entry in std::fs::read_dir(tape.join("keys")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let restore = |to: &str| {
        let to = world.server.folder().join(to);
        let arguments = ["restore", text(&tape), "--to", text(&to)];
        (world.server.skytrail(&arguments), to)
    };
    assert!(refusal(&restore("keyless").0).contains("keys/"));
    std::fs::copy(
        &keys[0],
        tape.join("keys").join(keys[0].file_name().unwrap()),
    )
    .unwrap();
    let (output, to) = restore("after");
    assert!(said(&output).contains("were erased later"), "{output:?}");
    let mut restored = TestServer::with(&[("DATA_DIR", text(&to))]);
    said(&restored.skytrail(&["log", "verify"]));
    let session = Client::anonymous(&restored).call("auth:login", login);
    assert_ne!(session.status, 200);
    assert_eq!(diary(&restored)["code"], 110);
    let listed = json!({"record": "diary/1"});
    let listed = Client::master(&restored)
        .call("history:list", listed)
        .result();
    let versions = listed["versions"].as_array().unwrap();
    assert!(versions.len() >= 2 && versions.iter().all(|it| it.get("erased").is_some()));
    let bob = json!({"auth_data": {"username": "bob"}, "password": "secret-of-the-test"});
    let session = Client::anonymous(&restored).call("auth:login", bob);
    assert_eq!(session.status, 200);
    assert!(restored.terminate().success());
    said(&restored.skytrail(&["rebuild", "--verify"]));
    assert_eq!(has_canary(&to), Vec::<PathBuf>::new());
}

#[test]
fn keys_that_are_fewer_or_of_another_store_replace_none() {
    let world = World::start();
    for name in ["ada", "bob"] {
        Client::signed_up(&world.server, name);
    }
    let other = World::start();
    for name in ["one", "two", "three"] {
        Client::signed_up(&other.server, name);
    }
    let keys = world.server.data_dir().join("subjects.keys");
    let whole = std::fs::read(&keys).unwrap();
    let foreign = std::fs::read(other.server.data_dir().join("subjects.keys")).unwrap();
    let wrong: [&[u8]; 4] = [&whole[..100], &vec![0; whole.len()], &[], &foreign];
    let refused = |why: &str| {
        let said = refusal(&world.try_back_up(&[]));
        assert!(said.contains("subjects.keys has"), "{why}: {said}");
    };
    // Even before there is a backup to compare them with.
    std::fs::write(&keys, &whole[..100]).unwrap();
    refused("first");
    assert_eq!(world.names().len(), 1, "the log is saved");
    assert_eq!(world.objects("keys").len(), 0);
    std::fs::write(&keys, &whole).unwrap();
    world.back_up(&[]);
    let saved = world.objects("keys");
    for (number, bytes) in wrong.iter().enumerate() {
        std::fs::write(&keys, bytes).unwrap();
        refused(&format!("wrong {number}"));
        assert_eq!(world.objects("keys"), saved);
    }
    std::fs::remove_file(&keys).unwrap();
    refused("missing");
    assert_eq!(world.objects("keys"), saved);
    std::fs::write(&keys, &whole).unwrap();
    world.back_up(&[]);
    said(&world.try_restore("restored", &[]));

    // A repository that holds another store's keys is not whole.
    let path = &world.objects("keys")[0];
    std::fs::remove_file(path).unwrap();
    let name = blake3::hash(&foreign).to_hex().to_string();
    std::fs::write(path.with_file_name(name), &foreign).unwrap();
    let said = refusal(&world.try_back_up(&["--verify"]));
    assert!(said.contains("another store"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// An erased file is removed from all backups, and they are whole without it.
#[test]
fn a_file_that_was_erased_is_in_no_backup_any_more() {
    let world = World::start();
    let master = world.master();
    let upload = |name: &str, text: &str| upload(&world.server, name, "text/plain", text);
    let gone = upload("gone.txt", CANARY);
    let (stays, same) = (
        upload("stays.txt", "as it was"),
        upload("same.txt", "as it was"),
    );
    let named = |asset: &Json| json!({"$type": "asset", "$name": asset["$name"]});
    let fields = json!({"gone": named(&gone), "same": named(&same)});
    master.save("single/gone", fields);
    master.save("single/stays", json!({"stays": named(&stays), "number": 4}));
    world.back_up(&[]);
    assert_eq!(has_canary(&world.repository).len(), 1);

    let body = json!({"record": "single/gone", "why": "asked for"});
    let erased = master.call("erase:record", body).result();
    assert_eq!(erased["files"].as_array().unwrap().len(), 2, "{erased}");
    assert_eq!(has_canary(&world.server.data_dir()), Vec::<PathBuf>::new());
    world.back_up(&[]);
    assert_eq!(has_canary(world.server.folder()), Vec::<PathBuf>::new());
    for (number, name) in world.names().iter().enumerate() {
        said_whole(&world, name);
        let restored = world.restore(&format!("r{number}"), &["--backup", name]);
        let get = |asset: &Json| ask(&restored, "GET", &path_of(asset), &[]).status;
        let stays = Client::master(&restored)
            .call("record:fetch", json!({"ids": ["single/stays"]}))
            .result()[0]["stays"]
            .clone();
        assert_eq!(get(&stays), 200);
        // The same for a file with the same bytes as another that is in the backup.
        assert!(get(&gone) != 200 && get(&same) != 200);
        said(&restored.skytrail(&["log", "verify", "--files"]));
    }
    assert_eq!(has_canary(world.server.folder()), Vec::<PathBuf>::new());
}
