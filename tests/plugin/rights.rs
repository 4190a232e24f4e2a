//! The master key with only the rights of a user: that user's answers, over every way in.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, hook, server};
use crate::support::client::{Answer, Client, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};
use crate::support::sse::{EventSource, Heard};

/// Returns a body that asks for only the rights of a user.
fn limited(user: &str, mut body: Json) -> Json {
    body["_rights"] = json!("user");
    body["_user_id"] = json!(user);
    body
}

fn with(method: &str, server: &TestServer, path: &str, fields: &[(&str, &str)]) -> Answer {
    let fields = fields.iter();
    let fields: Vec<_> = fields.map(|(a, b)| ((*a).into(), (*b).into())).collect();
    let url = format!("{}{path}", server.base_url);
    let body = matches!(method, "POST" | "PUT").then(|| b"{}".to_vec());
    send(method, &url, &fields, body).unwrap()
}

fn id(client: &Client) -> String {
    client.user.clone().unwrap()
}

/// Calls over the worker's connection; returns status and body.
fn ask(worker: &mut Worker, payload: Json) -> (Json, Json) {
    worker.send(json!({"type": "call", "id": "c", "payload": payload}));
    let reply = worker.expect("reply");
    (reply["status"].clone(), reply["body"].clone())
}

fn named(action: &str, mut body: Json) -> Json {
    body["action"] = json!(action);
    body
}

#[test]
fn rights_that_a_request_cannot_have_are_refused_before_anything_else() {
    let server = server(&[]);
    let open = json!({"name": "open", "key_required": false, "user_required": false});
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [open]}));
    let ada = Client::signed_up(&server, "ada");
    let (user, app) = (id(&ada), Client::anonymous(&server));
    let master = Client::master(&server);
    let with_token = master.with_token(ada.token.as_deref().unwrap());
    let good = limited(&user, json!({}));
    let cases = [
        (&app, good.clone(), 108),
        (&ada, good.clone(), 108),
        (&with_token, good.clone(), 108),
        (&master, json!({"_rights": "user"}), 108),
        (&master, json!({"_rights": "user", "_user_id": ""}), 108),
        (&master, json!({"_rights": "user", "_user_id": null}), 108),
        (&master, json!({"_rights": "user", "_user_id": 5}), 107),
        (&master, limited(&format!("user/{user}"), json!({})), 108),
        (&master, json!({"_rights": "all", "_user_id": user}), 108),
        (&master, json!({"_rights": "", "_user_id": user}), 108),
        (&master, json!({"_rights": true, "_user_id": user}), 107),
    ];
    let actions = [
        "record:query",
        "record:save",
        "me",
        "auth:login",
        "asset:put",
        "role:get",
        "log:read",
        "_status:healthz",
        "open",
    ];
    for action in actions {
        for (client, body, code) in &cases {
            let refused = client.call(action, body.clone());
            assert_eq!(
                (refused.status, refused.code()),
                (400, *code),
                "{action} {body}"
            );
        }
    }
    let (status, body) = ask(&mut worker, named("me", json!({"_rights": "user"})));
    assert_eq!((status, &body["error"]["code"]), (json!(400), &json!(108)));
    // A key in the payload replaces the connection's.
    let keyed = limited(&user, json!({"action": "me", "api_key": API_KEY}));
    assert_eq!(ask(&mut worker, keyed).1["error"]["code"], 108);
    worker.expect_nothing(&server);
}

