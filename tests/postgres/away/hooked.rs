//! After-hooks while the database is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{AWAY, settings};
use crate::plugin::hook;
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

/// The client would send it again.
#[test]
fn a_save_whose_after_hook_has_to_wait_says_that_it_is_stored() {
    let database = shared().database(&[]);
    let url = database.url();
    let mut all = settings(&url).to_vec();
    all.push(("PLUGINS", "TEST"));
    let server = TestServer::with(&all);
    let points = json!({"hook": [hook("note", "afterSave")]});
    let (is_heard, heard) = (Arc::new(AtomicBool::new(false)), json!("second"));
    let note = Arc::clone(&is_heard);
    let _serving = Worker::ready(&server, &json!({}), &points).serve(move |worker, message| {
        if message["name"] == "note_afterSave" {
            note.store(
                message["param"]["record"]["text"] == heard,
                Ordering::SeqCst,
            );
            worker.answer_record(message, &json!({}));
        }
    });
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "first"}));

    let name = database.name();
    let elsewhere = |sql: &str| drop(shared().sql(sql));
    elsewhere(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    elsewhere(&format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    let body = json!({"records": [{"_id": "note/1", "text": "second"}]});
    let answer = ada.call("record:save", body).result();
    let error = &answer[0];
    assert_eq!(
        (&error["code"], &error["info"]["stored"]),
        (&json!(AWAY), &json!(true)),
        "{error}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("is stored") && !message.contains("try again"),
        "{message}"
    );
    elsewhere(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    eventually("the hook is called", || {
        is_heard.load(Ordering::SeqCst).then_some(())
    });
}
