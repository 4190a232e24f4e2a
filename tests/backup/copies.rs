//! A server that was started from another one's backup has the other's backups in its target. They
//! stay as they are until somebody says that they are not needed.

use super::*;
use crate::door::scrape;
use crate::files::{ask, path_of, upload};
use crate::support::search::files_with;

const CANARY: &str = "canary-91c6d0f4";

fn back_up(server: &TestServer, repository: &Path, more: &[&str]) -> String {
    said(&server.skytrail(&[&["backup", text(repository)], more].concat()))
}

fn has_ada(server: &TestServer) -> bool {
    let login = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    Client::anonymous(server).call("auth:login", login).status == 200
}

#[test]
fn a_copy_removes_nothing_from_the_backups_of_its_original() {
    let world = World::start();
    let ada = Client::signed_up(&world.server, "ada");
    let master = world.master();
    let asset = upload(&world.server, "note.txt", "text/plain", "a file");
    let named = json!({"$type": "asset", "$name": asset["$name"]});
    master.save("single/1", json!({"text": CANARY, "file": named}));
    world.fill(&master, "sealed");
    for number in 0..3 {
        master.save("left/1", json!({"number": number}));
        world.back_up(&[]);
    }
    let originals = world.names();

    let copy = world.restore("copy", &[]);
    let body = json!({"user": ada.user, "records": true, "why": "a trial"});
    let tried = Client::master(&copy);
    assert_eq!(tried.call("erase:user", body).result()["finished"], true);
    let body = json!({"record": "single/1", "why": "a trial"});
    tried.call("erase:record", body).result();
    for number in 0..3 {
        tried.save("right/1", json!({"number": number}));
        let told = back_up(&copy, &world.repository, &["--keep", "1"]);
        assert!(told.contains("another history"), "{told}");
        for name in &originals {
            assert!(told.contains(name), "{told}");
        }
    }
    let names = world.names();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[..3], originals);
    let refused = refusal(&world.try_restore("which", &[]));
    assert!(refused.contains("several histories"), "{refused}");

    let is_whole = |name: &str| {
        said_whole(&world, name);
        let to = format!("r-{name}-of-{}", world.names().len());
        let server = world.restore(&to, &["--backup", name]);
        assert!(has_ada(&server));
        let ids = json!({"ids": ["single/1"]});
        let found = Client::master(&server).call("record:fetch", ids).result();
        assert_eq!(found[0]["text"], CANARY);
        let file = ask(&server, "GET", &path_of(&found[0]["file"]), &[]);
        assert_eq!(file.status, 200);
    };
    originals.iter().for_each(|name| is_whole(name));
    // The copy's own backup has what the copy has.
    said_whole(&world, &names[3]);
    let again = world.restore("again", &["--backup", &names[3]]);
    assert!(!has_ada(&again));
    assert_eq!(files_with(&again.data_dir(), CANARY), Vec::<PathBuf>::new());

    // The original manages its backups as before, and leaves the copy's alone.
    let told = world.back_up(&["--keep", "2"]);
    assert!(told.contains("another history"), "{told}");
    let now = world.names();
    assert_eq!(now[..2], [originals[2].clone(), names[3].clone()]);
    assert_eq!(now.len(), 3);
    is_whole(&now[0]);
    is_whole(&now[2]);
    said_whole(&world, &now[1]);
}

