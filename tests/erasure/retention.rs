//! Retention: old versions are gone, and kept ones are unchanged.

use serde_json::{Value as Json, json};

use super::{assert_store_is_the_logs, said, verified, versions};
use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

/// Returns the record after each of its versions, newest first, where it is known.
fn past(client: &Client, record: &str) -> Vec<(u64, Json)> {
    let listed = versions(client, record);
    let state = |version: &Json| {
        let position = version["position"].as_u64().unwrap();
        let body = json!({"ids": [record], "as_of": position});
        let mut found = client.call("record:fetch", body).result()[0].clone();
        if found["_type"] == "error" {
            found = Json::Null;
        }
        (position, found)
    };
    listed.iter().map(state).collect()
}

fn compact(server: &TestServer) -> String {
    let master_key = format!("MASTER_KEY={MASTER_KEY}");
    let arguments = [
        "--set",
        &master_key,
        "compact",
        "--server",
        &server.base_url,
    ];
    let output = server.skytrail(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn versions_beyond_those_kept_are_let_go_and_the_rest_is_as_it_was() {
    let mut server = TestServer::with(&[("JOURNAL_SEGMENT_BYTES", "1048576")]);
    let master = Client::master(&server);
    let filler = "x".repeat(2000);
    for number in 0..100 {
        master.save(
            "note/long",
            json!({"n": number, "text": format!("{number}{filler}")}),
        );
        if number % 20 == 0 {
            master.save("note/short", json!({"n": number}));
            master.save("other/1", json!({"n": number}));
        }
        if number % 33 == 0 {
            master.save("note/gone", json!({"n": number}));
            master
                .call("record:delete", json!({"ids": ["note/gone"]}))
                .result();
        }
    }
    let records = ["note/long", "note/short", "note/gone", "other/1"];
    let before: Vec<_> = records.iter().map(|it| past(&master, it)).collect();
    let all = master
        .call("record:query", json!({"record_type": "note"}))
        .result();
    assert!(
        compact(&server).starts_with("0 events and"),
        "nothing goes unasked"
    );

    let body = json!({"type": "note", "versions": 10});
    master.call("schema:retention", body).result();
    let done = master.call("log:compact", json!({})).result();
    assert_eq!(done["finished"], true, "{done}");
    let size = |name: &str| done[name].as_u64().unwrap();
    assert!(done["num_events"].as_u64().unwrap() > 50, "{done}");
    // A hundred versions of two thousand bytes; most of them are let go.
    assert!(
        size("bytes_before") - size("bytes_after") > 100_000,
        "{done}"
    );
    verified(&server);
    check(&master, &records, &before);
    assert_eq!(
        master
            .call("record:query", json!({"record_type": "note"}))
            .result(),
        all
    );
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    check(&master, &records, &before);
    assert!(
        compact(&server).starts_with("0 events and"),
        "once is enough"
    );
    for number in 100..110 {
        master.save("note/long", json!({"n": number}));
    }
    let newest = versions(&master, "note/long");
    assert_eq!(newest.len(), 110);
    assert_eq!(newest[0]["record"]["n"], 109);
}

/// The last ten versions of each record are unchanged. Of the older ones, the oldest are no longer
/// known and the others are unchanged. Other types are untouched.
fn check(master: &Client, records: &[&str], before: &[Vec<(u64, Json)>]) {
    for (record, before) in records.iter().zip(before) {
        let after = past(master, record);
        assert_eq!(after.len(), before.len(), "{record}");
        let same = after
            .iter()
            .zip(before)
            .take_while(|(after, before)| after == before);
        let num_same = same.count();
        let kept = if *record == "other/1" {
            before.len()
        } else {
            10
        };
        assert!(num_same >= kept.min(before.len()), "{record}: {num_same}");
        for ((position, after), (same_position, _)) in after.iter().zip(before).skip(num_same) {
            assert_eq!(position, same_position, "positions do not move");
            assert_eq!(after, &Json::Null, "{record} at {position}");
        }
        if *record == "note/long" {
            assert!(num_same < 10 + 32, "{num_same} versions are kept");
        }
    }
}
