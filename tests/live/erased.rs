//! Listeners that return after something they knew was erased or let go.

use serde_json::{Value as Json, json};

use super::listener::{Followed, Listener};
use super::{ids, path};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// Follows a query, disconnects while something happens, and resumes from its position.
fn back(server: &TestServer, query: &Json, meanwhile: impl FnOnce(&Client)) -> Followed {
    let master = Client::master(server);
    let mut listener = Listener::open(server, &master);
    let before = listener.subscribe("q", query.clone()).clone();
    drop(listener);
    meanwhile(&master);
    let mut listener = Listener::open(server, &master);
    listener.followed.insert("q".into(), before.resumed());
    let mut query = query.clone();
    query["from"] = before.position.into();
    let mut back = listener.subscribe("q", query).clone();
    back.events.drain(..before.events.len());
    back
}

fn erase(master: &Client, what: &str, body: Json) {
    let mut body = body;
    body["why"] = "asked for on paper".into();
    let done = master.call(what, body).result();
    assert_eq!(done["finished"], true, "{done}");
}

#[test]
fn a_record_that_was_erased_is_not_kept_by_who_comes_back() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for id in ["note/a", "note/b", "note/c"] {
        master.save(id, json!({"stars": 3}));
    }
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let after = back(&server, &query, |master| {
        erase(master, "erase:record", json!({"record": "note/a"}));
    });
    assert_eq!(after.events, ["reset", "result", "ready"]);
    assert_eq!(ids(&after), ["note/b", "note/c"]);
    // What came and went in its absence does not concern it.
    let after = back(&server, &query, |master| {
        master.save("note/b", json!({"stars": 1}));
        master.save("note/c", json!({"text": "still there"}));
    });
    assert_eq!(after.events, ["leave", "change", "ready"]);
}

#[test]
fn a_record_that_was_deleted_and_let_go_is_not_kept_by_who_comes_back() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/a", json!({"stars": 3}));
    master.save("note/b", json!({"stars": 3}));
    let body = json!({"type": "note", "versions": 1});
    master.call("schema:retention", body).result();
    let query = json!({"record_type": "note"});
    let after = back(&server, &query, |master| {
        let body = json!({"ids": ["note/a"]});
        master.call("record:delete", body).result();
        let done = master.call("log:compact", json!({})).result();
        assert_eq!(done["finished"], true, "{done}");
    });
    assert_eq!(after.events, ["reset", "result", "ready"]);
    assert_eq!(ids(&after), ["note/b"]);
}

/// An erased change counts as no change: by what is left of the log, the record was not in the
/// result when the listener left.
#[test]
fn a_record_of_which_a_change_was_erased_is_not_mistaken_for_another() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/a", json!({"stars": 1}));
    let changed = master.call(
        "record:save",
        json!({"records": [{"_id": "note/a", "stars": 3}]}),
    );
    changed.result();
    let listed = master.call("history:list", json!({"record": "note/a"}));
    let position = listed.result()["versions"][0]["position"].clone();
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let after = back(&server, &query, |master| {
        erase(master, "erase:event", json!({"position": position}));
        let body = json!({"ids": ["note/a"]});
        master.call("record:delete", body).result();
    });
    assert_eq!(after.events, ["reset", "result", "ready"]);
    assert_eq!(ids(&after), [""; 0]);
}