/// The abandoned history contains what is erased later, and leaves nobody a choice of the newest.
#[test]
fn a_history_that_was_left_is_dropped_on_request_with_all_that_was_erased_since() {
    let world = World::start();
    let master = world.master();
    Client::signed_up(&world.server, "ada");
    master.save("single/gone", json!({"text": CANARY}));
    world.fill(&master, "sealed");
    let until = world.head();
    master.save("single/late", json!({"text": "a mistake"}));
    for number in 0..2 {
        master.save("left/1", json!({"number": number}));
        world.back_up(&[]);
    }
    let left = world.names();

    let server = world.restore("earlier", &["--until", &until.to_string()]);
    let master = Client::master(&server);
    back_up(&server, &world.repository, &[]);
    let refused = refusal(&world.try_restore("which", &[]));
    assert!(refused.contains("--forget"), "{refused}");
    let body = json!({"record": "single/gone", "why": "asked for"});
    master.call("erase:record", body).result();
    let told = back_up(&server, &world.repository, &[]);
    assert!(
        told.contains("--forget") && told.contains(&left[1]),
        "{told}"
    );
    assert!(!files_with(&world.repository, CANARY).is_empty());

    let own = world.names().pop().unwrap();
    let forget =
        |name: &str| server.skytrail(&["backup", text(&world.repository), "--forget", name]);
    let refused = refusal(&forget(&own));
    assert!(refused.contains("this log's own"), "{refused}");
    let refused = refusal(&forget("20010101T000000.000000Z"));
    assert!(refused.contains("has no backup"), "{refused}");
    let made = world.names().len();
    let told = said(&forget(&left[1]));
    assert!(told.contains(&left.join(", ")), "{told}");
    assert!(!told.contains("another history"), "{told}");
    assert_eq!(world.names().len(), made - 2 + 1);
    assert_eq!(files_with(&world.repository, CANARY), Vec::<PathBuf>::new());
    for name in &world.names() {
        said_whole(&world, name);
    }
    let restored = world.restore("newest", &[]);
    let ids = json!({"ids": ["single/late", "single/gone", "page/sealed-1"]});
    let found = Client::master(&restored).call("record:fetch", ids).result();
    assert_eq!(
        (&found[0]["code"], &found[1]["code"]),
        (&json!(110), &json!(110))
    );
    assert_eq!(found[2]["_id"], "page/sealed-1");
}

/// Backups of earlier builds do not say which history they are of.
#[test]
fn backups_of_earlier_builds_belong_to_the_server_that_goes_on_and_to_no_copy() {
    let world = World::start();
    let master = world.master();
    master.save("single/1", json!({"text": CANARY}));
    for number in 0..2 {
        master.save("left/1", json!({"number": number}));
        world.back_up(&[]);
    }
    world
        .objects("backups")
        .iter()
        .for_each(|path| as_before(path));
    let originals = world.names();
    let copy = world.restore("copy", &[]);
    let body = json!({"record": "single/1", "why": "a trial"});
    Client::master(&copy).call("erase:record", body).result();
    for _ in 0..2 {
        back_up(&copy, &world.repository, &["--keep", "1"]);
    }
    let names = world.names();
    assert_eq!(names[..2], originals);
    for name in &originals {
        let server = world.restore(&format!("r-{name}"), &["--backup", name]);
        assert_eq!(records(&server, &Json::Null)[0][0]["text"], CANARY);
    }

    let body = json!({"record": "single/1", "why": "asked for"});
    master.call("erase:record", body).result();
    let told = world.back_up(&["--keep", "2"]);
    assert!(
        told.contains(&format!("removed {}", originals[0])),
        "{told}"
    );
    assert_eq!(files_with(&world.repository, CANARY), Vec::<PathBuf>::new());
    said_whole(&world, &originals[1]);
    let now = world.names();
    assert_eq!(now[..2], [originals[1].clone(), names[2].clone()]);
}

/// Takes what earlier builds did not write out of a manifest.
fn as_before(path: &Path) {
    let envelope: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut manifest = envelope["manifest"].clone();
    manifest.as_object_mut().unwrap().remove("history");
    for segment in manifest["segments"].as_array_mut().unwrap() {
        segment.as_object_mut().unwrap().remove("digest");
    }
    let text = manifest.to_string();
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let bytes = format!("{{\"manifest\":{text},\"blake3\":\"{blake3}\"}}");
    std::fs::write(path, bytes).unwrap();
}

