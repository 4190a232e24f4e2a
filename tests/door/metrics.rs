//! The metrics for Prometheus: who sees them, that they parse, that they change, what each means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::Regex;
use serde_json::json;

use super::{ask, figure, figure_if_any, scrape};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::Socket;

#[test]
fn figures_are_for_who_has_the_master_key_or_the_scrapers_own() {
    let server = TestServer::with(&[("METRICS_KEY", "scraper")]);
    let status = |name, value| ask(&server, "GET", "/_/metrics", &[(name, value)]).status;
    for (name, value, expected) in [
        ("X-Skygear-API-Key", MASTER_KEY, 200),
        ("X-Skygear-API-Key", "scraper", 200),
        ("Authorization", "Bearer scraper", 200),
        ("X-Skygear-API-Key", API_KEY, 401),
        ("Authorization", "Bearer wrong", 401),
        ("Authorization", "Bearer ", 401),
        ("X-Other", "scraper", 401),
    ] {
        assert_eq!(status(name, value), expected, "{name}: {value}");
    }
    let plain = TestServer::start();
    let headers = [("Authorization", "Bearer ")];
    assert_eq!(ask(&plain, "GET", "/_/metrics", &headers).status, 401);
}

/// Parses the text as Prometheus would: families by name, each with its kind and its samples.
fn families(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let label = r#"[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*""#;
    let sample = format!(
        r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{{{label}(?:,{label})*\}})? (?:[0-9.e+-]+|\+Inf|NaN)$"
    );
    let sample = Regex::new(&sample).unwrap();
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            name.clone_into(&mut current);
            let before = families.insert(current.clone(), (kind.to_owned(), Vec::new()));
            assert!(before.is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.contains(' '), "{line}");
        } else {
            let captures = sample
                .captures(line)
                .unwrap_or_else(|| panic!("no sample: {line}"));
            let name = &captures[1];
            let (kind, samples) = families.get_mut(&current).unwrap();
            let suffix = name.strip_prefix(&current).unwrap();
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line} in {current}");
            assert_eq!(kind == "counter", current.ends_with("_total"), "{current}");
            samples.push(line.to_owned());
        }
    }
    families
}

