//! Files that change under the server: a flipped bit or a lost page is never served. Either the
//! answers are right because the store was rebuilt, or there is a clear error.
//!
//! `SKYTRAIL_FLIPS` sets how often the record store is damaged; 50 by default.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::number;
use crate::support::server::TestServer;

const PAGE_BYTES: usize = 4096;
const NOTES: u32 = 240;
/// No answer and no start may take longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}

/// Flips one bit of a file, or zeroes a page of it; returns what it did.
fn damage(path: &Path, dice: &mut Dice) -> String {
    let mut bytes = std::fs::read(path).unwrap();
    let before = bytes.clone();
    let mut did = String::new();
    while bytes == before {
        let at = dice.roll(bytes.len());
        if dice.roll(4) == 0 {
            let page = at / PAGE_BYTES * PAGE_BYTES;
            let end = (page + PAGE_BYTES).min(bytes.len());
            bytes[page..end].fill(0);
            did = format!("zeros from {page}");
        } else {
            let bit = dice.roll(8);
            bytes[at] ^= 1 << bit;
            did = format!("bit {bit} of byte {at}");
        }
    }
    std::fs::write(path, bytes).unwrap();
    format!("{did} of {}", path.display())
}

/// Fills a server with people and notes.
fn fill(server: &TestServer) -> Client {
    let ada = Client::signed_up(server, "ada");
    let notes: Vec<Json> = (0..NOTES)
        .map(|number| {
            let text = format!(
                "note {number} {}",
                "and so on ".repeat(number as usize % 30)
            );
            json!({"_id": format!("note/{number}"), "number": number, "text": text,
                "room": format!("room-{}", number % 7), "is_open": number % 2 == 0})
        })
        .collect();
    for notes in notes.chunks(60) {
        let answer = ada.call("record:save", json!({"records": notes}));
        assert_eq!(answer.status, 200);
    }
    ada
}

/// Queries in all ways: by key, by content, sorted, counted, in full, and `me`.
fn ask(client: &Client) -> Vec<Json> {
    let room = json!(["eq", {"$type": "keypath", "$val": "room"}, "room-3"]);
    let like = json!(["like", {"$type": "keypath", "$val": "text"}, "%note 11%"]);
    let by_number = json!([[{"$type": "keypath", "$val": "number"}, "desc"]]);
    let by_room = json!([[{"$type": "keypath", "$val": "room"}, "asc"]]);
    let ids: Vec<String> = (0..NOTES).step_by(9).map(|n| format!("note/{n}")).collect();
    let questions = [
        ("record:fetch", json!({"ids": ids})),
        ("record:query", json!({"record_type": "note", "limit": 500})),
        (
            "record:query",
            json!({"record_type": "note", "predicate": room, "sort": by_number}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "predicate": like, "count": true}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "sort": by_room, "limit": 40}),
        ),
        ("me", json!({})),
    ];
    let ask = |(action, payload): (&str, Json)| {
        let begun = Instant::now();
        let answer = client.call(action, payload);
        assert!(
            begun.elapsed() < TIMEOUT,
            "{action} took {:?}",
            begun.elapsed()
        );
        let mut json = answer.json();
        // Every `me` returns a new token and the time of the call.
        if let Some(result) = json["result"].as_object_mut() {
            result.remove("access_token");
            result.remove("last_seen_at");
            result.remove("last_login_at");
        }
        json
    };
    questions.into_iter().map(ask).collect()
}

/// Removes the files that were moved aside; returns whether there were any.
fn clear_aside(server: &TestServer) -> bool {
    let folder = std::fs::read_dir(server.data_dir()).unwrap();
    let aside = folder.map(|entry| entry.unwrap().path());
    let aside: Vec<_> = aside
        .filter(|path| path.to_string_lossy().contains("records.damaged-"))
        .collect();
    aside
        .iter()
        .for_each(|path| std::fs::remove_file(path).unwrap());
    !aside.is_empty()
}

#[test]
fn a_damaged_record_store_is_noticed_and_made_anew_and_the_answers_are_right() {
    let mut server = TestServer::start();
    let ada = fill(&server);
    let expected = ask(&ada);
    assert!(expected.iter().all(|answer| answer["result"] != Json::Null));
    let mut dice = Dice(7);
    for round in 0..number("SKYTRAIL_FLIPS", 50) {
        assert!(server.terminate().success());
        let path = server.data_dir().join("records.sqlite");
        let did = damage(&path, &mut dice);
        let begun = Instant::now();
        server.restart();
        assert!(begun.elapsed() < TIMEOUT, "{did}: {:?}", begun.elapsed());
        assert_eq!(ask(&ada.at(&server)), expected, "round {round}: {did}");
        assert!(clear_aside(&server), "round {round}: {did} was not noticed");
    }
}

