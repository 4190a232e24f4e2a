//! A record store that is put back from before an erasure loses what was erased, whoever opens it
//! first.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::search::{await_copies, places_of};
use super::waiting::{HeldUp, await_failing, past_notes, write_temporal};
use super::{CANARY, CONTROL, said};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Returns the files of the record store.
fn files_of_store(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap();
    let paths = paths.map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| path.to_string_lossy().contains("/records.sqlite");
    paths.filter(is_one).collect()
}

fn copy(files: &[PathBuf], to: &Path) {
    for file in files {
        std::fs::copy(file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Replaces the store by an earlier copy.
fn put_back(earlier: &Path, data: &Path) {
    for file in files_of_store(data) {
        std::fs::remove_file(file).unwrap();
    }
    copy(&files_of_store(earlier), data);
}

#[test]
fn a_store_that_a_command_found_without_an_erasure_is_rewritten_at_the_next_start() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    for number in 0..40 {
        master.save(&format!("note/{number}"), json!({"text": CONTROL}));
    }
    master.save("note/gone", json!({"text": CANARY.repeat(40)}));
    await_copies(&server, &master, CANARY);
    assert!(server.terminate().success());
    let (data, earlier) = (server.data_dir(), tempfile::tempdir().unwrap());
    copy(&files_of_store(&data), earlier.path());
    server.restart();
    let body = json!({"record": "note/gone", "why": "a test"});
    let erased = master.at(&server).call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    assert!(server.terminate().success());
    put_back(earlier.path(), &data);

    // The command brings the store up to the log.
    let files = data.join("asset");
    let imported = ["import", "files", "--assets-from", files.to_str().unwrap()];
    let imported = server.skytrail(&imported);
    assert!(imported.status.success(), "{}", said(&imported));
    assert!(!places_of(&server, CANARY).is_empty());

    server.restart();
    eventually("what was erased is nowhere", || {
        places_of(&server, CANARY).is_empty().then_some(())
    });
    let master = master.at(&server);
    assert_eq!(master.health()["status"], "OK");
    assert_eq!(master.query("note", json!(null)).len(), 40);
    super::assert_store_is_the_logs(&mut server);
}

/// The copy has the request, and still all that it names.
#[test]
fn a_store_from_between_the_request_and_the_end_of_an_erasure_is_rewritten_at_the_next_start() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let then = write_temporal(&server, &master);
    let held_up = HeldUp::begin(&server);
    std::thread::scope(|scope| {
        let body = json!({"record": "note/gone", "why": "a test"});
        // The server stops before it answers.
        scope.spawn(|| master.try_call("erase:record", body).is_ok());
        await_failing(&master);
        assert!(server.terminate().success());
    });
    let (data, between) = (server.data_dir(), tempfile::tempdir().unwrap());
    copy(&files_of_store(&data), between.path());
    drop(held_up);
    let await_nowhere = |server: &TestServer| {
        eventually("what was erased is nowhere", || {
            let is_open = Client::master(server).health()["erasures"]["num_open"] != 0;
            (!is_open && places_of(server, CANARY).is_empty()).then_some(())
        });
    };
    server.restart();
    await_nowhere(&server);
    // A store that has the end and lacks nothing is not touched.
    assert!(server.terminate().success());
    put_back(between.path(), &data);
    assert!(!places_of(&server, CANARY).is_empty());
    for _ in 0..2 {
        server.restart();
        assert_eq!(past_notes(&master.at(&server), &then), ["note/stays"]);
        await_nowhere(&server);
        assert_eq!(master.at(&server).health()["status"], "OK");
        assert!(server.terminate().success());
    }
    server.restart();
    super::assert_store_is_the_logs(&mut server);
}

/// Writes and erases a record, and stops the server; returns a copy of the store that has it.
fn erase_one(server: &mut TestServer) -> tempfile::TempDir {
    let master = Client::master(server);
    master.save("note/1", json!({"text": CONTROL}));
    master.save("note/gone", json!({"text": CANARY.repeat(40)}));
    await_copies(server, &master, CANARY);
    assert!(server.terminate().success());
    let earlier = tempfile::tempdir().unwrap();
    copy(&files_of_store(&server.data_dir()), earlier.path());
    server.restart();
    let body = json!({"record": "note/gone", "why": "a test"});
    let erased = master.at(server).call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert!(server.terminate().success());
    assert_eq!(places_of(server, CANARY), Vec::<String>::new());
    earlier
}

#[test]
fn a_rebuild_keeps_the_old_store_only_if_it_lacks_no_erasure() {
    let mut server = TestServer::start();
    let earlier = erase_one(&mut server);
    let data = server.data_dir();
    let rebuild = || {
        let rebuilt = server.skytrail(&["rebuild"]);
        assert!(rebuilt.status.success(), "{}", said(&rebuilt));
        said(&rebuilt)
    };
    let previous = data.join("records.previous");
    let kept = "the old store is kept in";
    assert!(rebuild().contains(kept));
    assert!(previous.exists());

    put_back(earlier.path(), &data);
    let told = rebuild();
    assert!(!told.contains(kept) && told.contains("erased"), "{told}");
    assert!(!previous.exists());
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());

    // Nobody can say what it has.
    for file in files_of_store(&data) {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::write(data.join("records.sqlite"), CANARY.repeat(4000)).unwrap();
    assert!(!rebuild().contains(kept));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    server.restart();
    super::assert_store_is_the_logs(&mut server);
}

#[test]
fn a_damaged_store_is_kept_only_if_it_lacks_no_erasure() {
    let mut server = TestServer::start();
    let earlier = erase_one(&mut server);
    let data = server.data_dir();
    let aside = data.join("records.damaged-1");
    put_back(earlier.path(), &data);
    std::fs::write(data.join("records.damaged"), "").unwrap();
    server.restart();
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    assert!(!aside.exists());
    assert!(server.terminate().success());
    std::fs::write(data.join("records.damaged"), "").unwrap();
    server.restart();
    assert!(aside.exists());
    super::assert_store_is_the_logs(&mut server);
}
