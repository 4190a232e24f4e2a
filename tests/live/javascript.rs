//! `sdks/live` against the real server: its connections break, and the server is killed and starts
//! again, while somebody writes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value as Json, json};

use super::path;
use crate::support::client::Client;
use crate::support::program::{bounded, repository, set_up};
use crate::support::proxy::Proxy;
use crate::support::server::{API_KEY, TestServer, lasting_address};

const LAST: &str = "note/last";

/// The queries that are followed; one looks beyond its own records.
fn queries() -> Json {
    json!({
        "all": {"record_type": "note"},
        "some": {"record_type": "note", "predicate": ["gt", path("n"), 4]},
        "open": {"record_type": "note", "predicate": ["eq", path("room.open"), true],
            "include": {"room": path("room")}},
    })
}

fn room() -> Json {
    json!({"$type": "ref", "$id": "room/1"})
}

/// Does something to some record. The server is there.
fn write(ada: &Client, number: usize) {
    let id = format!("note/{}", number * 7 % 23);
    if number.is_multiple_of(5) {
        // It need not exist.
        ada.call("record:delete", json!({"ids": [id]}));
    } else if number.is_multiple_of(11) {
        ada.save("room/1", json!({"open": number.is_multiple_of(2)}));
    } else {
        ada.save(&id, json!({"n": number % 10, "room": room()}));
    }
}

#[test]
fn a_client_in_javascript_has_what_a_query_finds_whatever_breaks() {
    let mut server = TestServer::with(&[("HOST", &lasting_address())]);
    let proxy = Proxy::to(server.address());
    let ada = Client::signed_up(&server, "ada");
    ada.save("room/1", json!({"open": true}));
    ada.save("note/0", json!({"n": 1, "room": room()}));
    set_up("sdks/live/node_modules/ws");
    let mut node = bounded("node")
        .arg(repository("sdks/live/test/follow.js"))
        .arg(proxy.base_url())
        .args([API_KEY, ada.token.as_deref().unwrap(), LAST])
        .arg(queries().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let mut told = || lines.next().unwrap().unwrap();
    assert_eq!(told(), "current");
    let mut numbers = 1..;
    let mut write_some = || {
        numbers
            .by_ref()
            .take(40)
            .for_each(|number| write(&ada, number));
    };
    for what in ["cut", "kill", "block"].repeat(3) {
        write_some();
        match what {
            "cut" => assert!(proxy.cut() > 0),
            "kill" => {
                server.kill();
                server.restart();
            }
            _ => proxy.block(),
        }
        write_some();
        proxy.unblock();
        assert_eq!(told(), "current", "{what}");
    }
    ada.save("room/1", json!({"open": true}));
    ada.save(LAST, json!({"n": 9, "room": room()}));
    let shown: Json = serde_json::from_str(&told()).unwrap();
    for (name, query) in queries().as_object().unwrap() {
        let found = ada.call("record:query", query.clone()).result();
        let found: BTreeMap<_, _> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|record| (record["_id"].as_str().unwrap().to_owned(), record.clone()))
            .collect();
        assert_eq!(shown[name], json!(found), "{name}");
    }
    let master = Client::master(&server);
    // It continued where it was.
    let live = &master.health()["live"];
    assert!(live["num_replays"].as_u64().unwrap() > 0, "{live}");
    let lock = json!({"auth_id": ada.user, "disabled": true});
    master.call("auth:disable:set", lock).result();
    assert_eq!(told(), "127");
    assert!(node.wait().unwrap().success());
}
