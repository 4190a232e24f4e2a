//! Values that name files: refused when the file does not exist, complete wherever they are sent.

use std::process::Command;

use serde_json::{Value as Json, json};

use super::{announce, ask, path_of, upload};
use crate::support::client::Client;
use crate::support::server::TestServer;

fn named(asset: &Json) -> Json {
    json!({"$type": "asset", "$name": asset["$name"]})
}

/// Fails unless a value names a file with its type and a working address.
fn check(server: &TestServer, value: &Json, asset: &Json, text: &str) {
    assert_eq!(value["$type"], "asset", "{value}");
    assert_eq!(value["$name"], asset["$name"]);
    assert_eq!(value["$content_type"], asset["$content_type"], "{value}");
    let found = ask(server, "GET", &path_of(value), &[]);
    assert_eq!(found.bytes, text.as_bytes());
}

#[test]
fn files_are_complete_wherever_they_go_out() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let asset = upload(&server, "a.png", "image/png", "picture");
    let value = named(&asset);
    let nested = json!({"list": [value, 1], "text": "t"});
    let user = format!("user/{}", ada.user.clone().unwrap());
    ada.save(&user, json!({"face": value}));
    let saved = ada.save("note/1", json!({"pic": value, "more": nested}));
    let parent = json!({"$type": "ref", "$id": "note/1"});
    ada.save("comment/1", json!({"note": parent}));

    let fetched = ada
        .call("record:fetch", json!({"ids": ["note/1"]}))
        .result();
    let queried = ada.query("note", json!([]));
    let include = json!({"note": {"$type": "keypath", "$val": "note"}});
    let comments = ada.call(
        "record:query",
        json!({"record_type": "comment", "include": include}),
    );
    let comments = comments.result();
    for record in [
        &saved,
        &fetched[0],
        &queried[0],
        &comments[0]["_transient"]["note"],
    ] {
        check(&server, &record["pic"], &asset, "picture");
        check(&server, &record["more"]["list"][0], &asset, "picture");
        assert_eq!(record["more"]["list"][1], 1);
    }
    let me = ada.call("me", json!({})).result();
    check(&server, &me["profile"]["face"], &asset, "picture");
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    let logged_in = ada.call("auth:login", body).result();
    check(&server, &logged_in["profile"]["face"], &asset, "picture");
    let body =
        json!({"auth_data": {"username": "ben"}, "password": "p", "profile": {"face": value}});
    let signed_up = ada.call("auth:signup", body).result();
    check(&server, &signed_up["profile"]["face"], &asset, "picture");
}

#[test]
fn only_the_name_of_a_file_is_taken() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let asset = upload(&server, "a.png", "image/png", "picture");
    let mut lie = named(&asset);
    lie["$content_type"] = json!("text/html");
    lie["$url"] = json!("http://example.com/evil");
    let saved = ada.save("note/1", json!({"pic": lie, "more": {"pic": lie}}));
    for value in [&saved["pic"], &saved["more"]["pic"]] {
        check(&server, value, &asset, "picture");
    }
    // Saving the value as received changes nothing, and no address is stored.
    let again = ada.save("note/1", json!({"pic": saved["pic"]}));
    check(&server, &again["pic"], &asset, "picture");
    assert!(server.terminate().success());
    let history = skytrail(&server, &["log", "show", "record/note/1"]);
    assert!(history.contains("image/png"), "{history}");
    for secret in ["example.com", "signature=", "text/html"] {
        assert!(!history.contains(secret), "{history}");
    }
    let said = skytrail(&server, &["rebuild", "--verify"]);
    println!("{said}");
}

fn skytrail(server: &TestServer, arguments: &[&str]) -> String {
    let ended = Command::new(env!("CARGO_BIN_EXE_skytrail"))
        .args(arguments)
        .env("DATA_DIR", server.data_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {said}{complaint}");
    said
}

#[test]
fn a_file_that_is_not_known_is_refused() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let (asset, _) = announce(&ada, "a.txt", "text/plain", 1);
    // Announcing it is enough.
    ada.save("note/1", json!({"file": named(&asset)}));
    let unknown = json!({"$type": "asset", "$name": "unknown", "$content_type": "text/plain"});
    let records = json!([{"_id": "note/2", "file": unknown}, {"_id": "note/3", "n": 1}]);
    let result = ada
        .call("record:save", json!({"records": records}))
        .result();
    assert_eq!(result[0]["code"], 10000, "{result}");
    assert_eq!(result[1]["_type"], "record");
    let body = json!({"records": records, "atomic": true});
    let answer = ada.call("record:save", body);
    assert_eq!((answer.status, answer.code()), (409, 115));
    let profile = json!({"face": unknown});
    let body = json!({"auth_data": {"username": "ben"}, "password": "p", "profile": profile});
    assert_eq!(ada.call("auth:signup", body).code(), 10000);
}

/// JSON may contain any name; an address would give access to any file of that name.
#[test]
fn a_file_that_is_not_known_has_no_address() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let asset = upload(&server, "a.png", "image/png", "picture");
    let longer = format!("{}1", asset["$name"].as_str().unwrap());
    for name in ["/", "keys.json", &longer] {
        let lie = json!({"$type": "asset", "$name": name, "$content_type": "image/png",
            "$url": "http://example.com/evil"});
        let saved = ada.save("note/1", json!({"more": [lie]}));
        let found = ada.query("note", json!([]));
        for record in [&saved, &found[0]] {
            let value = &record["more"][0];
            assert_eq!(value["$name"], name);
            assert_eq!(value.get("$url"), None, "{value}");
        }
    }
}

#[test]
fn what_is_known_of_files_survives() {
    let mut server = TestServer::start();
    let asset = upload(&server, "a.png", "image/png", "picture");
    server.kill();
    server.restart();
    let ada = Client::signed_up(&server, "ada");
    let saved = ada.save("note/1", json!({"pic": named(&asset)}));
    check(&server, &saved["pic"], &asset, "picture");
    assert!(server.terminate().success());
    std::fs::remove_file(server.data_dir().join("records.sqlite")).unwrap();
    server.restart();
    let fetched = ada
        .at(&server)
        .call("record:fetch", json!({"ids": ["note/1"]}));
    check(&server, &fetched.result()[0]["pic"], &asset, "picture");
}
