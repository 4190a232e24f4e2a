//! `sdks/live` with the real server: a program follows a query while connections break and the server
//! is killed.

use serde_json::{Value as Json, json};

use super::path;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{bounded, repository, set_up};
use crate::support::proxy::Proxy;
use crate::support::server::{API_KEY, TestServer, lasting_address};

const RECORDS: u32 = 9;

/// Saves and deletes records, so that some enter the result and others leave it.
fn write(ada: &Client, round: u32) {
    for step in 0..20 {
        let id = format!("note/{}", (round + step) % RECORDS);
        if step % 5 == 4 {
            ada.call("record:delete", json!({"ids": [id]})).result();
        } else {
            ada.save(&id, json!({"n": (7 * step + round) % 11}));
        }
    }
}

#[test]
fn the_client_for_javascript_has_the_result_whatever_breaks() {
    set_up("sdks/live/node_modules/ws");
    let address = lasting_address();
    let mut server = TestServer::with(&[("HOST", &address)]);
    let proxy = Proxy::to(&address);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    write(&ada, 0);
    let query = json!({"record_type": "note", "predicate": ["lt", path("n"), 5]});
    let mut program = bounded("node");
    program
        .arg(repository("sdks/live/test/follow.js"))
        .args([&proxy.base_url(), API_KEY, ada.token.as_deref().unwrap()])
        .args([&query.to_string(), "note/last"]);
    let following = std::thread::spawn(move || program.output().unwrap());
    for round in 1..10 {
        eventually("it follows", || {
            (master.health()["live"]["num_subscriptions"] == 1).then_some(())
        });
        write(&ada, round);
        match round % 3 {
            0 => drop(proxy.cut()),
            1 => server.restart(),
            _ => {
                proxy.block();
                write(&ada, round + 1);
                proxy.unblock();
            }
        }
    }
    ada.save("note/last", json!({"n": 1}));
    let output = following.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let followed: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = ada.query("note", query["predicate"].clone());
    found.sort_by_key(|record| record["_id"].as_str().unwrap().to_owned());
    assert_eq!(followed, found);
}
