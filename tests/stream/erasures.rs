//! Programs that follow some record types are told what of them was erased: they may have copies.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::worker::{Worker, create, stream};
use super::{positions, read_all};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// Returns the position of the request for an erasure that a call has caused.
fn erased(master: &Client, action: &str, mut body: Json) -> u64 {
    body["why"] = json!("asked for");
    master.call(action, body).result();
    let asked = json!({"kinds": ["erasure.requested"], "backwards": true, "limit": 1});
    let read = master.call("log:read", asked);
    read.result()[0]["position"].as_u64().unwrap()
}

#[test]
fn an_erasure_is_an_event_of_the_types_that_it_concerns() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let named = |kinds: Json| json!({"from": 1, "record_types": ["note"], "kinds": kinds});
    create(&master, "notes", &named(json!([])));
    create(&master, "changes", &named(json!(["record"])));
    for number in 0..2 {
        for id in ["note/1", "note/2", "task/1"] {
            master.save(id, json!({"number": number, "title": "x"}));
        }
    }
    let version = master.call("history:list", json!({"record": "note/2"}));
    let version = version.result()["versions"][1]["position"].clone();
    let of_notes = [
        erased(&master, "erase:record", json!({"record": "note/1"})),
        erased(&master, "erase:event", json!({"position": version})),
        erased(
            &master,
            "erase:field",
            json!({"record": "note/2", "field": "title"}),
        ),
        erased(&master, "erase:user", json!({"user": ada.user})),
    ];
    let of_tasks = erased(&master, "erase:record", json!({"record": "task/1"}));

    let whole = read_all(&master, &json!({}));
    let is_of_note = |event: &Json| {
        let stream = event["stream"].as_str().unwrap();
        stream.starts_with("record/note/")
            || stream == "type/note"
            || of_notes.contains(&event["position"].as_u64().unwrap())
    };
    let expected: Vec<Json> = whole.into_iter().filter(is_of_note).collect();
    let typed = json!({"record_types": ["note"]});
    assert_eq!(read_all(&master, &typed), expected);
    let backwards = json!({"record_types": ["note"], "backwards": true, "limit": 3});
    let mut backwards = read_all(&master, &backwards);
    backwards.reverse();
    assert_eq!(backwards, expected);
    let erasures = json!({"record_types": ["note"], "kinds": ["erasure"]});
    assert_eq!(positions(&read_all(&master, &erasures)), of_notes);
    let tasks = json!({"record_types": ["task"], "kinds": ["erasure"]});
    assert!(positions(&read_all(&master, &tasks)).contains(&of_tasks));

    let mut worker = Worker::connect(server.address(), "notes", 8);
    let told = worker.take_all(&master, "notes");
    let told: BTreeSet<u64> = told.iter().map(super::worker::position).collect();
    assert_eq!(told, positions(&expected).into_iter().collect());
    // A consumer that names kinds is told of these alone.
    let mut worker = Worker::connect(server.address(), "changes", 8);
    let told = worker.take_all(&master, "changes");
    assert!(!told.is_empty());
    for event in told {
        assert!(stream(&event).starts_with("record/note/"), "{event}");
    }
}
