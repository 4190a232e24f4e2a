//! The log as an event store for other programs.

mod consumers;
mod erasures;
mod following;
mod killed;
mod reading;
mod search_index;
mod searching;
pub mod worker;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

/// Saves, changes and deletes records of two types by two users.
fn write_some(server: &TestServer, num_rounds: usize) {
    let users = [
        Client::signed_up(server, "ada"),
        Client::signed_up(server, "bob"),
    ];
    for round in 0..num_rounds {
        let user = &users[round % 2];
        let kind = if round % 3 == 0 { "task" } else { "note" };
        let id = format!("{kind}/{}-{}", user.user.as_ref().unwrap(), round % 5);
        if round % 7 == 6 {
            user.call("record:delete", json!({"ids": [id]}));
        } else {
            user.save(&id, json!({"round": round}));
        }
    }
    let pair = json!([{"_id": "note/x", "a": 1}, {"_id": "task/x", "a": 1}]);
    let saved = users[0].call("record:save", json!({"records": pair, "atomic": true}));
    assert_eq!(saved.result().as_array().unwrap().len(), 2);
}

/// Reads everything that a request asks for, page by page.
fn read_all(master: &Client, asked: &Json) -> Vec<Json> {
    let mut asked = asked.clone();
    let mut events = Vec::new();
    loop {
        let answer = master.call("log:read", asked.clone());
        let page = answer.result();
        let limit = asked["limit"].as_u64().unwrap_or(100);
        assert!(page.as_array().unwrap().len() as u64 <= limit);
        events.extend(page.as_array().unwrap().iter().cloned());
        let next = answer.json()["info"]["next"].clone();
        if next.is_null() {
            return events;
        }
        asked["from"] = next;
        asked.as_object_mut().unwrap().remove("time");
    }
}

fn positions(events: &[Json]) -> Vec<u64> {
    let position = |event: &Json| event["position"].as_u64().unwrap();
    events.iter().map(position).collect()
}
