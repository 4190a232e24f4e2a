//! Lambdas, calls, and publishing.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, hook, save, server};
use crate::support::client::{Client, send};
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

/// Python distinguishes 3.0 from 3, and needs the latter for counts.
#[test]
fn whole_numbers_go_without_a_fraction() {
    let server = server(&[]);
    let op = json!([{"name": "count"}]);
    let hooks = json!([hook("note", "beforeSave")]);
    let points = json!({"op": op, "hook": hooks});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let given = json!({
        "n": 3.0, "half": 2.5, "large": 12_345_678_901_234_567_000.0, "deep": [{"a": [-4.0]}],
        "records": [{"$type": "record", "$record": {"_id": "note/1", "n": 5.0, "j": {"a": 6.0}}}],
    });
    let expected = r#"{"n":3,"half":2.5,"large":12345678901234567000,"deep":[{"a":[-4]}]}"#;
    let expected: Json = serde_json::from_str(expected).unwrap();
    let asked = call(&ada, "count", json!({"args": given}));
    let request = worker.expect_request("count");
    let args = &request["param"]["args"];
    for name in ["n", "half", "large", "deep"] {
        assert_eq!(args[name], expected[name], "{args}");
    }
    let record = &args["records"][0]["$record"];
    assert_eq!(record["n"], json!(5), "{record}");
    assert_eq!(record["j"], json!({"a": 6}));
    worker.answer(&request, &given);
    let answer = asked.join().unwrap().result();
    for name in ["n", "half", "large", "deep"] {
        assert_eq!(answer[name], expected[name], "{answer}");
    }
    let asked = save(
        &ada,
        json!({"_id": "note/1", "n": given["n"], "large": given["large"], "j": {"deep": given["deep"]}}),
    );
    let request = worker.expect_request("note_beforeSave");
    let record = request["param"]["record"].clone();
    for name in ["n", "large"] {
        assert_eq!(record[name], expected[name], "{record}");
    }
    assert_eq!(record["j"]["deep"], expected["deep"], "{record}");
    worker.answer_record(&request, &json!({"j": {"more": 7.0}}));
    let saved = asked.join().unwrap().result();
    assert_eq!(saved[0]["large"], expected["large"], "{saved}");
    assert_eq!(saved[0]["j"], json!({"more": 7}));
    assert_eq!(ada.query("note", json!([]))[0]["j"], json!({"more": 7}));
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
    // Subscribing has no answer, so publish until the subscription works.
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
            // An error at the bottom passes up through all of them.
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

#[test]
fn a_lambda_is_found_by_path_else_by_the_bodys_word() {
    let server = server(&[]);
    let names = ["a:b", "c", "sso/config", "with space:ü"];
    let ops: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": ops}));
    for (method, path, action, found) in [
        ("POST", "/a/b", "", "a:b"),
        ("GET", "/a/b", "", "a:b"),
        ("PUT", "/", "a:b", "a:b"),
        // The path takes precedence, and a path that belongs to nothing is ignored.
        ("POST", "/c", "a:b", "c"),
        ("POST", "/nobody", "a:b", "a:b"),
        ("POST", "/", "sso/config", "sso/config"),
        ("POST", "/with%20space/%C3%BC", "", "with space:ü"),
    ] {
        let url = format!("{}{path}", server.base_url);
        let body = json!({"action": action}).to_string();
        let asked = std::thread::spawn(move || send(method, &url, &[], Some(body.into())).unwrap());
        let request = worker.expect_request(found);
        assert_eq!(request["param"]["action"], action);
        worker.answer(&request, &json!(found));
        assert_eq!(asked.join().unwrap().result(), found);
    }
    // In a path, `/` stands for `:`.
    let url = format!("{}/sso/config", server.base_url);
    let answer = send("POST", &url, &[], Some(b"{}".to_vec())).unwrap();
    assert_eq!((answer.status, answer.code()), (404, 117));
}

#[test]
fn a_lambda_takes_the_place_of_an_action_with_checks_of_its_own() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "record:query"}, {"name": "schema:fetch"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    // Clients of the action needed a key and a type; the plugin itself handles long lists.
    let ids: Vec<usize> = (0..6000).collect();
    let url = format!("{}/record/query", server.base_url);
    let body = json!({"ids": ids, "database_id": "_nonsense"}).to_string();
    let asked = std::thread::spawn(move || send("POST", &url, &[], Some(body.into())).unwrap());
    let request = worker.expect_request("record:query");
    assert_eq!(request["param"]["ids"].as_array().unwrap().len(), 6000);
    worker.answer(&request, &json!("mine"));
    assert_eq!(asked.join().unwrap().result(), "mine");
    // The plugin's own calls are routed the same way, so it cannot reach the action it replaced.
    let payload = json!({"action": "record:query", "record_type": "note"});
    worker.send(json!({"type": "call", "id": "c1", "payload": payload}));
    let request = worker.expect_request("record:query");
    worker.answer(&request, &json!("mine again"));
    assert_eq!(worker.expect("reply")["body"]["result"], "mine again");
    // When the plugin drops the lambda, the action is back.
    worker.die();
    let mut worker = Worker::greet(&server, &json!({"generation": 1}));
    worker.register(&json!({"op": [{"name": "schema:fetch"}]}));
    worker.serve_event("before-plugins-ready");
    worker.expect("ready");
    let found = Client::anonymous(&server).call("record:query", json!({"record_type": "note"}));
    assert_eq!(found.result(), json!([]));
}

