//! Commands of root next to a server that runs as another user.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use crate::support::client::Client;
use crate::support::machine::{run, skipped};
use crate::support::postgres::unprivileged;
use crate::support::server::TestServer;

/// Gives a folder and what is in it to a user.
fn give(path: &Path, (user, group): (u32, u32)) {
    let owner = format!("{user}:{group}");
    run("chown", &["-R", &owner, path.to_str().unwrap()]).unwrap();
}

/// Returns the files below a folder that belong to root.
fn of_root(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        if about.uid() == 0 {
            found.push(entry.path().display().to_string());
        }
        if about.is_dir() {
            found.extend(of_root(&entry.path()));
        }
    }
    found
}

#[test]
fn root_writes_nothing_into_the_data_of_another_user() {
    let Some(user) = unprivileged() else {
        return skipped("a command of root", "the tests do not run as root");
    };
    let mut server = TestServer::start();
    Client::master(&server).save("note/1", json!({"n": 1}));
    assert!(server.terminate().success());
    give(&server.data_dir(), user);
    let backups = server.folder().join("backups");
    let backups = backups.to_str().unwrap();
    for arguments in [
        &["backup", backups][..],
        &["rebuild"],
        &["rebuild", "--verify"],
    ] {
        let done = server.skytrail(arguments);
        assert_eq!(done.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(said.contains("belongs to the user"), "{said}");
        assert!(said.contains(&format!("sudo -u '#{}'", user.0)), "{said}");
    }
    // What only reads is left alone.
    assert!(server.skytrail(&["log", "tail"]).status.success());
    assert_eq!(of_root(&server.data_dir()), [""; 0]);
    assert!(!Path::new(backups).exists());
    give(&server.data_dir(), (0, 0));
    assert!(server.skytrail(&["backup", backups]).status.success());
}

/// Root may look after a server of another user; that server still erases.
#[test]
fn a_comparison_by_root_holds_up_no_erasure() {
    let Some((user, group)) = unprivileged() else {
        return skipped("a command of root", "the tests do not run as root");
    };
    let mut server = TestServer::start();
    Client::master(&server).save("note/1", json!({"n": 1}));
    assert!(server.terminate().success());
    let output = server.skytrail(&["rebuild", "--verify"]);
    assert!(output.status.success(), "{output:?}");
    give(server.folder(), (user, group));
    // As an earlier comparison has left it.
    give(&server.data_dir().join("filling.lock"), (0, 0));
    let (reuid, regid) = (format!("--reuid={user}"), format!("--regid={group}"));
    server.wrap(&["setpriv", &reuid, &regid, "--clear-groups"]);
    server.restart();
    let body = json!({"record": "note/1", "why": "a test"});
    let erased = Client::master(&server).call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
}
