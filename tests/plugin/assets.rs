//! Files in the requests to plugins and in their answers.

use serde_json::json;

use super::worker::Worker;
use super::{call, hook, save, server};
use crate::support::client::{Client, send};
use crate::support::server::{API_KEY, TestServer};

fn upload(server: &TestServer) -> serde_json::Value {
    let headers = [
        ("X-Skygear-API-Key", API_KEY),
        ("Content-Type", "image/png"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let url = format!("{}/files/a.png", server.base_url);
    send("PUT", &url, &headers, Some(b"picture".to_vec()))
        .unwrap()
        .result()
}

#[test]
fn plugins_and_callers_of_lambdas_see_files_complete() {
    let server = server(&[]);
    let hooks = [hook("note", "beforeSave"), hook("note", "afterSave")];
    let points = json!({"hook": hooks, "op": [{"name": "look"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let asset = upload(&server);
    let named = json!({"$type": "asset", "$name": asset["$name"]});
    let is_complete = |value: &serde_json::Value| {
        assert_eq!(value["$name"], asset["$name"], "{value}");
        assert_eq!(value["$content_type"], "image/png", "{value}");
        let url = value["$url"].as_str().unwrap_or_default();
        assert!(url.contains("signature="), "{value}");
    };

    let saving = save(&ada, json!({"_id": "note/1", "pic": named}));
    let request = worker.expect_request("note_beforeSave");
    is_complete(&request["param"]["record"]["pic"]);
    // The published plugin library returns files without their content types.
    worker.answer_record(&request, &json!({"pic": named, "other": named}));
    let request = worker.expect_request("note_afterSave");
    is_complete(&request["param"]["record"]["pic"]);
    worker.answer_record(&request, &json!({}));
    let saved = saving.join().unwrap().result();
    is_complete(&saved[0]["pic"]);
    is_complete(&saved[0]["other"]);

    let asked = call(&ada, "look", json!({"args": [{"deep": named}]}));
    let request = worker.expect_request("look");
    is_complete(&request["param"]["args"][0]["deep"]);
    worker.answer(&request, &json!({"seen": [named]}));
    is_complete(&asked.join().unwrap().result()["seen"][0]);
}

#[test]
fn a_file_that_a_hook_brings_must_be_known() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "beforeSave")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    let request = worker.expect_request("note_beforeSave");
    let unknown = json!({"$type": "asset", "$name": "unknown", "$content_type": "text/plain"});
    worker.answer_record(&request, &json!({"pic": unknown}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 10000);
}
