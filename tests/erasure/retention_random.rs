//! Retention under random settings, saves, deletions and kills, and by days of a clock that the
//! test sets.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value as Json, json};

use super::{assert_store_is_the_logs, verified, versions};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{faketime, number, skipped};
use crate::support::server::TestServer;

/// The records after each event, by position; null for a deletion.
type Model = BTreeMap<String, BTreeMap<u64, Json>>;

/// Notes the newest versions before any of them can be let go.
fn note_new(master: &Client, model: &mut Model) {
    for (record, states) in model {
        for version in versions(master, record) {
            let position = version["position"].as_u64().unwrap();
            if version.get("erased").is_none() {
                states
                    .entry(position)
                    .or_insert_with(|| version["record"].clone());
            }
        }
    }
}

/// The last `kept` versions of every record are unchanged, and no older one is different.
fn check(master: &Client, model: &Model, kept: Option<usize>) {
    for (record, states) in model {
        let listed = versions(master, record);
        assert_eq!(listed.len(), states.len(), "{record}: no position is lost");
        let states = states.iter().rev();
        for (age, (version, (position, state))) in listed.iter().zip(states).enumerate() {
            assert_eq!(version["position"].as_u64(), Some(*position), "{record}");
            let is_gone = version.get("erased").is_some() || version["record"].is_null();
            let must_be = kept.is_none_or(|kept| age < kept);
            if must_be || !is_gone {
                assert_eq!(&version["record"], state, "{record} at {position}");
            }
        }
    }
}

fn all(master: &Client) -> Json {
    let by_id = json!([[{"$type": "keypath", "$val": "_id"}, "asc"]]);
    let body = json!({"record_type": "note", "sort": by_id, "limit": 100});
    master.call("record:query", body).result()
}

#[test]
fn whatever_is_kept_is_as_it_was_through_compactions_and_kills() {
    let seed = number("SKYTRAIL_SEED", 4711);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = TestServer::with(&[("JOURNAL_SEGMENT_BYTES", "1048576")]);
    let mut master = Client::master(&server);
    let records: Vec<String> = (0..3).map(|key| format!("note/{key}")).collect();
    let mut model: Model = records
        .iter()
        .map(|it| (it.clone(), BTreeMap::new()))
        .collect();
    for round in 0..number("SKYTRAIL_RETENTION_ROUNDS", 8) {
        for step in 0..random.random_range(20..60) {
            let record = &records[random.random_range(0..records.len())];
            if random.random_range(0..12) == 0 {
                master.call("record:delete", json!({"ids": [record]}));
            } else {
                let filler = "x".repeat(random.random_range(0..4000));
                let text = format!("{round} {step} {filler}");
                master.save(record, json!({"n": step, "text": text}));
            }
        }
        note_new(&master, &mut model);
        let before = all(&master);
        let kept = random.random_range(1..50);
        let body = json!({"type": "note", "versions": kept});
        master.call("schema:retention", body).result();
        let compactor = master.clone();
        let compacting =
            std::thread::spawn(move || drop(compactor.try_call("log:compact", json!({}))));
        if random.random_range(0..3) > 0 {
            std::thread::park_timeout(Duration::from_millis(random.random_range(0..200)));
            server.kill();
            server.restart();
        }
        compacting.join().unwrap();
        master = master.at(&server);
        assert_eq!(all(&master), before, "round {round}: what records are now");
        let kept = usize::try_from(kept).unwrap();
        check(&master, &model, Some(kept));
        // What the kill left unfinished is completed, and then nothing is left to do.
        eventually("it is compacted", || {
            let done = master.call("log:compact", json!({})).result();
            (done["num_events"] == 0 && done["finished"] == true).then_some(())
        });
        check(&master, &model, Some(kept));
        assert_eq!(all(&master), before, "round {round}");
        verified(&server);
        // From here on, versions that are gone must stay gone.
        for (record, states) in &mut model {
            for version in versions(&master, record) {
                if version["record"].is_null() {
                    states.insert(version["position"].as_u64().unwrap(), Json::Null);
                }
            }
        }
    }
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    check(&master, &model, None);
}

#[test]
fn days_go_by_and_the_log_is_compacted_at_its_hour() {
    let Some(faketime) = faketime() else {
        return skipped("retention by days", "faketime is not installed");
    };
    let begin = |server: &mut TestServer, time: &str| {
        server.terminate();
        for (name, value) in [
            ("LD_PRELOAD", faketime.as_str()),
            ("FAKETIME", time),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("TZ", "UTC"),
        ] {
            server.set(name, value);
        }
        server.restart();
        Client::master(server)
    };
    let mut server = TestServer::start();
    let days = [
        "@2030-01-01 12:00:00",
        "@2030-01-02 12:00:00",
        "@2030-01-06 12:00:00",
    ];
    for (day, time) in days.into_iter().enumerate() {
        let master = begin(&mut server, time);
        for number in 0..3 {
            master.save("note/1", json!({"day": day, "n": number}));
        }
    }
    let master = Client::master(&server);
    let before = versions(&master, "note/1");
    assert_eq!(before.len(), 9);
    let body = json!({"type": "note", "days": 4});
    master.call("schema:retention", body).result();
    assert_eq!(
        versions(&master, "note/1"),
        before,
        "nothing goes before its hour"
    );

    // Seconds before the hour, on the next day. The state four days before is from the second day.
    // Its full state is the very first version, so all versions are kept...
    server.set("COMPACT_AT", "03:30");
    let master = begin(&mut server, "@2030-01-07 03:29:50");
    eventually("it is compacted at half past three", || {
        server
            .output()
            .contains("the log was compacted")
            .then_some(())
    });
    assert_eq!(versions(&master, "note/1"), before);

    // ... until there are full states after it.
    for number in 0..40 {
        master.save("note/1", json!({"day": 6, "n": number}));
    }
    let before = versions(&master, "note/1");
    let master = begin(&mut server, "@2030-01-12 03:29:50");
    eventually("what is older than four days goes", || {
        let listed = master.call("erase:list", json!({})).result();
        let erasures = listed["erasures"].as_array().cloned().unwrap_or_default();
        (!erasures.is_empty() && erasures.iter().all(|it| it["finished"] == true)).then_some(())
    });
    let after = versions(&master, "note/1");
    assert_eq!(after.len(), before.len());
    let first_gone = after.iter().position(|it| it.get("erased").is_some());
    let first_gone = first_gone.unwrap();
    assert!(first_gone < 40, "{first_gone} versions are kept");
    for (number, (after, before)) in after.iter().zip(&before).enumerate() {
        let record = if number < first_gone {
            &before["record"]
        } else {
            &Json::Null
        };
        assert_eq!(&after["record"], record, "{number}");
    }
    verified(&server);
    assert!(server.terminate().success());
}
