//! Commit times never go back, whatever the machine's clock does.

use chrono::DateTime;
use serde_json::json;

use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{faketime, skipped};
use crate::support::server::TestServer;

const DAY_SECONDS: u64 = 24 * 60 * 60;

#[test]
fn a_log_that_is_ahead_of_the_clock_says_so() {
    let Some(faketime) = faketime() else {
        return skipped("a clock that was ahead", "faketime is not installed");
    };
    let mut server = TestServer::start();
    let seconds_ahead = |server: &TestServer| {
        let ahead = &Client::master(server).health()["log"]["seconds_ahead"];
        ahead.as_u64().unwrap()
    };
    Client::master(&server).save("note/1", json!({}));
    assert_eq!(seconds_ahead(&server), 0);

    server.terminate();
    server.restart_with(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME", "+2d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    Client::master(&server).save("note/2", json!({}));
    assert_eq!(seconds_ahead(&server), 0);
    server.terminate();
    server.restart_with(&[("FAKETIME", "+0")]);

    let ahead = seconds_ahead(&server);
    assert!((DAY_SECONDS..=2 * DAY_SECONDS).contains(&ahead), "{ahead}");
    let figure = figure(&scrape(&server), "skytrail_log_seconds_ahead");
    assert!(figure >= DAY_SECONDS as f64, "{figure}");
    // What is written now comes after what was written then.
    let master = Client::master(&server);
    master.save("note/3", json!({}));
    let time_of = |id: &str| {
        let listed = master.call("history:list", json!({"record": id})).result();
        let time = listed["versions"][0]["time"].as_str().unwrap();
        DateTime::parse_from_rfc3339(time).unwrap()
    };
    assert!(time_of("note/3") > time_of("note/2"));
    let line = eventually("the server says that the clock is behind", || {
        let output = server.output();
        let said = |line: &&str| line.contains("ahead of the clock");
        output.lines().find(said).map(str::to_owned)
    });
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn a_clock_before_1970_is_named() {
    let Some(faketime) = faketime() else {
        return skipped("a clock before 1970", "faketime is not installed");
    };
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    server.set("LD_PRELOAD", &faketime);
    server.set("FAKETIME", "@1960-01-01 00:00:00");
    server.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("a time before 1970"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