#[test]
fn a_header_names_the_user_for_requests_whose_body_cannot() {
    let server = server(&[]);
    let handler = json!({"name": "page", "methods": ["GET", "POST"]});
    let mut worker = Worker::ready(&server, &json!({}), &json!({"handler": [handler]}));
    let ada = Client::signed_up(&server, "ada");
    let user = id(&ada);
    let doors = [
        ("GET", "/page"),
        ("POST", "/record/query"),
        ("PUT", "/files/some.txt"),
        ("GET", "/live/query"),
        ("POST", "/log/follow"),
        ("GET", "/_/pubsub"),
    ];
    let bad = format!("user/{user}");
    for (method, path) in doors {
        for (key, named) in [
            (API_KEY, user.as_str()),
            (MASTER_KEY, ""),
            (MASTER_KEY, &bad),
        ] {
            let fields = [("X-Skygear-API-Key", key), ("X-Skygear-Rights-Of", named)];
            let refused = with(method, &server, path, &fields);
            assert_eq!(
                (refused.status, refused.code()),
                (400, 108),
                "{path} {named:?}"
            );
        }
    }
    let hers = [
        ("X-Skygear-API-Key", MASTER_KEY),
        ("X-Skygear-Rights-Of", user.as_str()),
    ];
    // What needs the master key needs all of it.
    for path in ["/log/follow", "/log/search", "/log/read", "/pubsub/publish"] {
        let refused = with("POST", &server, path, &hers);
        assert_eq!((refused.status, refused.code()), (401, 102), "{path}");
    }
    let me = with("POST", &server, "/me", &hers).result();
    assert_eq!(me["user_id"], json!(user));
    let (address, fields) = (
        server.base_url.clone(),
        hers.map(|(a, b)| (a.into(), b.into())),
    );
    let asked = std::thread::spawn(move || send("GET", &format!("{address}/page"), &fields, None));
    let request = worker.expect_request("page");
    assert_eq!(request["context"]["user_id"], json!(user));
    assert_eq!(request["context"]["access_key_type"], "client");
    worker.answer(&request, &json!({"status": 204}));
    assert_eq!(asked.join().unwrap().unwrap().status, 204);
}

#[test]
fn the_bytes_of_a_file_are_replaced_only_with_all_rights() {
    let server = server(&[]);
    let _worker = Worker::ready(&server, &json!({}), &json!({}));
    let ada = Client::signed_up(&server, "ada");
    let user = id(&ada);
    let asked = json!({"filename": "a.txt", "content-type": "text/plain", "content-size": 3});
    let put = ada.call("asset:put", asked.clone()).result();
    let name = put["asset"]["$name"].as_str().unwrap();
    let upload = |bytes: &str, fields: &[(&str, &str)]| {
        let text = ("Content-Type", "text/plain");
        let fields = fields.iter().chain([&text]);
        let fields: Vec<_> = fields.map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let url = format!("{}/files/{name}", server.base_url);
        let sent = send("PUT", &url, &fields, Some(bytes.as_bytes().to_vec()));
        let sent = sent.unwrap();
        (sent.status, sent.code())
    };
    let token = ada.token.as_deref().unwrap();
    let hers = [
        ("X-Skygear-API-Key", API_KEY),
        ("X-Skygear-Access-Token", token),
    ];
    let rights = [
        ("X-Skygear-API-Key", MASTER_KEY),
        ("X-Skygear-Rights-Of", user.as_str()),
    ];
    let all = [("X-Skygear-API-Key", MASTER_KEY)];
    assert_eq!(upload("one", &rights), (200, 0));
    assert_eq!(upload("two", &hers), (409, 109));
    assert_eq!(upload("two", &rights), (409, 109));
    assert_eq!(upload("one", &rights), (200, 0));
    assert_eq!(upload("two", &all), (200, 0));
    // Through the action as well: a new name, as for the user.
    let put = Client::master(&server).call("asset:put", limited(&user, asked));
    assert_eq!(put.status, 200);
}