#[test]
fn what_is_next_to_the_store_may_be_damaged_after_a_kill_and_the_answers_are_right() {
    let mut server = TestServer::start();
    let ada = fill(&server);
    let expected = ask(&ada);
    let mut dice = Dice(11);
    for round in 0..8 {
        server.kill();
        let name = ["records.sqlite-wal", "records.sqlite-sums"][round % 2];
        let did = damage(&server.data_dir().join(name), &mut dice);
        server.restart();
        assert_eq!(ask(&ada.at(&server)), expected, "round {round}: {did}");
        clear_aside(&server);
        // Gives the next round something to damage.
        let ada = ada.at(&server);
        ada.save("other/1", json!({"round": round}));
        assert_eq!(ada.query("other", Json::Null).len(), 1);
    }
}

#[test]
fn damage_under_a_running_server_is_noticed_within_the_period_and_repaired() {
    let mut server = TestServer::with(&[("STORE_CHECK_PERIOD", "1")]);
    let ada = fill(&server);
    let expected = ask(&ada);
    // After a clean stop everything is in the main file.
    assert!(server.terminate().success());
    server.restart();
    let did = damage(&server.data_dir().join("records.sqlite"), &mut Dice(13));
    server.await_start(2);
    assert_eq!(ask(&ada.at(&server)), expected, "{did}");
    assert!(server.output().contains("differs from its checksum"));
    assert!(clear_aside(&server));
}

#[test]
fn sled_and_store_come_back_from_the_journal_whatever_happens_to_them() {
    let mut server = TestServer::start();
    let ada = fill(&server);
    let expected = ask(&ada);
    let mut dice = Dice(17);
    for lost in ["sled", "records.sqlite", "both", "sled flipped"] {
        assert!(server.terminate().success());
        let data = server.data_dir();
        if lost == "sled" || lost == "both" {
            std::fs::remove_dir_all(data.join("sled")).unwrap();
        }
        if lost == "records.sqlite" || lost == "both" {
            std::fs::remove_file(data.join("records.sqlite")).unwrap();
        }
        if lost == "sled flipped" {
            for _ in 0..20 {
                damage(&data.join("sled/db"), &mut dice);
            }
        }
        server.restart();
        let client = ada.at(&server);
        assert_eq!(ask(&client), expected, "{lost}");
        let master = Client::master(&server);
        eventually("sled has everything again", || {
            let log = master.health()["log"].clone();
            let is_complete =
                log["sled"]["position"] == log["head"] && log["sled"]["is_degraded"] == false;
            is_complete.then_some(())
        });
        for command in [&["rebuild", "--verify"][..], &["log", "verify"]] {
            let output = server.skytrail(command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{lost}: {said}");
        }
    }
}

#[test]
fn damaged_keys_are_refused_at_the_start_and_the_file_is_named() {
    let mut server = TestServer::with(&[("API_KEY", "")]);
    assert!(server.terminate().success());
    let path = server.data_dir().join("keys.json");
    let kept = std::fs::read(&path).unwrap();
    for at in [3, 20, kept.len() / 2, kept.len() - 9] {
        let mut bytes = kept.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let said = server.try_restart().unwrap_err();
        assert!(said.contains("keys.json is damaged"), "byte {at}: {said}");
    }
    std::fs::write(&path, kept).unwrap();
    server.restart();
}

/// If the server's locks were gone, a process that reads the file with SQLite and closes it would
/// checkpoint the server's write-ahead log and remove it.
#[test]
fn who_reads_the_store_with_sqlite_leaves_it_to_the_server() {
    let mut server = TestServer::with(&[("STORE_CHECK_PERIOD", "1")]);
    let ada = fill(&server);
    // Whoever asks waits until the store has what was saved.
    let expected = ask(&ada);
    let store = server.data_dir().join("records.sqlite");
    let written = server.data_dir().join("records.sqlite-wal");
    let file_id = || std::fs::metadata(&written).unwrap().ino();
    let before = file_id();
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
        print(db.execute('SELECT count(*) FROM note').fetchone()[0]); db.close()";
    let read = Command::new("python3")
        .args(["-c", script])
        .arg(&store)
        .output();
    let read = read.unwrap();
    let found = String::from_utf8_lossy(&read.stdout);
    assert_eq!(found.trim(), NOTES.to_string(), "{read:?}");
    assert_eq!(file_id(), before);
    server.kill();
    server.restart();
    assert_eq!(ask(&ada.at(&server)), expected);
    assert!(!clear_aside(&server));
}
