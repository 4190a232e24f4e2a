//! Rights that callers lose while the hooks of their request run.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::worker::Worker;
use crate::plugin::{call, save, server};
use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

/// An app with a hook of `order`, ada's `order/1`, which editors may write, and bo, who is an
/// editor.
fn begin(trigger: &str) -> (TestServer, Worker, Client, Client) {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &[trigger]));
    let (master, ada, bo) = (
        Client::master(&server),
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bo"),
    );
    assign(&master, &bo, "assign");
    let access = json!([{"role": "editor", "level": "write"}]);
    let record = json!({"_id": "order/1", "status": "open", "_access": access});
    let saving = save(&ada, record);
    if trigger == "beforeSave" {
        let request = worker.expect_request("order_beforeSave");
        worker.answer_record(&request, &json!({}));
    }
    assert_eq!(saving.join().unwrap().result()[0]["status"], "open");
    (server, worker, master, bo)
}

fn assign(master: &Client, user: &Client, verb: &str) {
    let body = json!({"roles": ["editor"], "users": [user.user]});
    master.call(&format!("role:{verb}"), body).result();
}

/// Lets `user` save `record`, and runs `lose` while the hook runs; if the hook is called again, it
/// is answered once more.
fn save_and_lose(worker: &mut Worker, user: &Client, record: Json, lose: impl FnOnce()) -> Answer {
    let saving = save(user, record);
    let request = worker.expect_request("order_beforeSave");
    lose();
    worker.answer_record(&request, &json!({}));
    saving.join().unwrap()
}

fn status_of(master: &Client) -> Json {
    let body = json!({"ids": ["order/1"]});
    master.call("record:fetch", body).result()[0]["status"].clone()
}

#[test]
fn whose_role_is_taken_meanwhile_saves_nothing() {
    let (_server, mut worker, master, bo) = begin("beforeSave");
    let record = json!({"_id": "order/1", "status": "late"});
    let saved = save_and_lose(&mut worker, &bo, record, || assign(&master, &bo, "revoke"));
    assert_eq!(saved.result()[0]["code"], 102);
    assert_eq!(status_of(&master), "open");
}

#[test]
fn who_is_locked_out_meanwhile_saves_nothing() {
    let (_server, mut worker, master, bo) = begin("beforeSave");
    let record = json!({"_id": "order/1", "status": "late"});
    let saved = save_and_lose(&mut worker, &bo, record, || {
        let body = json!({"auth_id": bo.user, "disabled": true});
        master.call("auth:disable:set", body).result();
    });
    assert_eq!(saved.code(), 127);
    assert_eq!(status_of(&master), "open");
}

#[test]
fn who_may_create_no_more_meanwhile_creates_nothing() {
    let (_server, mut worker, master, bo) = begin("beforeSave");
    let record = json!({"_id": "order/2", "status": "late"});
    let body = json!({"type": "order", "create_roles": ["clerk"]});
    let saved = save_and_lose(&mut worker, &bo, record, || {
        master.call("schema:access", body).result();
    });
    assert_eq!(saved.result()[0]["code"], 102);
    assert_eq!(master.query("order", json!([])).len(), 1);
}

#[test]
fn a_field_that_is_closed_meanwhile_keeps_its_value() {
    let (_server, mut worker, master, bo) = begin("beforeSave");
    let saving = save(&bo, json!({"_id": "order/1", "status": "late"}));
    let request = worker.expect_request("order_beforeSave");
    // What the hook writes itself does not make its decision final.
    let payload = json!({"action": "record:save", "records": [{"_id": "audit/1"}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": request["id"], "payload": payload}));
    worker.expect("reply");
    let closed = json!({
        "record_type": "order", "record_field": "status", "user_role": "_any_user",
        "writable": false, "readable": true, "comparable": true, "discoverable": true,
    });
    let body = json!({"access": [closed]});
    master.call("schema:field_access:update", body).result();
    worker.answer_record(&request, &json!({}));
    let asked = worker.expect_request("order_beforeSave");
    assert_eq!(asked["param"]["record"]["status"], "open");
    worker.answer_record(&asked, &json!({}));
    assert_eq!(saving.join().unwrap().result()[0]["status"], "open");
    assert_eq!(status_of(&master), "open");
}

#[test]
fn whose_role_is_taken_meanwhile_deletes_nothing() {
    let (_server, mut worker, master, bo) = begin("beforeDelete");
    let deleting = call(&bo, "record:delete", json!({"ids": ["order/1"]}));
    let request = worker.expect_request("order_beforeDelete");
    assign(&master, &bo, "revoke");
    worker.answer_record(&request, &json!({}));
    assert_eq!(deleting.join().unwrap().result()[0]["code"], 102);
    assert_eq!(status_of(&master), "open");
}
