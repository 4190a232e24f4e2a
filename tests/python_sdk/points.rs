//! Every extension point of the package, as clients see it.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{lambda, seen, server, start};
use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

#[test]
fn lambdas_take_arguments_values_and_errors_both_ways() {
    let server = server();
    let _plugin = start(&server);
    let client = Client::anonymous(&server);
    let date = json!({"$type": "date", "$date": "2024-06-11T09:30:00.123456Z"});
    let place = json!({"$type": "geo", "$lng": 1.5, "$lat": 2.5});
    let room = json!({"$type": "ref", "$id": "room/1"});
    let answer = lambda(&client, "demo:echo", json!([date, place, room, null, 1]));
    assert_eq!(answer["args"], json!([date, place, room, null, 1]));
    assert_eq!(
        answer["types"],
        json!(["datetime", "Location", "Reference", "NoneType", "int"])
    );
    let answer = lambda(&client, "demo:echo", json!({"who": "bob"}));
    assert_eq!(answer["kwargs"], json!({"who": "bob"}));
    assert_eq!(
        client.call("demo:echo", json!({})).result()["args"],
        json!([])
    );

    let refused = client.call("demo:fail", json!({"args": ["known"]}));
    assert_eq!((refused.status, refused.code()), (400, 108));
    assert_eq!(
        refused.json()["error"]["info"],
        json!({"arguments": ["mode"]})
    );
    let refused = client.call("demo:fail", json!({"args": ["unknown"]}));
    assert_eq!((refused.status, refused.code()), (500, 10000));
    let refused = client.call("demo:fail", json!({"args": [1, 2, 3]}));
    assert_eq!((refused.status, refused.code()), (400, 108));

    assert_eq!(client.call("demo:context", json!({})).code(), 101);
    let ada = Client::signed_up(&server, "ada");
    let context = lambda(&ada, "demo:context", json!([]));
    assert_eq!(context["user_id"].as_str(), ada.user.as_deref());
    assert_eq!(context["access_key_type"], "client");
    assert_eq!(context["thread"], "skytrail function");
}

#[test]
fn hooks_change_refuse_and_hear_of_records() {
    let server = server();
    let _plugin = start(&server);
    let ada = Client::signed_up(&server, "ada");
    let mut news = listen(&server, "notes");

    let note = ada.save(
        "note/1",
        json!({"title": " hi ", "room": {"$type": "ref", "$id": "room/1"}}),
    );
    assert_eq!(
        (&note["title"], &note["revision"]),
        (&json!("hi"), &json!(1))
    );
    let told = hear(&mut news);
    assert_eq!(told["id"], "note/1");
    // Python writes six digits of a second, the server as many as it needs.
    let digits = |time: &Json| {
        time.as_str()
            .unwrap()
            .trim_end_matches(['Z', '0'])
            .to_owned()
    };
    assert_eq!(digits(&told["at"]["$date"]), digits(&note["_updated_at"]));
    assert_eq!(ada.save("note/1", json!({"title": "two"}))["revision"], 2);
    let refused = save(&ada, json!({"_id": "note/2"}));
    assert_eq!(refused["code"], 108);
    assert_eq!(refused["info"], json!({"arguments": ["title"]}));

    let ben = Client::signed_up(&server, "ben");
    ada.save("note/3", json!({"title": "public"}));
    assert_eq!(
        save(&ben, json!({"_id": "note/3", "title": "mine"}))["code"],
        102
    );

    ada.save("note/4", json!({"title": "kept", "locked": true}));
    let kept = ada
        .call("record:delete", json!({"ids": ["note/4", "note/1"]}))
        .result();
    assert_eq!(
        (&kept[0]["code"], &kept[1]["_type"]),
        (&json!(108), &json!("record"))
    );
    eventually("the hook hears of the deletion", || {
        let events = seen(&server)["events"].clone();
        events
            .as_array()
            .unwrap()
            .contains(&json!("gone two"))
            .then_some(())
    });
}

