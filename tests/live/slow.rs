//! Listeners that do not read.

use std::time::Duration;

use serde_json::json;

use super::listener::Listener;
use super::stream::Stream;
use crate::support::client::Client;
use crate::support::server::TestServer;
use crate::support::{eventually, eventually_within};

#[test]
fn one_who_does_not_read_is_let_go_and_delays_nobody() {
    let server = TestServer::with(&[("LIVE_QUEUE", "16")]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let query = json!({"record_type": "note"});
    let mut slow = Listener::open(&server, &ada);
    let mut quick = Listener::open(&server, &ada);
    slow.subscribe("q", query.clone());
    quick.subscribe("q", query.clone());
    let live = || master.health()["live"].clone();
    let text = "x".repeat(300_000);
    let mut saved = 0;
    eventually_within(Duration::from_secs(120), "the slow one is let go", || {
        saved += 1;
        ada.save(&format!("note/{saved}"), json!({"text": text}));
        quick.until("q", |it| it.records.len() == saved);
        (live()["num_slow"] == 1).then_some(())
    });
    assert_eq!(live()["num_listeners"], 1);
    // It receives what was in flight, then the end, and continues from there.
    slow.until_closed();
    let before = slow.followed["q"].clone();
    assert!(before.records.len() < saved);
    let mut query = query;
    query["from"] = before.position.into();
    let mut back = Listener::open(&server, &ada);
    back.followed.insert("q".into(), before.resumed());
    let after = back.subscribe("q", query);
    assert_eq!(after.num_resets, 0);
    assert_eq!(after.records, quick.followed["q"].records);
}

/// One megabyte may wait, in addition to the kernel's buffers.
#[test]
fn for_one_who_does_not_read_so_many_bytes_wait() {
    let server = TestServer::with(&[("LIVE_QUEUE_BYTES", "1048576")]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let query = json!({"record_type": "note"});
    let mut socket = Listener::open(&server, &ada);
    socket.subscribe("q", query.clone());
    let mut stream = Stream::post(&server, &ada, &query);
    stream.until(|it| it.num_ready == 1);
    let text = "x".repeat(900_000);
    let num_slow = || master.health()["live"]["num_slow"].clone();
    let mut saved = 0;
    while num_slow() != 2 {
        saved += 1;
        assert!(saved <= 60, "{} are ended", num_slow());
        ada.save("note/1", json!({"text": text, "n": saved}));
    }
    // The stream's last event is an error like any other.
    stream.until(|it| it.error.is_some());
    let error = stream.followed.error.clone().unwrap();
    assert_eq!(error["code"], 10000, "{error}");
    assert_eq!(error["name"], "UnexpectedError", "{error}");
    assert!(error["info"]["retry_after_ms"].is_u64(), "{error}");
    stream.until_over();
    socket.until_closed();
    // So many missed changes are not sent one by one.
    let before = socket.followed["q"].clone();
    let mut query = query;
    query["from"] = before.position.into();
    let mut back = Listener::open(&server, &ada);
    back.followed.insert("q".into(), before.resumed());
    let after = back.subscribe("q", query);
    assert_eq!((after.num_resets, after.records.len()), (1, 1));
    assert_eq!(after.records["note/1"]["n"], saved);
}

#[test]
fn many_changes_at_once_are_no_slowness() {
    let server = TestServer::with(&[("LIVE_QUEUE", "16")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/0", json!({"n": 0}));
    let mut listener = Listener::open(&server, &ada);
    listener.subscribe("q", json!({"record_type": "note"}));
    let records: Vec<_> = (1..1000)
        .map(|n| json!({"_id": format!("note/{n}"), "n": n}))
        .collect();
    let body = json!({"atomic": true, "records": records});
    ada.call("record:save", body).result();
    listener.until("q", |it| it.records.len() == 1000);
}

#[test]
fn there_are_so_many_connections() {
    for (setting, status) in [
        ("LIVE_MAX_CONNECTIONS", 503),
        ("LIVE_MAX_CONNECTIONS_PER_ADDRESS", 429),
    ] {
        let server = TestServer::with(&[(setting, "2")]);
        let ada = Client::signed_up(&server, "ada");
        let query = json!({"record_type": "note"});
        let mut socket = Listener::open(&server, &ada);
        let stream = Stream::post(&server, &ada, &query);
        assert_eq!(stream.status, 200);
        let (refused, body) = Listener::try_open(&server, &ada).err().unwrap();
        assert_eq!(refused, status, "{body}");
        assert!(body["error"]["info"]["retry_after_ms"].is_u64(), "{body}");
        assert_eq!(Stream::post(&server, &ada, &query).status, status);
        // The existing listener is served, and closing one frees its place.
        socket.subscribe("q", query.clone());
        drop(stream);
        let again = || Listener::try_open(&server, &ada).ok();
        eventually("the place is free", again);
        // A refused query takes no place.
        let bad = json!({"record_type": "note", "limit": 3});
        assert_eq!(Stream::post(&server, &ada, &bad).status, 400);
        eventually("the place is free again", || {
            (Stream::post(&server, &ada, &query).status == 200).then_some(())
        });
    }
}
