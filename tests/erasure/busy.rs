//! What is written without a pause can be erased.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CANARY, CONTROL, assert_store_is_the_logs, versions};
use crate::support::SetOnDrop;
use crate::support::client::Client;
use crate::support::server::TestServer;

/// Does something while others save a record, one save after the other.
pub fn meanwhile<T>(client: &Client, id: &str, act: impl FnOnce() -> T) -> T {
    const WRITERS: usize = 4;
    let (has_begun, is_over) = (Barrier::new(WRITERS + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _ending = SetOnDrop(&is_over);
        for writer in 0..WRITERS {
            let (has_begun, is_over) = (&has_begun, &is_over);
            scope.spawn(move || {
                has_begun.wait();
                for number in 0.. {
                    let text = format!("{CONTROL} {writer} {number}");
                    client.save(id, json!({"text": text}));
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        has_begun.wait();
        act()
    })
}

#[test]
fn a_record_that_is_saved_without_a_pause_can_be_erased() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let why = |mut body: Json| {
        body["why"] = json!("a test");
        body
    };
    for round in 0..3 {
        let fill = || {
            let fields = json!({"text": format!("{CANARY} {round}"), "secret": CANARY});
            master.save("note/busy", fields)
        };
        let erases = |action: &str, body: Json| {
            let erased = meanwhile(&master, "note/busy", || {
                master.call(action, why(body)).result()
            });
            assert_eq!(erased["finished"], true, "{action}: {erased}");
            assert_eq!(erased.get("refused").unwrap_or(&json!([])), &json!([]));
        };
        fill();
        erases(
            "erase:field",
            json!({"record": "note/busy", "field": "secret"}),
        );
        fill();
        erases("erase:field", json!({"type": "note", "field": "secret"}));
        fill();
        let position = versions(&master, "note/busy")[0]["position"].clone();
        erases("erase:event", json!({"position": position}));
        let kept = master.call("record:fetch", json!({"ids": ["note/busy"]}));
        assert_eq!(kept.result()[0]["secret"], CANARY);
        erases("erase:record", json!({"record": "note/busy"}));
        assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    }
    assert_store_is_the_logs(&mut server);
}

/// Whatever else a user does meanwhile, without a pause, is written before the erasure, or refused.
#[test]
fn an_erased_user_does_nothing_any_more() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let bob = Client::signed_up(&server, "bob").user.unwrap();
    let relation = json!({"name": "follow", "targets": [bob]});
    let registration = ("device:register", json!({"type": "ios"}));
    let writes = [
        ("relation:add", relation.clone()),
        ("relation:remove", relation),
        registration.clone(),
        registration.clone(),
        registration,
        (
            "record:save",
            json!({"records": [{"_id": "note/1", "n": 1}]}),
        ),
    ];
    for round in 0..8 {
        let ada = Client::signed_up(&server, &format!("ada-{round}"));
        let (has_begun, is_over) = (Barrier::new(writes.len() + 1), AtomicBool::new(false));
        let erased = std::thread::scope(|scope| {
            let _ending = SetOnDrop(&is_over);
            for (action, body) in &writes {
                let (ada, has_begun, is_over) = (&ada, &has_begun, &is_over);
                scope.spawn(move || {
                    let first = ada.call(action, body.clone());
                    has_begun.wait();
                    first.result();
                    while !is_over.load(Ordering::SeqCst) {
                        let answer = ada.call(action, body.clone());
                        match answer.status {
                            200 => {}
                            401 => return,
                            other => panic!("{other}: {}", answer.json()),
                        }
                    }
                });
            }
            has_begun.wait();
            let body = json!({"user": ada.user, "why": "a test"});
            master.call("erase:user", body).result()
        });
        let after = json!({"from": erased["position"], "limit": 1000});
        let after = master.call("log:read", after).result();
        let hers = after.as_array().unwrap().iter();
        let hers: Vec<_> = hers
            .filter(|event| event["actor"]["user"] == json!(ada.user))
            .collect();
        assert!(hers.is_empty(), "{hers:?}");
        let body = json!({"ids": ["note/1"]});
        master.call("record:delete", body).result();
    }
}
