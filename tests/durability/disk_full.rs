//! A full disk: a real, small file system in memory. Writes are refused with a reason, reads
//! continue, writes work again when there is space, a stop completes, and nothing is lost.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Mount, run, skipped};
use crate::support::server::TestServer;

const WRITERS: usize = 4;
const TEXT_BYTES: usize = 20_000;
/// How long writes may still be refused after there is space again.
const RECOVERY: Duration = Duration::from_secs(30);

/// The acknowledged records: their keys, and how their texts begin.
type Acknowledged = Mutex<BTreeMap<String, String>>;

/// Writes until writes are refused; returns the refusals.
fn fill(client: &Client, prefix: &str, acknowledged: &Acknowledged) -> Vec<(u16, String)> {
    let write = |writer: usize| {
        for number in 0.. {
            let id = format!("note/{prefix}-{writer}-{number}");
            let text = format!("{id} {}", "x".repeat(TEXT_BYTES));
            let record = json!({"_id": id, "text": text});
            let answer = client.call("record:save", json!({"records": [record]}));
            let json = answer.json();
            // Either the whole request is refused, or its only record.
            let error = if answer.status == 200 {
                json["result"][0].clone()
            } else {
                json["error"].clone()
            };
            if answer.status != 200 || error["_type"] == "error" {
                return (answer.status, error["message"].as_str().unwrap().to_owned());
            }
            acknowledged.lock().unwrap().insert(id, text);
        }
        unreachable!("it writes until it is refused");
    };
    std::thread::scope(|scope| {
        let write = &write;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    })
}

/// Fails unless every acknowledged record exists and is complete, by query and by key.
fn check(client: &Client, acknowledged: &Acknowledged) {
    let acknowledged = acknowledged.lock().unwrap();
    let begun = Instant::now();
    let body = json!({"record_type": "note", "limit": 100_000});
    let found = client.call("record:query", body).result();
    let found: BTreeMap<&str, &str> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|note| {
            (
                note["_id"].as_str().unwrap(),
                note["text"].as_str().unwrap(),
            )
        })
        .collect();
    for (id, text) in acknowledged.iter() {
        assert_eq!(found.get(id.as_str()), Some(&text.as_str()), "{id}");
    }
    let (last, text) = acknowledged.last_key_value().unwrap();
    let fetched = client.call("record:fetch", json!({"ids": [last]})).result();
    assert_eq!(fetched[0]["text"], text.as_str());
    assert!(
        begun.elapsed() < RECOVERY,
        "reads took {:?}",
        begun.elapsed()
    );
}

/// Takes up space, as another program would.
fn put_ballast(path: &Path, megabytes: usize) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&vec![1; megabytes << 20]).unwrap();
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "40m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let ballast = mount.folder().join("ballast");
    put_ballast(&ballast, 20);
    let mut server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "67108864")]);
    let client = Client::signed_up(&server, "ada");
    let acknowledged = Acknowledged::default();

    let refusals = fill(&client, "first", &acknowledged);
    for (status, message) in &refusals {
        assert!([503, 507].contains(status), "{refusals:?}");
        assert!(
            *status == 503 || message.contains("disk is full"),
            "{refusals:?}"
        );
    }
    assert!(
        refusals.iter().any(|(status, _)| *status == 507),
        "{refusals:?}"
    );
    assert!(acknowledged.lock().unwrap().len() > 20);
    let health = Client::master(&server).health();
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("the disk is full"), "{reasons}");
    check(&client, &acknowledged);

    std::fs::remove_file(&ballast).unwrap();
    let begun = Instant::now();
    eventually("writes are taken again", || {
        let body = json!({"records": [{"_id": "other/1", "text": "there is space"}]});
        (client.call("record:save", body).status == 200).then_some(())
    });
    assert!(begun.elapsed() < RECOVERY, "{:?}", begun.elapsed());

    fill(&client, "second", &acknowledged);
    check(&client, &acknowledged);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    // First with the disk as full as before, then with space again.
    server.restart();
    check(&client.at(&server), &acknowledged);
    let path = mount.folder().to_string_lossy().into_owned();
    run("mount", &["-o", "remount,size=160m", &path]).unwrap();
    eventually("writes are taken again", || {
        let body = json!({"records": [{"_id": "other/2", "text": "there is space"}]});
        let answer = client.at(&server).call("record:save", body);
        (answer.status == 200).then_some(())
    });
    check(&client.at(&server), &acknowledged);
    for command in [&["log", "verify"][..], &["rebuild", "--verify"]] {
        let output = server.skytrail(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    server.kill();
}

#[test]
fn a_server_starts_on_a_full_disk_with_the_space_that_it_kept_back() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "8388608")]);
    let master = Client::master(&server);
    master.save("note/1", json!({"text": "was there before"}));
    assert!(server.terminate().success());
    assert!(server.data_dir().join("reserve").exists());
    mount.fill_but(0);

    server.restart();
    let master = master.at(&server);
    let body = json!({"ids": ["note/1"]});
    let found = master.call("record:fetch", body).result();
    assert_eq!(found[0]["text"], "was there before");
    let body = json!({"records": [{"_id": "note/2", "text": "there is space"}]});
    assert_eq!(master.call("record:save", body.clone()).status, 507);
    // Nothing is reserved now, and the server says so.
    assert!(server.terminate().success());
    server.restart();
    let said = server.output();
    assert!(said.contains("no space for the disk reserve"), "{said}");

    mount.make_room();
    let master = master.at(&server);
    eventually("writes are taken again", || {
        (master.call("record:save", body.clone()).status == 200).then_some(())
    });
    server.kill();
}

