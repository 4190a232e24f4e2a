//! Sign-ups: which fields are stored, and what happens to a sign-up that a hook refuses afterwards.

use serde_json::{Value as Json, json};

use super::{log_in, sign_up};
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";

#[test]
fn fields_that_the_owner_may_not_write_are_dropped() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let rule = |field: &str| {
        json!({"record_type": "user", "record_field": field, "user_role": "_owner",
               "writable": false, "readable": true, "comparable": true, "discoverable": true})
    };
    let access = json!({"access": [rule("level"), rule("username")]});
    master.call("schema:field_access:update", access).result();
    let anyone = Client::anonymous(&server);
    let body = |name: &str| {
        json!({"auth_data": {"username": name}, "password": PASSWORD,
               "profile": {"level": 9, "bio": "x"}})
    };
    let session = anyone.call("auth:signup", body("ada")).result();
    let profile = &session["profile"];
    assert_eq!((profile.get("level"), &profile["bio"]), (None, &json!("x")));
    // The fields that identify a user are always stored.
    assert_eq!(log_in(&anyone, "ada", PASSWORD).status, 200);
    let session = master.call("auth:signup", body("eve")).result();
    assert_eq!(session["profile"]["level"], 9);
}

#[test]
fn an_empty_name_is_nobodys() {
    let server = TestServer::start();
    let anyone = Client::anonymous(&server);
    let body = |name: &str, mail: &str| json!({"auth_data": {"username": name, "email": mail}, "password": PASSWORD});
    assert_eq!(anyone.call("auth:signup", body("", "")).code(), 108);
    for mail in ["a@example.com", "b@example.com"] {
        let session = anyone.call("auth:signup", body("", mail)).result();
        assert_eq!(session["profile"].get("username"), None);
    }
    // The same where a name is not required.
    for _ in 0..2 {
        let session = anyone.call("auth:signup", json!({"profile": {"username": ""}}));
        assert_eq!(session.result()["profile"].get("username"), None);
    }
    let odd = json!({"auth_data": {"username": 5}, "password": PASSWORD});
    assert_eq!(anyone.call("auth:login", odd).code(), 110);
}

fn waiting_for_a_plugin() -> (TestServer, Worker) {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let hook = json!({"name": "after", "type": "user", "trigger": "afterSave", "async": false});
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": [hook]}));
    (server, worker)
}

#[test]
fn a_sign_up_that_a_hook_refuses_afterwards_is_undone() {
    let (mut server, mut worker) = waiting_for_a_plugin();
    let anyone = Client::anonymous(&server);
    let signing_up = {
        let anyone = anyone.clone();
        std::thread::spawn(move || sign_up(&anyone, "ada", PASSWORD))
    };
    let request = worker.expect_request("after");
    let id = request["param"]["record"]["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let found = Client::master(&server).query("user", json!([]));
    assert_eq!(found[0]["_id"], json!(id), "the hook finds the user");
    worker.refuse(&request, &json!({"code": 108, "message": "no such name"}));
    let refused = signing_up.join().unwrap();
    assert_eq!(
        (refused.code(), &refused.json()["error"]["message"]),
        (108, &json!("no such name"))
    );
    assert_eq!(
        Client::master(&server).query("user", json!([])),
        Vec::<Json>::new()
    );
    assert_eq!(log_in(&anyone, "ada", PASSWORD).code(), 110);

    let signing_up = {
        let anyone = anyone.clone();
        std::thread::spawn(move || sign_up(&anyone, "ada", PASSWORD))
    };
    let request = worker.expect_request("after");
    worker.answer_record(&request, &json!({}));
    let session = signing_up.join().unwrap().result();
    assert_ne!(
        json!(format!("user/{}", session["user_id"].as_str().unwrap())),
        json!(id)
    );
    drop(worker);
    // An undone sign-up stays undone when the store is rebuilt.
    server.set("PLUGINS", "");
    server.terminate();
    let rebuilt = server.skytrail(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    server.restart();
    assert_eq!(
        log_in(&Client::anonymous(&server), "ada", PASSWORD).status,
        200
    );
    assert_eq!(Client::master(&server).query("user", json!([])).len(), 1);
}

#[test]
fn what_refers_to_an_undone_user_keeps_an_empty_record() {
    let (server, mut worker) = waiting_for_a_plugin();
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let signing_up = {
        let anyone = anyone.clone();
        std::thread::spawn(move || sign_up(&anyone, "ada", PASSWORD))
    };
    let request = worker.expect_request("after");
    let id = request["param"]["record"]["_id"].clone();
    master.save("settings/1", json!({"of": {"$type": "ref", "$id": id}}));
    worker.refuse(&request, &json!({"code": 108, "message": "no"}));
    assert_eq!(signing_up.join().unwrap().code(), 108);
    let left = master.query("user", json!([]));
    assert_eq!((left.len(), left[0].get("username")), (1, None));
    // The rest of the user's record is in the log, so the hook is told.
    let emptied = worker.expect_request("after");
    assert_eq!(emptied["param"]["record"]["_id"], id);
    assert!(emptied["param"]["record"].get("username").is_none());
    worker.answer_record(&emptied, &json!({}));
    assert_eq!(log_in(&anyone, "ada", PASSWORD).code(), 110);
    let signing_up = std::thread::spawn(move || sign_up(&anyone, "ada", PASSWORD));
    let request = worker.expect_request("after");
    worker.answer_record(&request, &json!({}));
    signing_up.join().unwrap().result();
}