/// The newest backup in the target is of what it was put back from.
#[test]
fn a_server_that_was_put_back_makes_a_backup_at_once() {
    let mut world = World::start();
    world.server.set("BACKUP_TARGET", text(&world.repository));
    world.server.set("BACKUP_PERIOD", "86400");
    world.master().save("single/1", json!({"number": 1}));
    let until = world.head();
    world.master().save("single/1", json!({"number": 2}));
    world.server.restart();
    let made = |server: &TestServer| Client::master(server).health()["backups"].clone();
    eventually("the first one", || {
        (made(&world.server)["num_made"] == 1).then_some(())
    });
    let original = world.names();

    said(&world.try_restore("earlier", &["--until", &until.to_string()]));
    let to = world.server.folder().join("earlier");
    let server = TestServer::with(&[
        ("DATA_DIR", text(&to)),
        ("BACKUP_TARGET", text(&world.repository)),
        ("BACKUP_PERIOD", "86400"),
    ]);
    let state = eventually("one of its own", || {
        let state = made(&server);
        (state["num_made"] == 1).then_some(state)
    });
    assert_eq!(state["foreign"], json!(original));
    assert!(server.output().contains("--forget"), "{}", server.output());
    assert_eq!(world.names().len(), 2);

    // It knows it after a restart, and makes no other.
    let mut server = server;
    server.restart();
    let state = eventually("it knows the last one", || {
        let state = made(&server);
        state["last_time"].is_string().then_some(state)
    });
    assert_eq!(
        (&state["num_made"], &state["foreign"]),
        (&json!(0), &json!(original))
    );
}

/// The commonest recovery: the newest backup is restored, and the server goes on with the same
/// target.
#[test]
fn a_server_that_was_put_back_checks_its_own_backups_and_hears_when_the_others_are_dropped() {
    let world = World::start();
    world.master().save("single/1", json!({"text": CANARY}));
    world.back_up(&[]);
    said(&world.try_restore("again", &[]));
    let to = world.server.folder().join("again");
    let server = TestServer::with(&[
        ("DATA_DIR", text(&to)),
        ("BACKUP_TARGET", text(&world.repository)),
        ("BACKUP_PERIOD", "86400"),
    ]);
    let backups = || Client::master(&server).health()["backups"].clone();
    eventually("one of its own", || {
        (backups()["num_made"] == 1).then_some(())
    });
    let names = world.names();
    let verify = |server: &TestServer| {
        let told = said(&server.skytrail(&["backup", text(&world.repository), "--verify"]));
        assert!(told.contains("is whole"), "{told}");
        told
    };
    assert!(verify(&server).contains(&names[1]));
    assert!(verify(&world.server).contains(&names[0]));
    let refused = refusal(&world.try_restore("which", &[]));
    for name in &names {
        let described = format!("{name} (made 20");
        assert!(refused.contains(&described), "{refused}");
    }

    let told = scrape(&server);
    assert!(told.contains("skytrail_backup_foreign 1"), "{told}");
    back_up(&server, &world.repository, &["--forget", &names[0]]);
    eventually("the server knows that it is gone", || {
        (backups()["foreign"] == json!([])).then_some(())
    });
}

/// What the last backup lacks is in its manifest, so a restart ends no alarm.
#[test]
fn a_restart_keeps_what_is_known_of_the_last_backup() {
    let mut world = World::start();
    let asset = upload(&world.server, "note.txt", "text/plain", "a file");
    let name = asset["$name"].as_str().unwrap();
    std::fs::remove_file(world.server.data_dir().join("asset").join(name)).unwrap();
    let failed = world.try_back_up(&[]);
    assert!(refusal(&failed).contains("lacks 1 file"), "{failed:?}");
    world.server.set("BACKUP_TARGET", text(&world.repository));
    world.server.set("BACKUP_PERIOD", "86400");
    world.server.restart();
    let state = eventually("the last one is known", || {
        let state = world.master().health()["backups"].clone();
        state["last_time"].is_string().then_some(state)
    });
    assert_eq!(state["num_made"], 0, "{state}");
    assert_eq!(state["missing_files"], 1, "{state}");
    assert!(state["last_head"].as_u64() > Some(0), "{state}");
}