#[test]
fn reads_that_would_note_something_are_answered_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "8388608")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "was there before"}));
    mount.fill_but(0);
    let body = json!({"records": [{"_id": "note/2", "text": "finds no space"}]});
    eventually("writes are refused", || {
        (ada.call("record:save", body.clone()).status == 507).then_some(())
    });
    // When the user was last seen cannot be noted.
    let me = ada.call("me", json!({})).result();
    assert_eq!(me["profile"]["username"], "ada", "{me}");
    // The master key's own user does not exist yet.
    let master = Client::master(&server);
    let history = master.call("history:list", json!({"record": "note/1"}));
    assert_eq!(history.status, 200, "{}", history.json());
    assert_eq!(master.call("record:save", body.clone()).status, 507);

    mount.make_room();
    eventually("writes are taken again", || {
        (master.call("record:save", body.clone()).status == 200).then_some(())
    });
}

/// Returns the figure for what is free.
fn free_bytes(server: &TestServer) -> f64 {
    figure(&scrape(server), "skytrail_disk_free_bytes")
}

#[test]
fn what_is_free_is_shown_long_before_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "8388608")]);
    let megabyte = f64::from(1 << 20);
    let before = free_bytes(&server) / megabyte;
    // The reserve is not free. The server's own files are small so far.
    assert!((30.0..72.0).contains(&before), "{before}");
    put_ballast(&mount.folder().join("ballast"), 20);
    let taken = before - free_bytes(&server) / megabyte;
    assert!((19.0..25.0).contains(&taken), "{taken}");
    let health = Client::master(&server).health();
    assert_eq!(health["status"], "OK", "{health}");
    assert!(health["log"]["disk_free_bytes"].is_u64(), "{health}");
}

#[test]
fn a_full_disk_is_told_without_a_reserve() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "0")]);
    let ada = Client::signed_up(&server, "ada");
    mount.fill_but(0);
    fill(&ada, "first", &Acknowledged::default());
    let body = json!({"records": [{"_id": "note/1", "text": "x".repeat(1 << 20)}]});
    assert_eq!(ada.call("record:save", body).status, 507);
    let refuses = || {
        let name = "skytrail_log_refuses_writes{reason=\"disk_full\"}";
        figure(&scrape(&server), name)
    };
    assert_eq!(refuses(), 1.0);
    let health = Client::master(&server).health();
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("the disk is full"), "{health}");
    let free = health["log"]["disk_free_bytes"].as_u64().unwrap();
    assert!(free < 1 << 20, "{health}");
    mount.make_room();
    eventually("nothing is wrong any more", || {
        (refuses() == 0.0).then_some(())
    });
}

