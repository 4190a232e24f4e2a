//! Members that are missing, contradict each other or have the wrong type: refused, never ignored.

use serde_json::{Value as Json, json};

use crate::support::client::{Client, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// Asserts that an action is refused with a code and the names of the members at fault.
fn refused(client: &Client, action: &str, body: Json, (code, names): (i64, &[&str])) {
    let reply = client.call(action, body.clone());
    assert_eq!(reply.code(), code, "{action} {body}");
    let error = &reply.json()["error"];
    assert_eq!(error["info"]["arguments"], json!(names), "{action} {body}");
}

#[test]
fn erasing_a_field_names_either_a_record_or_a_type() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"phone": "1"}));
    master.save("note/2", json!({"phone": "2"}));
    let body = json!({"record": "note/1", "type": "note", "field": "phone", "why": "asked"});
    refused(&master, "erase:field", body, (108, &["record", "type"]));
    let ids = json!({"ids": ["note/1", "note/2"]});
    let found = master.call("record:fetch", ids).result();
    assert_eq!(found[0]["phone"], "1");
    assert_eq!(found[1]["phone"], "2");
}

#[test]
fn a_setting_needs_its_value() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let rules = || master.call("schema:field_access:get", json!({})).result();
    let before = rules();
    assert_ne!(before["access"], json!([]));
    let misspelt = json!({"acess": []});
    refused(
        &master,
        "schema:field_access:update",
        misspelt,
        (108, &["access"]),
    );
    assert_eq!(rules(), before);
    let ada = Client::signed_up(&server, "ada");
    let misspelt = json!({"auth_id": ada.user, "disable": true});
    refused(&master, "auth:disable:set", misspelt, (108, &["disabled"]));
}

#[test]
fn what_v1_does_not_have_names_the_member_at_fault() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for (action, body, (code, name), message) in [
        ("audit:changes", json!({}), (108, "user"), "missing user"),
        (
            "audit:changes",
            json!({"user": 1}),
            (107, "user"),
            "user should be a string",
        ),
        (
            "history:list",
            json!({"record": "note/1", "limit": -1}),
            (107, "limit"),
            "limit should be a whole number that is not negative",
        ),
        (
            "log:read",
            json!({"kinds": "record"}),
            (107, "kinds"),
            "kinds should be a list",
        ),
        (
            "log:read",
            json!({"kinds": [1]}),
            (107, "kinds"),
            "kinds should be a list of strings",
        ),
        (
            "record:import",
            json!({"records": [{"_id": "note/1"}], "dry_run": "yes"}),
            (107, "dry_run"),
            "dry_run should be true or false",
        ),
    ] {
        let error = master.call(action, body.clone()).json()["error"].take();
        assert_eq!(error["code"], code, "{action} {body}: {error}");
        assert_eq!(error["message"], message, "{action} {body}");
        assert_eq!(error["info"]["arguments"], json!([name]), "{action} {body}");
    }
    // v1's own actions answer as v1 does.
    let body = json!({"records": [{"_id": "note/1"}], "atomic": "yes"});
    let ada = Client::signed_up(&server, "ada");
    let error = ada.call("record:save", body).json()["error"].take();
    let of_v1 = json!({
        "code": 107,
        "message": "fails to decode the request payload",
        "name": "BadRequest",
    });
    assert_eq!(error, of_v1);
}

