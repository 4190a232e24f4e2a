//! Records that one request names several times: each copy is a save on top of the one before.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::worker::Worker;
use crate::plugin::{call, server};
use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

fn begin() -> (TestServer, Worker, Client) {
    let server = server(&[]);
    let worker = Worker::ready(&server, &json!({}), &points("move", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    (server, worker, ada)
}

fn fetch(client: &Client, id: &str) -> Json {
    let found = client.call("record:fetch", json!({"ids": [id]}));
    found.result()[0].take()
}

/// Saves with a hook that lets a move be created, but not be changed.
fn save_guarded(worker: &mut Worker, client: &Client, body: Json) -> Answer {
    let saving = call(client, "record:save", body.clone());
    let first = worker.expect_request("move_beforeSave");
    assert_eq!(first["param"]["original"], json!(null));
    worker.answer_record(&first, &json!({"by": "referee"}));
    if body["create_only"] != true {
        let second = worker.expect_request("move_beforeSave");
        let (record, original) = (&second["param"]["record"], &second["param"]["original"]);
        assert_eq!([&original["card"], &record["card"]], [9, 2], "{second}");
        assert_eq!([&original["by"], &record["by"]], ["referee"; 2], "{second}");
        worker.refuse(&second, &json!({"code": 102, "message": "a move stays"}));
    }
    saving.join().unwrap()
}

#[test]
fn the_second_copy_is_a_change_of_what_the_first_one_became() {
    let (server, mut worker, ada) = begin();
    let body = |id: &str, option: &str| {
        let records = [json!({"_id": id, "card": 9}), json!({"_id": id, "card": 2})];
        let mut body = json!({"records": records});
        body[option] = json!(true);
        body
    };
    let answer = save_guarded(&mut worker, &ada, body("move/1", "keep_access"));
    let saved = answer.result();
    // As in v1, the error of one copy is the answer of all.
    assert_eq!(
        [&saved[0]["code"], &saved[1]["code"]],
        [102, 102],
        "{saved}"
    );
    assert_eq!(fetch(&ada, "move/1")["card"], 9);

    let answer = save_guarded(&mut worker, &ada, body("move/2", "atomic"));
    assert_eq!((answer.status, answer.code()), (409, 115));
    assert_eq!(fetch(&ada, "move/2")["code"], 110);

    // The copy that would replace another is refused before its hook is asked.
    let saved = save_guarded(&mut worker, &ada, body("move/3", "create_only")).result();
    assert_eq!(saved[0]["card"], 9, "{saved}");
    assert_eq!(saved[1]["code"], 109, "{saved}");
    assert_eq!(fetch(&ada, "move/3")["card"], 9);
    worker.expect_nothing(&server);
}

#[test]
fn no_copy_is_stored_in_a_form_that_no_hook_has_seen() {
    let (_server, mut worker, ada) = begin();
    for id in ["move/new", "move/old"] {
        if id == "move/old" {
            let records = json!({"records": [{"_id": id, "x": 0, "y": 0, "z": 0}]});
            let saving = call(&ada, "record:save", records);
            let request = worker.expect_request("move_beforeSave");
            worker.answer_record(&request, &json!({}));
            saving.join().unwrap().result();
        }
        let records = json!([
            {"_id": id, "x": 9, "z": 1},
            {"_id": "move/other"},
            {"_id": id, "y": 9, "z": null},
            {"_id": id, "x": 8},
        ]);
        let saving = call(&ada, "record:save", json!({"records": records}));
        let mut seen = Vec::new();
        for _ in 0..4 {
            let request = worker.expect_request("move_beforeSave");
            let param = &request["param"];
            if param["record"]["_id"] == id {
                let mut record = param["record"].clone();
                let values = ["x", "y", "z"].map(|field| record[field].take());
                seen.push(values);
            }
            let count = param["original"]["count"].as_i64().unwrap_or_default() + 1;
            worker.answer_record(&request, &json!({"count": count}));
        }
        let y = if id == "move/old" {
            json!(0)
        } else {
            json!(null)
        };
        let expected = [
            [json!(9), y, json!(1)],
            [json!(9), json!(9), json!(null)],
            [json!(8), json!(9), json!(null)],
        ];
        assert_eq!(seen, expected);
        let saved = saving.join().unwrap().result();
        for copy in [0, 2, 3] {
            let saved = &saved[copy];
            let values = ["x", "y", "z"].map(|field| saved[field].clone());
            assert_eq!(values, expected[2], "{saved}");
            assert_eq!(saved["count"], 3, "{saved}");
        }
    }
}

/// What a hook refused is nothing that a later copy builds on.
#[test]
fn a_copy_that_was_refused_does_not_count() {
    let (_server, mut worker, ada) = begin();
    let records = json!([{"_id": "move/1", "card": 9}, {"_id": "move/1", "n": 1}]);
    let saving = call(&ada, "record:save", json!({"records": records}));
    let first = worker.expect_request("move_beforeSave");
    worker.refuse(&first, &json!({"code": 102, "message": "not that card"}));
    let second = worker.expect_request("move_beforeSave");
    assert_eq!(second["param"]["original"], json!(null));
    assert_eq!(second["param"]["record"]["card"], json!(null));
    worker.answer_record(&second, &json!({}));
    let saved = saving.join().unwrap().result();
    assert_eq!(
        [&saved[0]["code"], &saved[1]["code"]],
        [102, 102],
        "{saved}"
    );
    let stored = fetch(&ada, "move/1");
    assert_eq!([&stored["card"], &stored["n"]], [&json!(null), &json!(1)]);
}

/// The hooks of both copies have decided when it turns out that their own writes have overtaken
/// the save: what they decided is applied to what these have left.
#[test]
fn copies_that_only_their_own_hooks_have_overtaken_ask_them_once() {
    let (server, mut worker, ada) = begin();
    let records = json!([{"_id": "move/1", "card": 9}, {"_id": "move/1", "n": 1}]);
    let saving = call(&ada, "record:save", json!({"records": records}));
    let outer = worker.expect_request("move_beforeSave");
    let payload = json!({"action": "record:save", "_user_id": ada.user, "records": [
        {"_id": "move/1", "seen": true}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = worker.expect_request("move_beforeSave");
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["id"], "c1");
    worker.answer_record(&outer, &json!({"first": 1}));
    let second = worker.expect_request("move_beforeSave");
    assert_eq!(second["param"]["original"]["first"], 1, "{second}");
    worker.answer_record(&second, &json!({"second": 2}));
    let saved = saving.join().unwrap().result();
    for saved in saved.as_array().unwrap() {
        let values = ["card", "n", "first", "second"].map(|field| saved[field].clone());
        assert_eq!(values, [9, 1, 1, 2], "{saved}");
        assert_eq!(saved["seen"], true, "{saved}");
    }
    worker.expect_nothing(&server);
}