#[test]
fn a_first_start_that_finds_no_space_leaves_a_folder_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "4m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    // Enough for the files that are created first, but not for a segment.
    mount.fill_but(200_000);
    let mut server = TestServer::start();
    let data = mount.folder().join("data");
    server.set("DATA_DIR", &data.to_string_lossy());
    let said = server.try_restart().expect_err("there is no space");
    assert!(said.contains("No space left"), "{said}");
    assert!(data.join("subjects.keys").exists());

    let path = mount.folder().to_string_lossy().into_owned();
    run("mount", &["-o", "remount,size=160m", &path]).unwrap();
    server.restart();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "there is space"}));
    assert!(server.skytrail(&["log", "verify"]).status.success());
    server.kill();
}

#[test]
fn health_says_that_the_inodes_ran_out() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "160m,nr_inodes=500") {
        Ok(mount) => mount,
        Err(why) => return skipped("no inodes", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "8388608")]);
    let fillers = mount.folder().join("fillers");
    std::fs::create_dir(&fillers).unwrap();
    let create = |number: usize| std::fs::File::create(fillers.join(number.to_string()));
    assert!((0..1000).any(|number| create(number).is_err()));

    let master = Client::master(&server);
    eventually("writes are refused", || {
        let body = json!({"records": [{"_id": "note/1", "text": "finds no inode"}]});
        (master.call("record:save", body).status == 507).then_some(())
    });
    let health = master.health();
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("no inodes left"), "{reasons}");
    assert!(!reasons.contains("disk is full"), "{reasons}");

    std::fs::remove_dir_all(&fillers).unwrap();
    eventually("writes are taken again", || {
        (master.health()["status"] == "OK").then_some(())
    });
    server.kill();
}

#[test]
fn a_rebuild_that_finds_no_space_leaves_no_half_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("DATA_DIR", &data)]);
    let master = Client::master(&server);
    for number in 0..40 {
        let text = format!("{number} {}", "x".repeat(100_000));
        master.save(&format!("note/{number}"), json!({ "text": text }));
    }
    assert!(server.terminate().success());
    mount.fill_but(1 << 20);
    for command in [&["rebuild"][..], &["rebuild", "--verify"]] {
        let output = server.skytrail(command);
        assert!(!output.status.success(), "there is no space for it");
        let entries = std::fs::read_dir(server.data_dir()).unwrap().flatten();
        let names = entries.map(|it| it.file_name().to_string_lossy().into_owned());
        let half = |name: &String| {
            name.starts_with("records.rebuild") || name.starts_with("records.verify")
        };
        let left: Vec<_> = names.filter(half).collect();
        assert_eq!(left, Vec::<String>::new(), "{command:?}");
    }
    mount.make_room();
    assert!(server.skytrail(&["rebuild"]).status.success());
}

#[test]
fn a_start_says_why_the_record_store_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    // Nothing is reserved.
    let mut server = TestServer::with(&[("DATA_DIR", &data)]);
    assert!(server.terminate().success());
    mount.fill_but(0);
    let said = server.try_restart().expect_err("there is no space");
    assert!(said.contains("record store does not open: "), "{said}");
    assert!(said.contains(" is full: 0 bytes are free"), "{said}");
}

#[test]
fn a_log_on_a_disk_that_takes_no_writes_is_read_and_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("read-only disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("DATA_DIR", &data)]);
    Client::signed_up(&server, "ada").save("note/1", json!({"text": "is read"}));
    assert!(server.terminate().success());
    let path = mount.folder().to_string_lossy().into_owned();
    run("mount", &["-o", "remount,ro", &path]).unwrap();
    let elsewhere = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (past, backups) = (elsewhere("past.sqlite"), elsewhere("backups"));
    for command in [
        &["log", "verify"][..],
        &["log", "stat"],
        &["log", "tail"],
        &["log", "show", "1"],
        &["log", "export"],
        &["log", "key"],
        &["rebuild", "--until", "2", "--to", &past],
    ] {
        let output = server.skytrail(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    }
    let output = server.skytrail(&["rebuild", "--verify"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let lock = format!("{data}/filling.lock cannot be opened");
    let why = format!("no store can be filled in {data}: {lock}: Read-only file system");
    assert!(!output.status.success() && said.contains(&why), "{said}");
    // The ops store is first copied within the data folder, so it is missing from the backup, and
    // the command says so.
    let output = server.skytrail(&["backup", &backups]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lacks ops.sqlite"), "{said}");
    let verified = server.skytrail(&["backup", &backups, "--verify"]);
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(said.contains("is as it was saved"), "{said}");
}
