//! An erasure on a full disk: it reports that it is not finished, and finishes when there is space.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CANARY, verified};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Mount, skipped};
use crate::support::server::TestServer;

/// Fills up all space.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_an_erasure_waits_for_space_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let settings = [
        ("DATA_DIR", data.as_str()),
        ("DISK_RESERVE_BYTES", "1048576"),
        ("JOURNAL_SEGMENT_BYTES", "4194304"),
    ];
    let server = TestServer::with(&settings);
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, &format!("{CANARY}-ada"));
    master.save("note/gone", json!({"text": CANARY}));
    master
        .call("record:delete", json!({"ids": ["note/gone"]}))
        .result();
    // So much that neither a segment nor the store can be rewritten within the reserve.
    for number in 0..150 {
        let text = format!("{number} {}", "x".repeat(20_000));
        master.save(&format!("page/{number}"), json!({ "text": text }));
    }
    let (ballast, late) = (mount.folder().join("ballast"), mount.folder().join("late"));
    fill(&ballast);
    let refused = |answer: Json| answer["error"]["message"].as_str().map(str::to_owned);
    eventually("writes are refused", || {
        let text = "x".repeat(200_000);
        let body = json!({"records": [{"_id": "page/more", "text": text}]});
        let answer = master.call("record:save", body);
        (answer.status == 507).then_some(())
    });
    // What has to be written first does not fit, so the request itself is refused.
    let body = json!({"user": ada.user, "why": "a test"});
    let answer = master.call("erase:user", body.clone());
    let message = refused(answer.json()).unwrap_or_default();
    assert!(message.contains("disk is full"), "{message}");

    // This writes nothing but the request, for which the reserve is enough.
    let eraser = master.clone();
    let erasing = std::thread::spawn(move || {
        let body = json!({"record": "note/gone", "why": "a test"});
        eraser.call("erase:record", body)
    });
    let erasures = || {
        let listed = master.call("erase:list", json!({})).result();
        listed["erasures"].as_array().cloned().unwrap_or_default()
    };
    eventually("it is asked for and cannot be done", || {
        fill(&late);
        let health = master.health();
        let failing = health["erasures"]["is_failing"] == true;
        if failing {
            assert_eq!(health["status"], "degraded", "{health}");
            let reasons = health["reasons"].to_string();
            assert!(reasons.contains("an erasure is not finished"), "{reasons}");
        }
        (failing && erasures().iter().any(|it| it["finished"] == false)).then_some(())
    });
    let shown = master.call("history:list", json!({"record": "note/gone"}));
    assert!(
        !shown.json().to_string().contains(CANARY),
        "nobody is shown it"
    );

    std::fs::remove_file(&ballast).unwrap();
    std::fs::remove_file(&late).unwrap();
    eventually("it is done", || {
        let all = erasures();
        (!all.is_empty() && all.iter().all(|it| it["finished"] == true)).then_some(())
    });
    assert_eq!(erasing.join().unwrap().status, 200);
    eventually("writes are taken again", || {
        let answer = master.call("erase:user", body.clone());
        (answer.status == 200).then_some(())
    });
    eventually("it is done", || {
        erasures()
            .iter()
            .all(|it| it["finished"] == true)
            .then_some(())
    });
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    verified(&server);
}
