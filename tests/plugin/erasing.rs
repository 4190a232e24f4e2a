//! A plugin that does not answer holds up the records of an erased user, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{hook, server};
use crate::support::client::Client;
use crate::support::eventually;

fn newest_of(master: &Client, scope: &Json) -> Json {
    let listed = master.call("erase:list", json!({"limit": 1000})).result();
    let mut erasures = listed["erasures"].as_array().unwrap().iter();
    erasures.find(|it| it["scope"] == *scope).unwrap().clone()
}

#[test]
fn records_of_an_erased_user_wait_for_a_plugin_that_does_not_answer() {
    let mut server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(200);
    let points = json!({"hook": [before]});
    let (is_awake, asleep) = (Arc::new(AtomicBool::new(false)), json!({}));
    let answers = |is_awake: &Arc<AtomicBool>| {
        let is_awake = Arc::clone(is_awake);
        move |worker: &mut Worker, message: &Json| {
            let is_asked = message["name"] == "note_beforeDelete";
            if is_asked && is_awake.load(Ordering::SeqCst) {
                worker.answer_record(message, &json!({}));
            }
        }
    };
    let serving = Worker::ready(&server, &asleep, &points).serve(answers(&is_awake));
    let master = Client::master(&server);
    master
        .call(
            "schema:personal",
            json!({"type": "diary", "personal": true}),
        )
        .result();
    let ada = Client::signed_up(&server, "ada");
    for id in ["note/1", "diary/1"] {
        ada.save(id, json!({"text": "hers"}));
    }
    master.save("other/1", json!({"text": "not hers"}));

    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["finished"], false, "{erased}");
    assert_eq!(ada.call("me", json!({})).code(), 104);
    let of_user = json!({"user": ada.user});
    let held_up = |master: &Client| {
        let health = eventually("the health says what holds it up", || {
            Some(master.health()).filter(|it| it["erasures"]["is_failing"] == true)
        });
        assert_eq!(health["status"], "degraded", "{health}");
        let reason = health["erasures"]["reason"].to_string();
        assert!(
            reason.contains("a user's records are not erased yet"),
            "{health}"
        );
        let erasure = newest_of(master, &of_user);
        assert_eq!(
            (&erasure["finished"], &erasure["num_keys"]),
            (&json!(false), &json!(1)),
            "{erasure}"
        );
        let ids = json!({"ids": ["note/1", "diary/1"]});
        let found = master.call("record:fetch", ids).result();
        assert_eq!(
            (&found[0]["text"], &found[1]["code"]),
            (&json!("hers"), &json!(110))
        );
    };
    held_up(&master);
    let other = json!({"record": "other/1", "why": "a test"});
    let other = master.call("erase:record", other).result();
    assert_eq!(other["finished"], true, "it does not wait: {other}");

    // A start has nobody who asks, and goes on.
    drop(serving);
    server.kill();
    server.restart();
    let serving = Worker::ready(&server, &asleep, &points).serve(answers(&is_awake));
    let master = master.at(&server);
    held_up(&master);
    is_awake.store(true, Ordering::SeqCst);
    let erasure = eventually("it is finished", || {
        Some(newest_of(&master, &of_user)).filter(|it| it["finished"] == true)
    });
    assert_eq!(
        (&erasure["num_records"], erasure.get("refused")),
        (&json!(2), None)
    );
    let health = eventually("nothing fails any more", || {
        Some(master.health()).filter(|it| it["erasures"]["is_failing"] == false)
    });
    assert_eq!(health["erasures"]["num_open"], 0, "{health}");
    drop(serving);
}
