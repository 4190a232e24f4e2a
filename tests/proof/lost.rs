//! A log that has lost something is not served, if that was signed or if the record store has it.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::forger::Forger;
use super::{places, signed, verify};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn segment(server: &TestServer) -> PathBuf {
    let name = "00000000000000000001.journal";
    server.data_dir().join("journal").join(name)
}

/// Returns how many bytes of a segment are used.
fn used(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// Zeroes the second half of a segment's used part; returns the original content.
fn halve(segment: &Path) -> Vec<u8> {
    let whole = std::fs::read(segment).unwrap();
    let mut half = whole.clone();
    let used = used(&whole);
    half[used / 2..used].fill(0);
    std::fs::write(segment, half).unwrap();
    whole
}

/// Fails unless the server refuses to start and leaves the store unchanged.
fn is_refused(server: &mut TestServer, why: &str, advice: &str) {
    let said = server.try_restart().err().unwrap_or_default();
    assert!(said.contains(why) && said.contains(advice), "{said}");
    assert_eq!(server.skytrail(&["serve"]).status.code(), Some(1));
    let data = server.data_dir();
    assert!(!data.join("records.damaged-1").exists());
    assert!(data.join("records.sqlite").exists());
}

/// As before, and nothing of the log may be cut.
fn is_left_alone(server: &mut TestServer, why: &str, advice: &str) {
    let before = std::fs::read(segment(server)).unwrap_or_default();
    is_refused(server, why, advice);
    let after = std::fs::read(segment(server)).unwrap_or_default();
    assert!(before == after, "the journal was changed");
}

fn is_not_rebuilt(server: &TestServer, why: &str) {
    let rebuilt = server.skytrail(&["rebuild"]);
    let said = String::from_utf8_lossy(&rebuilt.stderr);
    assert!(!rebuilt.status.success(), "{rebuilt:?}");
    assert!(said.contains(why), "{said}");
    assert!(!server.data_dir().join("records.previous").exists());
}

#[test]
fn a_log_that_ends_before_its_last_checkpoint_is_not_served() {
    let mut server = signed();
    let segment = segment(&server);
    let why = "but was signed at";
    let whole = halve(&segment);
    is_left_alone(&mut server, why, "restore a backup");
    is_left_alone(&mut server, "checkpoints.jsonl", "skytrail rebuild");
    is_not_rebuilt(&server, why);
    // This looks like a torn write, but it was signed.
    let mut flipped = whole.clone();
    flipped[used(&whole) - 1] ^= 1;
    std::fs::write(&segment, flipped).unwrap();
    is_left_alone(&mut server, why, "restore a backup");
    std::fs::write(&segment, whole).unwrap();
    server.restart();
    assert!(server.terminate().success());
    verify(&server, &[]).unwrap();
}

#[test]
fn a_log_with_another_past_than_was_signed_is_not_served() {
    let mut server = signed();
    let honest = Forger::of(&server);
    let mut forged = honest.clone();
    forged.edit(places(&honest)[3]);
    forged.link();
    forged.write();
    let why = "the chain hash at";
    is_left_alone(&mut server, why, "restore a backup");
    is_not_rebuilt(&server, why);
    // Nor is another log, or none.
    std::fs::remove_dir_all(server.data_dir().join("journal")).unwrap();
    is_left_alone(&mut server, "it was signed at", "restore a backup");
    assert!(!segment(&server).exists());
    std::fs::create_dir_all(server.data_dir().join("journal")).unwrap();
    honest.write();
    server.restart();
}

#[test]
fn a_write_that_was_torn_is_cut_behind_what_was_signed() {
    let mut server = signed();
    server.restart();
    let client = Client::signed_up(&server, "other");
    client.save("note/new", json!({"text": "later"}));
    server.kill();
    let segment = segment(&server);
    let mut bytes = std::fs::read(&segment).unwrap();
    let used = used(&bytes);
    bytes[used + 5..used + 60].fill(7);
    std::fs::write(&segment, &bytes).unwrap();
    // A checkpoint ahead of the log, and a line that a power cut has damaged, prove nothing.
    let path = server.data_dir().join("checkpoints.jsonl");
    let mut notes = std::fs::read_to_string(&path).unwrap();
    let beyond = notes.replacen("\"position\":", "\"position\":9", 1);
    notes.push_str(&beyond);
    notes.push_str("\0\0\0\0\n{\"store_id\":");
    std::fs::write(&path, notes).unwrap();
    server.restart();
    eventually("the lines are named", || {
        let said = server.output();
        let is_named =
            |line| said.contains(&format!("checkpoints.jsonl line {line} proves nothing"));
        (is_named(2) && is_named(3)).then_some(())
    });
    let found = client.at(&server).query("note", json!(null));
    assert!(
        found.iter().any(|note| note["_id"] == "note/new"),
        "{found:?}"
    );
}

#[test]
fn who_accepts_the_loss_goes_on_from_where_the_log_ends() {
    let mut server = signed();
    halve(&segment(&server));
    let notes = server.data_dir().join("checkpoints.jsonl");
    let kept = server.folder().join("kept.jsonl");
    std::fs::rename(&notes, &kept).unwrap();
    // The store has what the log has lost.
    let why = "the log below DATA_DIR ends at";
    is_refused(&mut server, why, "skytrail rebuild");
    let rebuilt = server.skytrail(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert!(server.data_dir().join("records.previous").exists());
    server.restart();
    assert_eq!(Client::master(&server).health()["status"], "OK");
    assert!(server.terminate().success());
    verify(&server, &[]).unwrap();
    let kept = ["--checkpoints", kept.to_str().unwrap()];
    let said = verify(&server, &kept).unwrap_err();
    assert!(said.contains("was signed at"), "{said}");
}

#[test]
fn a_log_that_has_lost_what_nobody_has_signed_yet_is_missed_by_the_store() {
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "writer");
    for number in 0..20 {
        client.save(&format!("note/{number}"), json!({"number": number}));
    }
    client.query("note", json!(null));
    server.kill();
    let whole = halve(&segment(&server));
    let why = "the log below DATA_DIR ends at";
    is_refused(&mut server, why, "restore a backup");
    std::fs::write(segment(&server), whole).unwrap();
    server.restart();
    assert_eq!(client.at(&server).query("note", json!(null)).len(), 20);
}
