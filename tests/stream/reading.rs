//! `log:read`: pages, directions, filters, times.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{positions, read_all, write_some};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn every_page_size_and_both_directions_give_the_same() {
    let server = TestServer::start();
    write_some(&server, 40);
    let master = Client::master(&server);
    let whole = read_all(&master, &json!({}));
    let head = master.health()["log"]["head"].as_u64().unwrap();
    assert_eq!(positions(&whole), (1..=head).collect::<Vec<_>>());
    let asked = [
        json!({}),
        json!({"record_types": ["note"]}),
        json!({"kinds": ["record.changed", "user"]}),
        json!({"stream": "record/note/x"}),
        json!({"stream": "type/note"}),
    ];
    for mut asked in asked {
        let expected = read_all(&master, &asked);
        assert!(!expected.is_empty(), "{asked}");
        for limit in [1, 2, 7, 1000] {
            asked["limit"] = json!(limit);
            asked["backwards"] = json!(false);
            assert_eq!(read_all(&master, &asked), expected, "{asked}");
            asked["backwards"] = json!(true);
            let mut backwards = read_all(&master, &asked);
            backwards.reverse();
            assert_eq!(backwards, expected, "{asked}");
        }
    }
}

/// A request, and which events it means.
type Case<'a> = (Json, &'a dyn Fn(&Json) -> bool);

#[test]
fn filters_give_what_a_look_at_every_event_gives() {
    let server = TestServer::start();
    write_some(&server, 40);
    let master = Client::master(&server);
    let whole = read_all(&master, &json!({}));
    let of = |is_wanted: &dyn Fn(&Json) -> bool| -> Vec<Json> {
        whole.iter().filter(|it| is_wanted(it)).cloned().collect()
    };
    let stream = |event: &Json| event["stream"].as_str().unwrap().to_owned();
    let kind = |event: &Json| event["kind"].as_str().unwrap().to_owned();
    let user = whole.iter().find(|it| kind(it) == "record.changed");
    let user = user.unwrap()["actor"]["user"].clone();
    let cases: [Case<'_>; 5] = [
        (json!({"record_types": ["note", "none"]}), &|event| {
            stream(event).starts_with("record/note/") || stream(event) == "type/note"
        }),
        (json!({"kinds": ["record.deleted", "user"]}), &|event| {
            kind(event) == "record.deleted" || kind(event).starts_with("user.")
        }),
        (json!({"user": user}), &|event| {
            event["actor"]["user"] == user
        }),
        (json!({"stream": "record/task/x"}), &|event| {
            stream(event) == "record/task/x"
        }),
        (
            json!({"user": user, "kinds": ["record"], "record_types": ["task"]}),
            &|event| {
                event["actor"]["user"] == user
                    && kind(event).starts_with("record.")
                    && stream(event).starts_with("record/task/")
            },
        ),
    ];
    for (asked, is_wanted) in cases {
        let expected = of(is_wanted);
        assert!(!expected.is_empty(), "{asked}");
        assert_eq!(read_all(&master, &asked), expected, "{asked}");
    }
}

#[test]
fn a_time_parts_the_log() {
    let server = TestServer::start();
    write_some(&server, 20);
    let master = Client::master(&server);
    let whole = read_all(&master, &json!({}));
    let middle = &whole[whole.len() / 2];
    let time = middle["time"].clone();
    // All events of a commit have the same time.
    let first = whole.iter().find(|it| it["time"] == time).unwrap();
    let first = first["position"].as_u64().unwrap();
    let head = whole.len() as u64;
    let behind = read_all(&master, &json!({"time": time, "limit": 3}));
    assert_eq!(positions(&behind), (first..=head).collect::<Vec<_>>());
    let before = read_all(&master, &json!({"time": time, "backwards": true}));
    assert_eq!(positions(&before), (1..first).rev().collect::<Vec<_>>());
    let future = json!({"time": "2999-01-01T00:00:00Z"});
    assert!(read_all(&master, &future).is_empty());
    let past = json!({"time": "1999-01-01T00:00:00Z"});
    assert_eq!(read_all(&master, &past), whole);
}

#[test]
fn an_event_says_who_did_it_and_no_secret() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let saved = ada.call(
        "record:save",
        json!({"records": [{"_id": "note/1", "title": "hi"}, {"_id": "note/2"}], "atomic": true}),
    );
    let request = saved.header("x-skygear-request-id").unwrap().to_owned();
    let change = json!({"old_password": "secret-of-the-test", "password": "another-secret-of-it"});
    ada.call("auth:password", change).result();
    let master = Client::master(&server);
    let events = read_all(&master, &json!({"stream": "record/note/2"}));
    let [event] = &events[..] else {
        panic!("{events:?}");
    };
    let commit = event["commit"].as_str().unwrap();
    assert_eq!(event["id"], format!("{commit}.1"));
    assert_eq!(event["kind"], "record.created");
    assert_eq!(event["version"], 1);
    assert_eq!(event["request_id"], request);
    // One request created the type and both records, and each event has an id of its own.
    let all = read_all(&master, &json!({"request_id": request}));
    let ids: BTreeSet<_> = all.iter().map(|it| it["id"].as_str().unwrap()).collect();
    let made = all.iter().map(|it| it["stream"].as_str().unwrap());
    assert!(
        made.eq(["type/note", "record/note/1", "record/note/2"]),
        "{all:?}"
    );
    assert_eq!(ids.len(), 3, "{all:?}");
    let actor = json!({"user": ada.user, "key": "client", "origin": "api"});
    assert_eq!(event["actor"], actor);
    let whole = read_all(&master, &json!({}));
    let kinds: Vec<&str> = whole
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"user.password_set") && kinds.contains(&"user.created"));
    for event in &whole {
        assert!(!event.to_string().contains("$argon2"), "{event}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let cases = [
        (json!({"stream": "nothing"}), "stream"),
        (json!({"kinds": ["nothing"]}), "kinds"),
        (json!({"from": 0}), "from"),
        (json!({"time": "yesterday"}), "time"),
        (json!({"from": 1, "time": "2024-06-11T09:30:00Z"}), "from"),
    ];
    for (asked, argument) in cases {
        let refused = master.call("log:read", asked.clone());
        assert_eq!(refused.code(), 108, "{asked}");
        let arguments = refused.json()["error"]["info"]["arguments"].clone();
        assert_eq!(arguments[0], argument, "{asked}");
    }
    assert_eq!(master.call("log:read", json!({"from": "1"})).code(), 107);
}
