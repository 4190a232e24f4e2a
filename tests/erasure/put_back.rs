//! A record store that is put back from before an erasure loses what was erased, whoever opens it
//! first.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::search::{await_copies, places_of};
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
    for file in files_of_store(&data) {
        std::fs::remove_file(file).unwrap();
    }
    copy(&files_of_store(earlier.path()), &data);

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