#[test]
fn calls_nest_and_act_as_a_user() {
    let server = server();
    let _plugin = start(&server);
    let ada = Client::signed_up(&server, "ada");
    let written = lambda(&ada, "demo:write", json!([" from a thread "]));
    assert_eq!(written["revision"], 1);
    let id = written["id"].as_str().unwrap();
    assert_eq!(lambda(&ada, "demo:tidy", json!([id])), "from a thread");
    let gone = ada.call("record:fetch", json!({"ids": [id]})).result();
    assert_eq!(gone[0]["code"], 110);

    let room = json!({"$type": "ref", "$id": "room/1"});
    ada.save("note/b", json!({"title": "b", "room": room}));
    ada.save("note/a", json!({"title": "a", "room": room}));
    assert_eq!(
        lambda(&ada, "demo:notes", json!(["room/1"])),
        json!({"titles": ["a", "b", "first"], "count": 3})
    );
    let written = lambda(&ada, "demo:write_as", json!(["mine"]));
    assert_eq!(written.as_str(), ada.user.as_deref());
    assert_eq!(lambda(&ada, "demo:nest", json!([5])), 5);
    let too_deep = ada.call("demo:nest", json!({"args": [50]}));
    assert!(
        too_deep.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("bounce")
    );
}

#[test]
fn handlers_and_static_files_are_served() {
    let server = server();
    let _plugin = start(&server);
    let hello = get(&server, "/demo/hello?name=ada");
    assert_eq!((hello.status, text(&hello)), (200, "hello ada".to_owned()));
    let url = format!("{}/demo/hello", server.base_url);
    let posted = send("POST", &url, &[], Some(vec![254])).unwrap();
    assert_eq!(
        (posted.status, posted.bytes.as_slice()),
        (201, &[0, 255, 254][..])
    );
    assert_eq!(posted.header("X-Demo-Path"), Some("/demo/hello"));
    let cookies = posted
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.count(), 2);
    let tree = get(&server, "/demo/tree/a/b?x=1").json();
    assert_eq!(tree, json!({"path": "/demo/tree/a/b", "query": "x=1"}));
    let css = get(&server, "/static/demo/demo.css");
    assert_eq!(css.header("Content-Type"), Some("text/css"));
    assert_eq!(text(&css), "p { color: green }\n");
    assert_eq!(get(&server, "/static/demo/none.css").status, 404);
}

#[test]
fn a_provider_signs_up_signs_in_and_refuses() {
    let server = server();
    let _plugin = start(&server);
    let client = Client::anonymous(&server);
    let with = |pin: &str| json!({"provider": "demo.provider", "provider_auth_data": {"name": "ada", "pin": pin}});
    let refused = client.call("auth:login", with("0000"));
    assert_eq!((refused.status, refused.code()), (401, 105));
    let first = client.call("auth:signup", with("1234")).result();
    let second = client.call("auth:login", with("1234")).result();
    assert_eq!(first["user_id"], second["user_id"]);
    let ada = client.with_token(second["access_token"].as_str().unwrap());
    assert_eq!(
        lambda(&ada, "demo:context", json!([]))["user_id"],
        first["user_id"]
    );
}

#[test]
fn events_come_in_order_and_may_use_the_server() {
    let server = server();
    let _plugin = start(&server);
    let master = Client::master(&server);
    let first = master
        .call("record:fetch", json!({"ids": ["note/first"]}))
        .result();
    assert_eq!(
        (&first[0]["title"], &first[0]["revision"]),
        (&json!("first"), &json!(1))
    );
    assert_eq!(seen(&server)["events"][0], "before-plugins-ready of myapp");
    master.save("fresh/1", json!({"x": 1}));
    eventually("the plugin hears of the new type", || {
        let types = seen(&server)["types"].clone();
        types.as_array()?.contains(&json!("fresh")).then_some(())
    });
}

/// Listens to a channel; returns once it hears what is published there.
fn listen(server: &TestServer, channel: &str) -> Socket {
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let mut listener = Socket::open(server.address(), "/pubsub", &headers).unwrap();
    listener.send(&json!({"action": "sub", "channel": channel}).to_string());
    listener.send(&json!({"action": "pub", "channel": channel, "data": "probe"}).to_string());
    assert_eq!(hear(&mut listener), "probe");
    listener
}

fn hear(listener: &mut Socket) -> Json {
    match listener.receive(Duration::from_secs(20)) {
        Incoming::Text(text) => serde_json::from_str::<Json>(&text).unwrap()["data"].take(),
        other => panic!("{other:?}"),
    }
}

fn save(client: &Client, record: Json) -> Json {
    client
        .call("record:save", json!({"records": [record]}))
        .result()[0]
        .clone()
}

fn get(server: &TestServer, path: &str) -> Answer {
    send("GET", &format!("{}{path}", server.base_url), &[], None).unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.clone()).unwrap()
}
