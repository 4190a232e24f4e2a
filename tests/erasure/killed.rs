//! An interrupted erasure is finished at the next start.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CONTROL, verified};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::number;
use crate::support::server::TestServer;

/// Returns the erasure of a record if the log has it.
fn erasure_of(master: &Client, record: &str) -> Option<Json> {
    let listed = master.call("erase:list", json!({"limit": 1000})).result();
    let erasures = listed["erasures"].as_array().unwrap();
    let scope = format!("record/{record}");
    let mut of_record = erasures
        .iter()
        .filter(|erasure| erasure["scope"]["record"] == scope.as_str());
    of_record.next().cloned()
}

/// The server is killed at every stage of an erasure: once the log has it, it is carried out.
#[test]
fn killed_again_and_again_an_erasure_comes_true() {
    let mut server = TestServer::with(&[("JOURNAL_SEGMENT_BYTES", "1048576")]);
    let mut master = Client::master(&server);
    for number in 0..30 {
        master.save(&format!("note/{number}"), json!({"text": CONTROL}));
    }
    let mut time_taken = Duration::from_millis(60);
    let mut num_interrupted = 0;
    for round in 0..number("SKYTRAIL_CRASH_CYCLES", 25) {
        let (record, canary) = (format!("note/r{round}"), format!("canary-{round}-7d1e"));
        for version in 0..5 {
            master.save(&record, json!({"text": format!("{canary} {version}")}));
        }
        let share = u32::try_from(round * 37 % 110).unwrap();
        let eraser = master.clone();
        let (begun, body) = (Instant::now(), json!({"record": record, "why": "a test"}));
        let erasing = std::thread::spawn(move || eraser.try_call("erase:record", body).is_ok());
        if round % 5 == 0 {
            // However slow the machine is, some kills come after the request.
            eventually("the log has it", || erasure_of(&master, &record));
        } else {
            std::thread::park_timeout(time_taken * share / 100);
        }
        server.kill();
        if erasing.join().unwrap() {
            time_taken = begun.elapsed().max(Duration::from_millis(20));
        }
        // Some of the starts that finish it are killed, too.
        if round % 3 == 0 {
            server.start_and_kill_after("serve", time_taken * 2 * share / 100);
        }
        server.restart();
        master = master.at(&server);
        match erasure_of(&master, &record) {
            Some(_) => {
                eventually("the erasure is finished", || {
                    erasure_of(&master, &record).filter(|erasure| erasure["finished"] == true)
                });
                assert_eq!(
                    places_of(&server, &canary),
                    Vec::<String>::new(),
                    "round {round}"
                );
                num_interrupted += 1;
            }
            // It was killed before the log had the erasure: nothing is lost except, at most, the
            // record.
            None => assert!(!places_of(&server, &canary).is_empty(), "round {round}"),
        }
        verified(&server);
    }
    assert!(num_interrupted > 0, "no kill came after the request");
    let stays = master
        .call("record:fetch", json!({"ids": ["note/29"]}))
        .result();
    assert_eq!(stays[0]["text"], CONTROL);
    assert!(server.terminate().success());
    let output = server.skytrail(&["rebuild", "--verify"]);
    assert!(output.status.success(), "{}", super::said(&output));
}
