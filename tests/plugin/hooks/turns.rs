//! Saves that others have overtaken so often that they take turns.

use std::thread::JoinHandle;

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::worker::Worker;
use crate::plugin::{save, server};
use crate::support::client::{Answer, Client};

/// How often a save is overtaken until it waits for its turn.
const NUM_LOST: usize = 5;

/// Begins a save that is overtaken until it has its turn. Returns what its hook is asked then.
fn lose(worker: &mut Worker, client: &Client, id: &str) -> (JoinHandle<Answer>, Json) {
    let saving = save(client, json!({"_id": id, "by": "slow"}));
    let mut asked = worker.expect_request("note_beforeSave");
    for n in 0..NUM_LOST {
        let other = save(client, json!({"_id": id, "n": n}));
        let request = worker.expect_request("note_beforeSave");
        worker.answer_record(&request, &json!({}));
        other.join().unwrap().result();
        worker.answer_record(&asked, &json!({}));
        asked = worker.expect_request("note_beforeSave");
        assert_eq!(asked["param"]["original"]["n"], n);
    }
    (saving, asked)
}

#[test]
fn a_hook_that_hangs_holds_back_no_other_record_of_the_type() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    for id in ["note/slow", "note/busy"] {
        let first = save(&ada, json!({"_id": id, "n": 0, "by": ""}));
        let request = worker.expect_request("note_beforeSave");
        worker.answer_record(&request, &json!({}));
        first.join().unwrap().result();
    }
    let (slow, hanging) = lose(&mut worker, &ada, "note/slow");
    let (busy, asked) = lose(&mut worker, &ada, "note/busy");
    for (saving, asked) in [(busy, asked), (slow, hanging)] {
        worker.answer_record(&asked, &json!({}));
        let saved = saving.join().unwrap().result();
        assert_eq!(saved[0]["by"], "slow", "{saved}");
    }
}
