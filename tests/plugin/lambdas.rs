//! Lambdas, calls, and publishing.

use std::time::Duration;

use serde_json::json;

use super::worker::Worker;
use super::{call, server};
use crate::support::client::Client;
use crate::support::server::API_KEY;
use crate::support::socket::{Incoming, Socket};

#[test]
fn a_lambda_gets_the_whole_body_and_its_result_is_the_clients() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "hello:world"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let asked = call(&ada, "hello:world", json!({"args": {"who": "bob"}}));
    let request = worker.expect_request("hello:world");
    assert_eq!(request["kind"], "op");
    assert_eq!(request["param"]["args"], json!({"who": "bob"}));
    assert_eq!(request["param"]["action"], "hello:world");
    assert_eq!(request["context"]["user_id"], json!(ada.user));
    assert_eq!(request["context"]["request_tag"], "plugin");
    worker.answer(&request, &json!({"message": "hello bob"}));
    assert_eq!(
        asked.join().unwrap().json(),
        json!({"result": {"message": "hello bob"}})
    );

    let asked = call(&ada, "hello:world", json!({}));
    let request = worker.expect_request("hello:world");
    worker.answer(&request, &json!(null));
    assert_eq!(asked.join().unwrap().json(), json!({}));
}

#[test]
fn tracebacks_stay_inside_unless_developers_look_on() {
    for (dev_mode, is_shown) in [("NO", false), ("YES", true)] {
        let server = server(&[("DEV_MODE", dev_mode)]);
        let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
        let asked = call(&Client::anonymous(&server), "a", json!({}));
        let request = worker.expect_request("a");
        let info = json!({"trace": ["line 1"], "why": "x"});
        worker.refuse(
            &request,
            &json!({"code": 10000, "message": "boom", "info": info}),
        );
        let answer = asked.join().unwrap();
        assert_eq!(answer.status, 500);
        let error = &answer.json()["error"];
        assert_eq!(error["info"]["why"], "x");
        assert_eq!(error["info"].get("trace").is_some(), is_shown);
    }
}

#[test]
fn a_worker_publishes_to_clients() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let mut listener = Socket::open(server.address(), "/pubsub", &headers).unwrap();
    listener.send(r#"{"action": "sub", "channel": "room"}"#);
    let payload = json!({"action": "pubsub:publish", "channels": ["room"], "data": {"n": 1}});
    // Subscribing is not answered, so publish until it has happened.
    for n in 0..100 {
        worker.send(json!({"type": "call", "id": format!("c{n}"), "payload": payload}));
        assert_eq!(worker.expect("reply")["status"], 200);
        if let Incoming::Text(text) = listener.receive(Duration::from_millis(100)) {
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(message, json!({"channel": "room", "data": {"n": 1}}));
            return;
        }
    }
    panic!("nothing was published");
}

#[test]
fn a_call_has_the_rights_of_its_key() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    let save = json!({"action": "record:save", "records": [{"_id": "note/1", "n": 1}]});
    let mut as_client = save.clone();
    as_client["api_key"] = json!(API_KEY);
    let mut with_wrong_key = save.clone();
    with_wrong_key["api_key"] = json!("wrong");
    let unknown = json!({"action": "no:such:thing"});
    for (n, (payload, status, code)) in [
        (as_client, 401, json!(101)),
        (with_wrong_key, 401, json!(103)),
        (unknown, 404, json!(117)),
        (save, 200, json!(null)),
    ]
    .into_iter()
    .enumerate()
    {
        worker.send(json!({"type": "call", "id": format!("c{n}"), "payload": payload}));
        let reply = loop {
            match worker.next(Duration::from_secs(10)) {
                super::worker::Seen::Message(message) if message["type"] == "reply" => {
                    break message;
                }
                super::worker::Seen::Message(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reply["status"], status, "{reply}");
        assert_eq!(reply["body"]["error"]["code"], code, "{reply}");
    }
}

#[test]
fn a_lambda_that_calls_itself_without_end_is_stopped() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "loop"}]}));
    let asked = call(&Client::anonymous(&server), "loop", json!({}));
    let mut num_requests = 0;
    let mut waiting = Vec::new();
    loop {
        let super::worker::Seen::Message(message) = worker.next(Duration::from_secs(10)) else {
            panic!("the connection ended");
        };
        if message["type"] == "request" {
            num_requests += 1;
            let id = format!("c{num_requests}");
            let payload = json!({"action": "loop"});
            let parent = message["id"].clone();
            worker.send(json!({"type": "call", "id": id, "parent": parent, "payload": payload}));
            waiting.push(message);
        } else if message["type"] == "reply" {
            // An error at the bottom comes up through all of them.
            let request = waiting.pop().unwrap();
            worker.refuse(&request, &message["body"]["error"]);
            if waiting.is_empty() {
                break;
            }
        }
    }
    assert_eq!(num_requests, 11);
    let error = asked.join().unwrap().json()["error"].clone();
    assert_eq!(error["code"], 10000);
    assert_eq!(error["message"], "Plugin exceeded max bounce count");
}
