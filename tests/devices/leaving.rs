//! A record that leaves a subscription's result is noticed like one that enters it.

use serde_json::{Value as Json, json};

use super::{Listener, notes, register, subscribe};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn what_enters_changes_within_or_leaves_is_noticed() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/0", json!({"text": "", "n": 0, "level": 0}));
    ada.save("mark/0", json!({"n": 0}));
    let device = register(&ben, "t");
    subscribe(&ben, &device, "x", notes("x"));
    subscribe(&ben, &device, "mark", json!({"record_type": "mark"}));
    let mut heard = Listener::new(&server, &device);
    let mut last = 0;
    // When the mark is heard, everything before it has been processed, and the rest was silence.
    let mut only = |what: &str, expected: &[&str]| {
        ada.save("mark/0", json!({"n": 1}));
        for id in expected.iter().chain(&["mark"]) {
            let (found, number) = heard.notice();
            assert_eq!(found, *id, "{what}");
            assert!(number > last, "{what}");
            last = number;
        }
    };
    let save = |id: &str, fields: Json| drop(ada.save(id, fields));
    save("note/1", json!({"text": "y"}));
    only("made outside", &[]);
    save("note/1", json!({"text": "x"}));
    only("enters", &["x"]);
    save("note/1", json!({"n": 7}));
    only("changes within", &["x"]);
    save("note/1", json!({"text": "y"}));
    only("leaves", &["x"]);
    save("note/1", json!({"text": "z"}));
    only("changes outside", &[]);
    save("note/2", json!({"text": "x"}));
    only("made within", &["x"]);
    ada.call("record:delete", json!({"ids": ["note/2"]}))
        .result();
    only("deleted", &["x"]);
    ada.call("record:delete", json!({"ids": ["note/1"]}))
        .result();
    only("deleted outside", &[]);

    // A record that a user may no longer read leaves their result, and enters it again when they
    // may.
    save("note/3", json!({"text": "x"}));
    only("made within", &["x"]);
    save("note/3", json!({"_access": []}));
    only("taken from him", &["x"]);
    save("note/3", json!({"text": "y"}));
    save("note/3", json!({"text": "x"}));
    only("none of his business", &[]);
    save(
        "note/3",
        json!({"_access": [{"user_id": ben.user, "level": "read"}]}),
    );
    only("given back", &["x"]);

    // As in v1, several changes in one save are several changes.
    let records = json!([
        {"_id": "note/4", "text": "x"},
        {"_id": "note/3", "text": "out"},
        {"_id": "note/5", "text": "y"},
    ]);
    ada.call("record:save", json!({"records": records, "atomic": true}))
        .result();
    only("one enters, one leaves", &["x", "x"]);
}