#[test]
fn an_import_says_which_value_of_a_record_it_cannot_read() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let open = json!({"public": true, "level": "read"});
    let records = json!([
        {"_id": "note/1", "text": "read", "day": {"$type": "date", "$date": "2017-07-23"}},
        {"_id": "note/2", "_access": [open, {"level": "read"}]},
        {"_id": "note/3", "_access": [{"level": "all", "public": true}]},
        {"text": "no id"},
    ]);
    let body = json!({"records": records, "dry_run": true});
    let answer = master.call("record:import", body).result();
    let reasons = [0, 1, 2, 3].map(|place| answer[place]["reason"].as_str().unwrap());
    let expected = [
        "day: failed to parse $date = \"2017-07-23\"",
        "invalid _access entry: _access[1] needs user_id, role or public",
        "invalid _access entry: _access[0] needs the level \"read\" or \"write\"",
        "missing _id",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn a_database_is_never_taken_for_the_public_one() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    for name in [json!(["_private"]), json!(5), json!({}), json!(false)] {
        let records = json!([{"_id": "note/1", "text": "secret"}]);
        let save = json!({"database_id": name, "records": records});
        refused(&ada, "record:save", save, (107, &["database_id"]));
        let query = json!({"database_id": name, "record_type": "note"});
        refused(&ada, "record:query", query, (107, &["database_id"]));
    }
    let null = json!({"database_id": null, "record_type": "note"});
    assert_eq!(ada.call("record:query", null).result(), json!([]));
}

#[test]
fn queries_ignore_no_member_of_the_wrong_type() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for (name, value) in [
        ("limit", json!("1")),
        ("offset", json!("1")),
        ("count", json!("false")),
        ("include", json!([])),
    ] {
        let body = json!({"record_type": "note", name: value});
        refused(&master, "record:query", body, (108, &[name]));
    }
    let both = json!([
        "not",
        ["eq", {"$type": "keypath", "$val": "a"}, 1],
        ["eq", {"$type": "keypath", "$val": "b"}, 1],
    ]);
    let body = json!({"record_type": "note", "predicate": both});
    assert_eq!(master.call("record:query", body).code(), 108);
}

#[test]
fn a_query_string_is_read_in_full() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"a": 1}));
    master.save("note/1", json!({"a": 2}));
    let headers = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let get = |path: &str| {
        let url = format!("{}{path}", server.base_url);
        send("GET", &url, &headers, None).unwrap()
    };
    for path in [
        "/live/query?record_type=note&limit=1",
        "/live/query?record_type=note&record_type=other",
        "/log/search?format=csv&format=jsonl",
        "/log/search?stream=type/note&stream=type/other",
    ] {
        assert_eq!(get(path).status, 400, "{path}");
    }
    let kinds = get("/log/search?kinds=record.created&kinds=record.changed");
    let lines = String::from_utf8(kinds.bytes).unwrap();
    assert!(lines.contains("record.created"), "{lines}");
    let one = get("/log/search?kinds=record.created");
    let one = String::from_utf8(one.bytes).unwrap();
    assert!(lines.lines().count() > one.lines().count(), "{lines}");
}

#[test]
fn an_imported_lock_says_what_a_lock_says() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let user = |name: &str, member: &str, value: Json| {
        let user = json!({"id": name, "auth_data": {"username": name}, member: value});
        let reply = master
            .call("auth:import", json!({"users": [user]}))
            .result();
        reply[0]["info"]["arguments"].clone()
    };
    for lock in [
        json!([]),
        json!(["msg"]),
        json!({"expires": "2030-01-01T00:00:00Z"}),
    ] {
        assert_eq!(
            user("eve", "disabled", lock.clone()),
            json!(["disabled"]),
            "{lock}"
        );
    }
    let accounts = json!({"oauth/com.example": {"principal": "p", "profile": 5}});
    assert_eq!(user("eve", "accounts", accounts), json!(["accounts"]));
    let lock = json!({"message": "msg"});
    assert_eq!(user("eve", "disabled", lock), Json::Null);
}

#[test]
fn commands_name_the_flag_or_the_setting_at_fault() {
    let server = TestServer::start();
    let fails = |arguments: &[&str]| {
        let output = server.skytrail(&[arguments, &["--server", &server.base_url]].concat());
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = fails(&["log", "search", "--from", "yesterday"]);
    assert!(said.contains("--from \"yesterday\""), "{said}");
    let key = format!("MASTER_KEY={API_KEY}");
    let said = fails(&["--set", &key, "erase", "record", "note/1", "--why", "x"]);
    assert!(said.contains("is not the master key"), "{said}");
}