#[test]
fn the_body_reaches_a_lambda_as_it_is_and_typed_values_in_their_one_form() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    let client = Client::anonymous(&server);
    let no_token = json!({"access_token": null});
    for body in [
        json!({}),
        json!({"args": null}),
        json!({"args": [1, "b", null, {"c": []}]}),
        json!({"args": {"who": "bob"}, "more": [true]}),
        json!({"args": 7, "api_key": "ignored", "_user_id": "ada"}),
        no_token,
    ] {
        let asked = call(&client, "a", body.clone());
        let request = worker.expect_request("a");
        let mut expected = body;
        expected["action"] = json!("a");
        expected["api_key"] = json!(API_KEY);
        assert_eq!(request["param"], expected);
        assert!(request["context"].get("user_id").is_none());
        worker.answer(&request, &json!(1));
        asked.join().unwrap().result();
    }
    let typed = json!({"args": {
        "when": {"$type": "date", "$date": "2017-01-02T11:04:05.5+08:00"},
        "deep": [{"note": {"$type": "record", "$record": {"_id": "note/1", "n": 1}}}],
    }});
    let asked = call(&client, "a", typed);
    let request = worker.expect_request("a");
    let args = &request["param"]["args"];
    assert_eq!(
        args["when"],
        json!({"$type": "date", "$date": "2017-01-02T03:04:05.5Z"})
    );
    let record = json!({"_id": "note/1", "_type": "record", "_access": null, "n": 1});
    let written = json!({"$type": "record", "$record": record});
    assert_eq!(args["deep"][0]["note"], written);
    let at = json!({"$type": "geo", "$lng": 1, "$lat": 2});
    worker.answer(
        &request,
        &json!({"at": at, "note": {"$type": "record", "$record": {"_id": "note/1", "n": 1}}}),
    );
    let result = asked.join().unwrap().result();
    assert_eq!(
        (&result["at"]["$lat"], &result["note"]),
        (&json!(2), &written)
    );

    for args in [
        json!([{"$type": "date", "$date": "x"}]),
        json!({"deep": [{"$type": "nonsense"}]}),
    ] {
        let refused = client.call("a", json!({"args": args}));
        assert_eq!((refused.status, refused.code()), (400, 107));
    }
    let refused = send(
        "POST",
        &format!("{}/a", server.base_url),
        &[],
        Some(b"[1]".to_vec()),
    );
    let refused = refused.unwrap();
    assert_eq!((refused.status, refused.code()), (400, 107));
}

#[test]
fn what_a_lambda_answers_is_the_result() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    let client = Client::anonymous(&server);
    let mut answered = |message: serde_json::Value| {
        let asked = call(&client, "a", json!({}));
        let request = worker.expect_request("a");
        let mut response = message;
        response["type"] = json!("response");
        response["id"] = request["id"].clone();
        worker.send(response);
        let answer = asked.join().unwrap();
        (answer.status, answer.json())
    };
    assert_eq!(answered(json!({"result": null})), (200, json!({})));
    for kept in [
        json!(0),
        json!(false),
        json!(""),
        json!([]),
        json!({}),
        json!([null]),
    ] {
        let whole = json!({"result": kept});
        assert_eq!(answered(whole.clone()), (200, whole));
    }
    for nothing in [json!({"result": {"$type": "nonsense"}}), json!({})] {
        let (status, body) = answered(nothing);
        assert_eq!((status, &body["error"]["code"]), (500, &json!(10000)));
    }
    // No result at all is the worker's mistake, and it is warned.
    worker.expect("warning");
}