#[test]
fn users_who_may_not_act_are_refused() {
    let server = server(&[]);
    let op = |name: &str, key: bool| json!({"name": name, "key_required": key});
    let handler = json!({"name": "page", "methods": ["GET"]});
    let points = json!({"op": [op("keyed", true), op("open", false)], "handler": [handler]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/1", json!({"n": 1, "_access": []}));
    let save = json!({"records": [{"_id": "note/2", "n": 1}]});
    let query = json!({"record_type": "note"});
    let asked = [
        ("me", json!({})),
        ("record:save", save),
        ("record:query", query.clone()),
        ("record:fetch", json!({"ids": ["note/1"]})),
        ("role:get", json!({"users": []})),
    ];
    let disable = json!({"auth_id": ada.user, "disabled": true});
    master.call("auth:disable:set", disable).result();
    master
        .call("erase:user", json!({"user": ben.user, "why": "asked to"}))
        .result();
    for (client, code) in [(&ada, 127), (&ben, 104)] {
        for (action, body) in &asked {
            let own = client.call(action, body.clone());
            let limited = limited(&id(client), body.clone());
            let lent = master.call(action, limited.clone());
            assert_eq!(lent.code(), code, "{action}");
            // With the token some of these are answered as for nobody, as in v1.
            if own.code() == code {
                let answers = (own.status, own.json());
                assert_eq!(answers, (lent.status, lent.json()), "{action}");
            }
            let (status, body) = ask(&mut worker, named(action, limited));
            assert_eq!(
                (json!(lent.status), lent.json()),
                (status, body),
                "{action}"
            );
        }
        // Lambdas and handlers that do not require a user.
        let limited = limited(&id(client), json!({}));
        for action in ["keyed", "open"] {
            assert_eq!(
                master.call(action, limited.clone()).code(),
                code,
                "{action}"
            );
        }
        let user = id(client);
        let fields = [
            ("X-Skygear-API-Key", MASTER_KEY),
            ("X-Skygear-Rights-Of", user.as_str()),
        ];
        assert_eq!(with("GET", &server, "/page", &fields).code(), code);
    }
    worker.expect_nothing(&server);
    assert_eq!(ada.call("record:query", query).status, 200);
    // A user who does not exist is not created.
    for (action, body) in &asked {
        let refused = master.call(action, limited("stranger", body.clone()));
        assert_eq!((refused.status, refused.code()), (401, 104), "{action}");
    }
    let found = master.call("record:fetch", json!({"ids": ["user/stranger"]}));
    assert_eq!(found.result()[0]["code"], 110);
}

#[test]
fn what_is_found_readable_and_writable_is_the_users_alone() {
    let settings = [("DEV_MODE", "NO"), ("HISTORY_FOR_OWNERS", "note")];
    let server = server(&settings);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    master.save("note/open", json!({"n": 1, "secret": "s", "_access": null}));
    let save = |client: &Client, id: &str, access: Json| {
        client.save(id, json!({"n": 1, "secret": "s", "_access": access}));
    };
    save(&ada, "note/hers", json!([]));
    save(&ben, "note/his", json!([]));
    save(
        &ben,
        "note/shown",
        json!([{"level": "read", "user_id": ada.user}]),
    );
    save(
        &ben,
        "note/shared",
        json!([{"level": "write", "user_id": ada.user}]),
    );
    save(&ben, "note/red", json!([{"level": "read", "role": "red"}]));
    master
        .call(
            "role:assign",
            json!({"users": [ada.user], "roles": ["red"]}),
        )
        .result();
    let private = json!({"database_id": "_private", "records": [{"_id": "note/private", "n": 1}]});
    ada.call("record:save", private).result();
    let rule = |role: &str, writable: bool| {
        json!({"record_type": "note", "record_field": "secret",
        "user_role": role, "writable": writable, "readable": role == "_owner",
        "comparable": role == "_owner", "discoverable": role == "_owner"})
    };
    let rules = json!({"access": [rule("_owner", true), rule("_any_user", false)]});
    master.call("schema:field_access:update", rules).result();
    let position = master
        .call("history:list", json!({"record": "note/shared"}))
        .result();
    let then = position["versions"][0]["position"].clone();

    let ids = ["open", "hers", "his", "shown", "shared", "red", "private"];
    let ids = ids.map(|id| format!("note/{id}"));
    let records = |fields: Json| -> Json {
        let record = |id: &String| {
            let mut record = fields.clone();
            record["_id"] = json!(id);
            record
        };
        ids.iter().map(record).collect()
    };
    let compare = json!(["eq", {"$type": "keypath", "$val": "secret"}, "s"]);
    let mut asked = vec![
        (
            "record:query",
            json!({"record_type": "note", "count": true}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "predicate": compare}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "as_of": then}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "database_id": "_private"}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "database_id": "_union"}),
        ),
        (
            "record:query",
            json!({"record_type": "note", "database_id": ben.user}),
        ),
        ("record:fetch", json!({"ids": ids})),
        ("record:fetch", json!({"ids": ids, "as_of": then})),
        (
            "record:save",
            json!({"records": records(json!({"secret": "t"}))}),
        ),
        (
            "record:save",
            json!({"records": records(json!({"brand_new": 1}))}),
        ),
        (
            "record:delete",
            json!({"ids": ["note/his", "note/shown", "note/red"]}),
        ),
        ("role:get", json!({"users": [ada.user]})),
        ("role:get", json!({"users": [ben.user]})),
        ("schema:fetch", json!({})),
        ("schema:create", json!({"record_types": {}})),
        (
            "auth:disable:set",
            json!({"auth_id": ben.user, "disabled": true}),
        ),
        ("subscription:fetch_all", json!({"device_id": "none"})),
    ];
    for id in &ids {
        asked.push(("history:list", json!({"record": id})));
    }
    for (action, body) in asked {
        let own = ada.call(action, body.clone());
        let limited = limited(&id(&ada), body.clone());
        let over_http = master.call(action, limited.clone());
        let same = (own.status, without_times(own.json()));
        assert_eq!(
            same,
            (over_http.status, without_times(over_http.json())),
            "{action} {body}"
        );
        let (status, answer) = ask(&mut worker, named(action, limited));
        assert_eq!(
            (json!(same.0), same.1),
            (status, without_times(answer)),
            "{action} {body}"
        );
    }
    // The comparison means something: the master key's answers are others.
    let all = master.call(
        "record:query",
        json!({"record_type": "note", "_user_id": ada.user}),
    );
    assert_eq!(all.result().as_array().unwrap().len(), 6);
    let hers = master.call(
        "record:query",
        limited(&id(&ada), json!({"record_type": "note"})),
    );
    assert_eq!(hers.result().as_array().unwrap().len(), 5);
}

