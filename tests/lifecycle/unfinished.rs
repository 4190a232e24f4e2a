//! Output files of commands that are killed: nobody can mistake half a file for the whole.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

/// A server with some data, and a world-writable folder for the output.
fn filled() -> (TestServer, tempfile::TempDir) {
    let server = TestServer::start();
    let master = Client::master(&server);
    for number in 0..20 {
        let text = format!("{number} ").repeat(10_000);
        master.save(&format!("note/{number}"), json!({"text": text}));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    (server, folder)
}

/// Runs a command after a shell command, with an umask that makes files readable by everyone.
fn run(server: &TestServer, told: &str, arguments: &[&str]) -> Output {
    let script = format!("umask 0; {told}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.env_clear().env("DATA_DIR", server.data_dir());
    command.args(["-c", &script, env!("CARGO_BIN_EXE_skytrail")]);
    command.args(arguments).output().unwrap()
}

/// Runs a command that is killed when a file grows above the limit.
fn run_killed(server: &TestServer, arguments: &[&str]) {
    let killed = run(server, "ulimit -c 0; ulimit -f 60", arguments);
    assert!(killed.status.signal().is_some(), "{killed:?}");
}

fn run_well(server: &TestServer, arguments: &[&str]) {
    let done = run(server, "true", arguments);
    assert!(done.status.success(), "{done:?}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_store_of_the_past_is_for_its_owners_eyes_and_has_its_name_when_it_is_whole() {
    let (server, folder) = filled();
    let file = folder.path().join("past.sqlite");
    let rebuild = [
        "rebuild",
        "--until",
        "9999-01-01T00:00:00Z",
        "--to",
        file.to_str().unwrap(),
    ];
    run_killed(&server, &rebuild);
    assert!(!file.exists(), "{:?}", names_in(folder.path()));
    for name in names_in(folder.path()) {
        assert_eq!(mode_of(&folder.path().join(&name)) & 0o077, 0, "{name}");
    }

    run_well(&server, &rebuild);
    assert_eq!(
        names_in(folder.path()),
        ["past.sqlite"],
        "what the killed one left is gone"
    );
    assert_eq!(mode_of(&file), 0o600);
    // Removing the file leaves nothing behind, and it can be created again.
    std::fs::remove_file(&file).unwrap();
    run_well(&server, &rebuild);
    // A write-ahead log that SQLite has not merged yet belongs to another file.
    std::fs::remove_file(&file).unwrap();
    let wal = folder.path().join("past.sqlite-wal");
    std::fs::write(&wal, "not of the new one").unwrap();
    let refused = run(&server, "true", &rebuild);
    assert!(!refused.status.success());
    assert_eq!(names_in(folder.path()), ["past.sqlite-wal"]);
}

#[test]
fn a_store_of_the_past_that_cannot_be_made_leaves_nothing() {
    let (server, folder) = filled();
    let file = folder.path().join("past.sqlite");
    let file = file.to_str().unwrap();
    let refused = run(
        &server,
        "true",
        &["rebuild", "--until", "1000000", "--to", file],
    );
    assert!(!refused.status.success());
    // A full disk is reported, unlike a limit, which kills.
    let told = "trap '' XFSZ; ulimit -f 60";
    let failed = run(&server, told, &["rebuild", "--until", "20", "--to", file]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn an_export_has_its_name_when_it_is_whole() {
    let (server, folder) = filled();
    let file = folder.path().join("all.jsonl");
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let export = [
        "--set",
        &key,
        "export",
        "--server",
        &server.base_url,
        "--output",
        file.to_str().unwrap(),
    ];
    run_killed(&server, &export);
    assert!(!file.exists(), "{:?}", names_in(folder.path()));

    run_well(&server, &export);
    assert_eq!(names_in(folder.path()), ["all.jsonl"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"note/").count(), 20);
}