#[test]
fn a_lambda_that_asks_for_nobody_ignores_who_is_not_known() {
    let server = server(&[]);
    let ops = json!([{"name": "open"}, {"name": "user", "user_required": true}]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": ops}));
    let ada = Client::signed_up(&server, "ada");
    let post = |action: &str, headers: &[(&str, &str)]| {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers: Vec<_> = headers.iter().map(own).collect();
        let url = format!("{}/{action}", server.base_url);
        std::thread::spawn(move || send("POST", &url, &headers, Some(b"{}".to_vec())).unwrap())
    };
    for (name, value) in [
        ("X-Skygear-API-Key", "wrong"),
        ("X-Skygear-Access-Token", "wrong"),
    ] {
        let asked = post("open", &[(name, value)]);
        let request = worker.expect_request("open");
        assert!(request["context"].get("user_id").is_none(), "{request}");
        assert_eq!(request["context"]["access_key_type"], "none");
        worker.answer(&request, &json!("open"));
        assert_eq!(asked.join().unwrap().result(), "open");
        let refused = post("user", &[(name, value)]).join().unwrap();
        assert_eq!(refused.status, 401);
    }
    // A locked-out user does not count as a user, even with a valid token.
    let lock = json!({"auth_id": ada.user, "disabled": true, "message": "away"});
    Client::master(&server)
        .call("auth:disable:set", lock)
        .result();
    let refused = ada.call("user", json!({}));
    assert_eq!((refused.status, refused.code()), (403, 127));
}

#[test]
fn who_may_not_act_is_nobody_to_plugins() {
    let server = server(&[]);
    let ops = json!([{"name": "open"}, {"name": "key", "key_required": true}]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": ops}));
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let mut told = |user: &Client| {
        ["open", "key"].map(|action| {
            let user = user.clone();
            let asked = std::thread::spawn(move || user.call(action, json!({})));
            let request = worker.expect_request(action);
            worker.answer(&request, &json!("done"));
            assert_eq!(asked.join().unwrap().result(), "done");
            request["context"]["user_id"].clone()
        })
    };
    let lock = |is_disabled: bool| {
        let body = json!({"auth_id": ada.user, "disabled": is_disabled});
        master.call("auth:disable:set", body).result();
    };
    let (somebody, nobody) = (json!(ada.user), [Json::Null, Json::Null]);
    let somebody = [somebody.clone(), somebody];
    assert_eq!(told(&ada), somebody);
    lock(true);
    assert_eq!(told(&ada), nobody, "locked out");
    lock(false);
    assert_eq!(told(&ada), somebody);
    let new = json!({"auth_id": ada.user, "password": "another-of-the-test"});
    let session = master.call("auth:reset_password", new).result();
    assert_eq!(told(&ada), nobody, "a token of before");
    let ada = ada.with_token(session["access_token"].as_str().unwrap());
    assert_eq!(told(&ada), somebody);
    let erased = json!({"user": ada.user, "why": "she asked for it"});
    master.call("erase:user", erased).result();
    assert_eq!(told(&ada), nobody, "erased");
    // The master key can name any user, except one who was erased.
    for (named, expected) in [
        (json!("ghost"), json!("ghost")),
        (json!(ada.user), Json::Null),
    ] {
        let asked = call(&master, "open", json!({"_user_id": named}));
        let request = worker.expect_request("open");
        worker.answer(&request, &json!("done"));
        assert_eq!(asked.join().unwrap().result(), "done");
        assert_eq!(request["context"]["user_id"], expected);
    }
}

/// Each code has its HTTP status and its name, whatever name the plugin gives.
#[test]
fn the_codes_of_plugins_have_their_statuses_and_names() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    let client = Client::anonymous(&server);
    let statuses: &[(u16, &[i64])] = &[
        (400, &[107, 108, 120]),
        (401, &[101, 103, 104, 105, 106]),
        (403, &[102, 123, 124, 127, 128]),
        (404, &[110, 117]),
        (409, &[109, 113, 114, 115]),
        (200, &[116]),
        (501, &[111, 112]),
        (503, &[118, 122, 125]),
        (504, &[119]),
        (500, &[121, 126, 129, 77, -1, 9999, 10_000, 10_001, 123_456]),
    ];
    for (status, codes) in statuses {
        for code in *codes {
            let asked = call(&client, "a", json!({}));
            let request = worker.expect_request("a");
            let error = json!({"code": code, "message": "m", "name": "Mine", "info": {}, "x": 1});
            worker.refuse(&request, &error);
            let answer = asked.join().unwrap();
            assert_eq!((answer.status, answer.code()), (*status, *code));
            let known = skytrail_schema::code::Code::from_number(*code);
            let expected = json!({"name": known.name(), "code": code, "message": "m"});
            assert_eq!(answer.json()["error"], expected);
        }
    }
    assert_eq!(
        skytrail_schema::code::Code::from_number(77).name(),
        "ErrorCode(77)"
    );
}