/// Takes out what differs between two equal saves, and between two signatures of an address.
fn without_times(mut answer: Json) -> Json {
    match &mut answer {
        Json::Object(members) => {
            members.retain(|name, _| {
                !["_updated_at", "$url", "position", "time"].contains(&name.as_str())
            });
            for value in members.values_mut() {
                *value = without_times(value.take());
            }
        }
        Json::Array(items) => {
            for item in items {
                *item = without_times(item.take());
            }
        }
        _ => {}
    }
    answer
}

#[test]
fn events_show_the_user_and_that_the_master_key_did_it() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "write"}, {"name": "inner"}],
        "hook": [hook("page", "beforeSave"), hook("page", "afterSave")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let (user, master) = (id(&ada), Client::master(&server));
    let actor = |record: &str| {
        let past = master
            .call("history:list", json!({"record": record}))
            .result();
        past["versions"][0]["actor"].clone()
    };
    let save = |record: &str| limited(&user, json!({"records": [{"_id": record, "n": 1}]}));

    master.call("record:save", save("note/http")).result();
    let expected = json!({"user": user, "key": "master", "rights": "user", "origin": "api"});
    assert_eq!(actor("note/http"), expected);
    let (status, _) = ask(&mut worker, named("record:save", save("note/own")));
    assert_eq!(status, 200);
    let expected = json!({"user": user, "key": "master", "rights": "user", "origin": "plugin",
        "plugin": "TEST"});
    assert_eq!(actor("note/own"), expected);

    // Within a lambda that somebody else has called.
    let asked = call(&ben, "write", json!({}));
    let outer = worker.expect_request("write");
    let nested = |payload: Json| json!({"type": "call", "id": "n", "parent": outer["id"], "payload": payload});
    worker.send(nested(named("record:save", save("note/lambda"))));
    assert_eq!(worker.expect("reply")["status"], 200);
    let mut expected = expected.clone();
    expected["on_behalf"] = json!({"user": ben.user, "point": "lambda TEST/write"});
    assert_eq!(actor("note/lambda"), expected);
    // What it calls is told of a user, and of no master key.
    worker.send(nested(limited(&user, json!({"action": "inner"}))));
    let inner = worker.expect_request("inner");
    assert_eq!(inner["context"]["user_id"], json!(user));
    assert_eq!(inner["context"]["access_key_type"], "client");
    worker.answer(&inner, &Json::Null);
    worker.expect("reply");

    // Hooks are told the same, before the save and after it.
    worker.send(nested(named("record:save", save("page/1"))));
    for trigger in ["page_beforeSave", "page_afterSave"] {
        let request = worker.expect_request(trigger);
        assert_eq!(request["context"]["user_id"], json!(user), "{trigger}");
        assert_eq!(request["context"]["access_key_type"], "client", "{trigger}");
        // What a hook asks for has the rights that it asks for.
        let query = limited(
            &id(&ben),
            json!({"action": "record:query", "record_type": "page"}),
        );
        worker.send(json!({"type": "call", "id": "q", "parent": request["id"], "payload": query}));
        assert_eq!(worker.expect("reply")["status"], 200);
        worker.answer_record(&request, &json!({}));
    }
    assert_eq!(worker.expect("reply")["status"], 200);
    worker.answer(&outer, &Json::Null);
    asked.join().unwrap().result();
    // The log finds them by the key, too.
    let body = json!({"keys": ["master"], "record": "note/http"});
    assert_eq!(
        master
            .call("log:read", body)
            .result()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_live_query_shows_what_the_user_may_read() {
    let server = server(&[]);
    let _worker = Worker::ready(&server, &json!({}), &json!({}));
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/hers", json!({"n": 1, "_access": []}));
    ben.save("note/his", json!({"n": 1, "_access": []}));
    let user = id(&ada);
    let in_body = limited(&user, json!({"api_key": MASTER_KEY, "record_type": "note"}));
    let plain = json!({"api_key": MASTER_KEY, "record_type": "note"});
    let header = [("X-Skygear-Rights-Of", user.as_str())];
    for (fields, body) in [(&[][..], in_body), (&header[..], plain)] {
        let mut source = EventSource::open(
            server.address(),
            "/live/query",
            fields,
            Some(&body.to_string()),
        );
        let mut told = String::new();
        let source = source.as_mut().unwrap();
        assert_eq!(source.status, 200, "{}", source.head);
        loop {
            match source.next(Duration::from_secs(30)) {
                Heard::Event(event) if event.event == "ready" => break,
                Heard::Event(event) => told.push_str(&event.data),
                other => panic!("{other:?}"),
            }
        }
        assert!(
            told.contains("note/hers") && !told.contains("note/his"),
            "{told}"
        );
        // A user who is locked out hears nothing more.
        let lock = |disabled: bool| json!({"auth_id": user, "disabled": disabled});
        let master = Client::master(&server);
        master.call("auth:disable:set", lock(true)).result();
        let Heard::Event(end) = source.next(Duration::from_secs(30)) else {
            panic!("the stream goes on")
        };
        assert!(end.data.contains("127"), "{end:?}");
        master.call("auth:disable:set", lock(false)).result();
    }
}

#[test]
fn a_live_socket_has_the_rights_that_it_was_opened_with() {
    let server = server(&[]);
    let _worker = Worker::ready(&server, &json!({}), &json!({}));
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/hers", json!({"n": 1, "_access": []}));
    ben.save("note/his", json!({"n": 1, "_access": []}));
    let open = |rights: Option<&str>| {
        let mut fields = vec![("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
        fields.extend(rights.map(|user| ("X-Skygear-Rights-Of".to_owned(), user.to_owned())));
        Socket::open(server.address(), "/live", &fields).map_err(|(status, _)| status)
    };
    let query = json!({"action": "live:subscribe", "id": "q", "record_type": "note"});
    let user = id(&ada);
    let mut hers = open(Some(&user)).unwrap();
    hers.send(&query.to_string());
    let mut told = String::new();
    loop {
        let frame = frame(&mut hers);
        if frame["event"] == "ready" {
            break;
        }
        told.push_str(&frame.to_string());
    }
    assert!(
        told.contains("note/hers") && !told.contains("note/his"),
        "{told}"
    );
    // A subscription cannot ask for other rights than its socket has.
    for (mut socket, user) in [(open(None).unwrap(), &user), (hers, &id(&ben))] {
        socket.send(&limited(user, query.clone()).to_string());
        let refused = frame(&mut socket);
        assert_eq!(
            (&refused["event"], &refused["error"]["code"]),
            (&json!("error"), &json!(108))
        );
    }
    assert_eq!(open(Some("stranger")).err(), Some(401));
}

/// Takes the next frame of a live query.
fn frame(socket: &mut Socket) -> Json {
    match socket.receive(Duration::from_secs(30)) {
        Incoming::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}
