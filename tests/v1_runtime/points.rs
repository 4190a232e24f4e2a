//! Every extension point of `tests/samples/demo_plugin.py`, as clients see it.

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::server::TestServer;

/// Exercises all of them on a server that is ready.
pub fn exercise(server: &TestServer) {
    lambdas(server);
    handlers(server);
    hooks(server);
    provider(server);
    events_and_timers(server);
}

/// Returns what the plugin's process has seen.
pub fn seen(server: &TestServer) -> Json {
    let client = Client::anonymous(server);
    client.call("demo:seen", json!({})).result()
}

pub fn await_ready(server: &TestServer) {
    let client = Client::anonymous(server);
    eventually("the plugin is ready", || {
        (client.call("demo:seen", json!({})).status == 200).then_some(())
    });
}

fn lambdas(server: &TestServer) {
    let client = Client::anonymous(server);
    let date = json!({"$type": "date", "$date": "2024-06-11T09:30:00.123456Z"});
    let echo = client.call("demo:echo", json!({"args": [1, "two", null]}));
    assert_eq!(echo.result()["args"], json!([1, "two", null]));
    let echo = client.call("demo:echo", json!({"args": {"who": "bob", "at": date}}));
    let echo = echo.result();
    assert_eq!(echo["kwargs"]["who"], "bob");
    assert_eq!(echo["kwargs"]["at"]["$type"], "date");
    assert_eq!(
        client.call("demo:echo", json!({})).result()["args"],
        json!([])
    );

    assert_eq!(client.call("demo:secret", json!({})).status, 401);
    let ada = Client::signed_up(server, "lambda-ada");
    let secret = ada.call("demo:secret", json!({})).result();
    assert_eq!(secret["user_id"].as_str(), ada.user.as_deref());

    let refused = client.call("demo:fail", json!({}));
    assert_eq!((refused.status, refused.code()), (400, 108));
    let error = refused.json()["error"].take();
    assert_eq!(error["info"], json!({"arguments": ["mode"]}));
    let refused = client.call("demo:fail", json!({"args": ["denied"]}));
    assert_eq!((refused.status, refused.code()), (403, 102));
    let refused = client.call("demo:fail", json!({"args": ["other"]}));
    assert_eq!((refused.status, refused.code()), (500, 10000));
    assert_eq!(refused.json()["error"]["message"], "a plain exception");

    // A save from within a lambda, whose hooks run in the same process.
    let records = json!([{"_id": "demo_note/called", "title": " called "}]);
    let call = json!({"args": ["record:save", {"records": records}]});
    let saved = ada.call("demo:call", call).result()["result"][0].take();
    assert_eq!(saved["title"], "called");
    assert_eq!(saved["revision"], 1);
    assert_eq!(saved["_ownerID"].as_str(), ada.user.as_deref());
}

fn handlers(server: &TestServer) {
    let get = |path: &str, headers: &[(String, String)]| {
        send("GET", &format!("{}{path}", server.base_url), headers, None).unwrap()
    };
    assert_eq!(get("/demo/hello?name=ada", &[]).bytes, b"hello ada");
    let url = format!("{}/demo/hello", server.base_url);
    let posted = send("POST", &url, &[], Some(vec![254])).unwrap();
    assert_eq!(posted.status, 201);
    assert_eq!(posted.bytes, [0, 255, 254]);
    assert_eq!(posted.header("X-Demo-Path"), Some("/demo/hello"));
    assert_eq!(
        posted.header("Content-Type"),
        Some("application/octet-stream")
    );
    assert_eq!(
        get("/demo/tree/a/b?x=1", &[]).json(),
        json!({"path": "/demo/tree/a/b", "method": "GET", "query": "x=1"})
    );
    assert_eq!(send("PUT", &url, &[], None).unwrap().code(), 117);
    assert_eq!(get("/demo/me", &[]).status, 401);
    let ada = Client::signed_up(server, "handler-ada");
    let token = (
        "X-Skygear-Access-Token".to_owned(),
        ada.token.clone().unwrap(),
    );
    assert_eq!(
        get("/demo/me", &[token]).json()["user_id"].as_str(),
        ada.user.as_deref()
    );
    let css = get("/static/demo/demo.css", &[]);
    assert_eq!(css.status, 200, "{:?}", css.json());
}