#[test]
fn figures_parse_and_move() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let before = scrape(&server);
    let client = Client::signed_up(&server, "counted");
    for number in 0..3 {
        client.save(&format!("note/{number}"), json!({"n": number}));
    }
    client.query("note", json!([]));
    assert_eq!(
        client
            .call("record:delete", json!({"ids": ["note/0"]}))
            .status,
        200
    );
    assert_eq!(client.call("no:such", json!({})).code(), 117);
    let refused = (0..20).filter(|number| {
        let guess = format!("guess {number}");
        let body = json!({"auth_data": {"username": "nobody"}, "password": guess});
        client.call("auth:login", body).status == 429
    });
    let refused = refused.count() as f64;
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let mut socket = Socket::open(server.address(), "/pubsub", &headers).unwrap();
    socket.send(r#"{"action": "sub", "channel": "room"}"#);
    socket.send(r#"{"action": "pub", "channel": "room", "data": 1}"#);
    socket.receive(Duration::from_secs(10));

    let after = scrape(&server);
    families(&before);
    families(&after);
    let moved =
        |sample: &str| figure(&after, sample) - figure_if_any(&before, sample).unwrap_or_default();
    let request = |action: &str, status| {
        moved(&format!(
            "skytrail_requests_total{{action=\"{action}\",status=\"{status}\"}}"
        ))
    };
    assert_eq!(request("auth:signup", 200), 1.0);
    assert_eq!(request("record:save", 200), 3.0);
    assert_eq!(request("record:query", 200), 1.0);
    assert_eq!(request("unmatched", 404), 1.0);
    assert_eq!(request("auth:login", 429), refused);
    assert!(refused > 0.0);
    assert_eq!(request("/_/metrics", 200), 1.0);
    let seconds = "skytrail_request_duration_seconds_count{action=\"record:save\"}";
    assert_eq!(moved(seconds), 3.0);
    for grown in [
        "skytrail_log_position",
        "skytrail_log_groups_total",
        "skytrail_log_group_commits_count",
        "skytrail_log_flush_seconds_sum",
        "skytrail_log_journal_bytes",
        "process_cpu_seconds_total",
        "skytrail_cache_entries{cache=\"records\"}",
    ] {
        assert!(
            moved(grown) >= 0.0 && figure(&after, grown) > 0.0,
            "{grown}\n{after}"
        );
    }
    assert!(moved("skytrail_log_position") >= 5.0);
    assert_eq!(moved("skytrail_throttle_refused_total"), refused);
    let reason = |reason: &str| format!("skytrail_auth_refused_total{{reason=\"{reason}\"}}");
    assert_eq!(moved(&reason("throttled")), refused);
    assert_eq!(moved(&reason("unknown_account")), 20.0 - refused);
    assert_eq!(moved(&reason("disabled")), 0.0);
    assert_eq!(
        moved("skytrail_record_commands_total{kind=\"delete\"}"),
        1.0
    );
    assert_eq!(figure(&after, "skytrail_hub_sockets{hub=\"public\"}"), 1.0);
    assert_eq!(figure(&after, "skytrail_hub_channels{hub=\"public\"}"), 1.0);
    assert_eq!(moved("skytrail_hub_published_total{hub=\"public\"}"), 1.0);
    assert!(figure(&after, "process_resident_memory_bytes") > 1e6);
    eventually("the record store catches up", || {
        (figure(&scrape(&server), "skytrail_projector_lag_events") == 0.0).then_some(())
    });
}

/// Guessed or outdated keys show in the metrics, at whatever address they are used.
#[test]
fn keys_that_are_none_are_counted() {
    let server = TestServer::start();
    let before = scrape(&server);
    let shows = |key: &str| [("X-Skygear-API-Key".to_owned(), key.to_owned())];
    let query = br#"{"record_type": "note"}"#.to_vec();
    let url = format!("{}/record/query", server.base_url);
    let answer = send("POST", &url, &shows("guessed"), Some(query)).unwrap();
    assert_eq!((answer.status, answer.code()), (401, 103));
    for path in ["/live", "/log", "/pubsub", "/_/pubsub", "/_/plugin"] {
        let refused = Socket::open(server.address(), path, &shows("guessed")).map(drop);
        assert_eq!(refused.unwrap_err().0, 401, "{path}");
    }
    for path in ["/_/health", "/_/metrics"] {
        ask(&server, "GET", path, &[("X-Skygear-API-Key", "guessed")]);
    }
    // The client key is valid, even where it is not enough; a missing key does not count as
    // invalid.
    for path in ["/_/health", "/_/metrics", "/_/plugin"] {
        ask(&server, "GET", path, &[("X-Skygear-API-Key", API_KEY)]);
        ask(&server, "GET", path, &[]);
    }
    let counted = |metrics: &str| figure(metrics, "skytrail_wrong_keys_total");
    assert_eq!(counted(&scrape(&server)) - counted(&before), 8.0);
}

/// Names that clients choose must not become labels, because their number is unlimited.
#[test]
fn what_clients_choose_is_no_label() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    for number in 0..20 {
        client.call(&format!("surprise:{number}"), json!({}));
        ask(&server, "GET", &format!("/files/surprise{number}"), &[]);
        ask(&server, "OPTIONS", &format!("/surprise{number}"), &[]);
    }
    assert!(!scrape(&server).contains("surprise"));
}

#[test]
fn every_figure_is_explained() {
    let page = include_str!("../../docs/OPERATIONS.md");
    let text = scrape(&TestServer::start());
    let served: BTreeSet<String> = families(&text).into_keys().collect();
    let explained: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("skytrail_") || name.starts_with("process_"))
        .collect();
    let unexplained: Vec<_> = served.difference(&explained).collect();
    let unserved: Vec<_> = explained.difference(&served).collect();
    assert!(
        unexplained.is_empty() && unserved.is_empty(),
        "served, but not on the page: {unexplained:?}; on the page, but not served: {unserved:?}"
    );
}