fn hooks(server: &TestServer) {
    let ada = Client::signed_up(server, "hook-ada");
    let before = seen(server);
    let note = save(&ada, json!({"_id": "demo_note/1", "title": " hi "}));
    assert_eq!(
        (&note["title"], &note["revision"]),
        (&json!("hi"), &json!(1))
    );
    let note = save(&ada, json!({"_id": "demo_note/1", "title": "again"}));
    assert_eq!(note["revision"], 2);
    let refused = save(&ada, json!({"_id": "demo_note/2"}));
    assert_eq!(refused["code"], 108);
    assert_eq!(refused["info"], json!({"arguments": ["title"]}));
    assert_eq!(
        save(&ada, json!({"_id": "demo_note/2", "title": "boom"}))["code"],
        10000
    );
    assert_eq!(fetch(&ada, "demo_note/2")["code"], 110);

    // Refused after it was stored.
    let late = save(&ada, json!({"_id": "demo_note/3", "title": "fail-after"}));
    assert_eq!(late["code"], 108);
    assert_eq!(fetch(&ada, "demo_note/3")["title"], "fail-after");

    save(&ada, json!({"_id": "demo_note/4", "title": "public"}));
    let access = fetch(&ada, "demo_note/4")["_access"].take();
    assert_eq!(access, json!([{"level": "read", "public": true}]));

    save(
        &ada,
        json!({"_id": "demo_note/5", "title": "kept", "locked": true}),
    );
    let ids = json!({"ids": ["demo_note/5", "demo_note/1"]});
    let deleted = ada.call("record:delete", ids).result();
    assert_eq!(deleted[0]["code"], 102);
    assert_eq!(deleted[1]["_type"], "record");
    let after = seen(server);
    let grown = |name: &str| after[name].as_i64().unwrap() - before[name].as_i64().unwrap();
    assert_eq!((grown("after_save"), grown("after_delete")), (5, 1));
    eventually("the asynchronous hook has run", || {
        (seen(server)["after_save_async"] == "5").then_some(())
    });
}

fn provider(server: &TestServer) {
    let client = Client::anonymous(server);
    let with = |pin: &str| {
        let shown = json!({"name": "ada", "pin": pin});
        json!({"provider": "demo.provider", "provider_auth_data": shown})
    };
    assert_eq!(client.call("auth:login", with("0000")).code(), 105);
    let made = client.call("auth:signup", with("1234")).result();
    let session = client.call("auth:login", with("1234")).result();
    assert_eq!(session["user_id"], made["user_id"]);
}

fn events_and_timers(server: &TestServer) {
    let seen_now = seen(server);
    assert_eq!(seen_now["app_name"], "myapp");
    let events = seen_now["events"].as_array().unwrap();
    let in_order = ["before-plugins-ready", "after-plugins-ready"];
    assert_eq!(events.get(..2).unwrap(), in_order);
    eventually("the plugin hears of its types", || {
        let types = seen(server)["record_types"].clone();
        types
            .as_array()?
            .contains(&json!("demo_note"))
            .then_some(())
    });
    eventually("the timer runs", || {
        (seen(server)["ticks"].as_i64().unwrap() >= 2).then_some(())
    });
}

fn save(client: &Client, record: Json) -> Json {
    first(&client.call("record:save", json!({"records": [record]})))
}

fn fetch(client: &Client, id: &str) -> Json {
    first(&client.call("record:fetch", json!({"ids": [id]})))
}

fn first(answer: &Answer) -> Json {
    answer.result()[0].take()
}
