//! What a request may hold: at the limit it is served, beyond it is refused by name.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client, send};
use crate::support::raw::RawClient;
use crate::support::server::{API_KEY, TestServer};

const PATIENCE: Duration = Duration::from_secs(20);

fn post(server: &TestServer, body: &str) -> Answer {
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let url = format!("{}/record/query", server.base_url);
    send("POST", &url, &headers, Some(body.as_bytes().to_vec())).unwrap()
}

/// Fails unless the answer is an error that names the limit.
fn assert_names(answer: &Answer, (status, code): (u16, i64), name: &str, max: u64) {
    let body = answer.json();
    assert_eq!((answer.status, answer.code()), (status, code), "{body}");
    let limit = &body["error"]["info"]["limit"];
    assert_eq!(limit, &json!({"name": name, "max": max}), "{body}");
}

#[test]
fn the_bytes_of_a_body() {
    let server = TestServer::with(&[("MAX_BODY_BYTES", "2048")]);
    let body = |length: usize| {
        let bare = json!({"record_type": "note", "x": ""}).to_string();
        let x = "x".repeat(length - bare.len());
        json!({"record_type": "note", "x": x}).to_string()
    };
    assert_eq!(post(&server, &body(2048)).status, 200);
    let answer = post(&server, &body(2049));
    assert_names(&answer, (413, 107), "MAX_BODY_BYTES", 2048);
}

#[test]
fn a_body_that_is_announced_too_long_is_refused_before_it_comes() {
    let server = TestServer::start();
    let mut client = RawClient::connect(&server);
    client.send_head("/record/query", &["Content-Length: 104857600"]);
    let answer = client.answer(PATIENCE).unwrap();
    assert_names(&answer, (413, 107), "MAX_BODY_BYTES", 10 << 20);
}

#[test]
fn a_body_without_an_end_is_refused_on_the_way_and_not_kept() {
    let server = TestServer::start();
    let mut client = RawClient::connect(&server);
    client.send_head("/record/query", &["Transfer-Encoding: chunked"]);
    let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 100 << 20 && !client.has_answer() && client.send(&piece) {
        sent += piece.len();
    }
    let answer = client.answer(PATIENCE).unwrap();
    assert_names(&answer, (413, 107), "MAX_BODY_BYTES", 10 << 20);
    assert!(sent < 50 << 20, "sent {sent} bytes before it was refused");
}

#[test]
fn the_depth_of_a_body() {
    let server = TestServer::with(&[("MAX_JSON_DEPTH", "5")]);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"record_type": "note", "x": {open}{close}}}"#)
    };
    assert_eq!(post(&server, &nested(5)).status, 200);
    let answer = post(&server, &nested(6));
    assert_names(&answer, (400, 107), "MAX_JSON_DEPTH", 5);
}

#[test]
fn the_values_of_a_body() {
    let server = TestServer::with(&[("MAX_JSON_VALUES", "10")]);
    let body = |count: usize| {
        let x = vec!["{\"\":0}"; count].join(",");
        format!(r#"{{"record_type": "note", "x": [{x}]}}"#)
    };
    assert_eq!(post(&server, &body(4)).status, 200);
    let answer = post(&server, &body(5));
    assert_names(&answer, (400, 107), "MAX_JSON_VALUES", 10);
}

#[test]
fn as_many_values_as_fit_in_a_body_are_refused_by_default() {
    let server = TestServer::start();
    let x = vec!["{\"\":0}"; 1_000_000].join(",");
    let body = format!(r#"{{"record_type": "note", "x": [{x}]}}"#);
    let answer = post(&server, &body);
    assert_names(&answer, (400, 107), "MAX_JSON_VALUES", 200_000);
}

#[test]
fn the_items_of_a_list() {
    let server = TestServer::with(&[("MAX_LIST_ITEMS", "3")]);
    let client = Client::master(&server);
    let ids = |count: usize| -> Vec<String> { (0..count).map(|n| format!("note/{n}")).collect() };
    let records = |count: usize| -> Vec<Json> {
        ids(count)
            .into_iter()
            .map(|id| json!({"_id": id}))
            .collect()
    };
    type Body<'a> = &'a dyn Fn(usize) -> Json;
    let calls: [(&str, &str, Body<'_>); 6] = [
        (
            "record:save",
            "records",
            &|count| json!({"records": records(count)}),
        ),
        ("record:fetch", "ids", &|count| json!({"ids": ids(count)})),
        ("record:delete", "ids", &|count| json!({"ids": ids(count)})),
        (
            "role:default",
            "roles",
            &|count| json!({"roles": ids(count)}),
        ),
        ("role:get", "users", &|count| json!({"users": ids(count)})),
        (
            "pubsub:publish",
            "channels",
            &|count| json!({"channels": ids(count), "data": 1}),
        ),
    ];
    for (action, argument, body) in calls {
        let answer = client.call(action, body(3));
        assert_eq!(answer.status, 200, "{action}: {}", answer.json());
        let answer = client.call(action, body(4));
        assert_names(&answer, (400, 108), "MAX_LIST_ITEMS", 3);
        assert_eq!(
            answer.json()["error"]["info"]["arguments"],
            json!([argument])
        );
    }
}

#[test]
fn the_records_of_a_page() {
    let server = TestServer::with(&[("MAX_PAGE_RECORDS", "3")]);
    let client = Client::signed_up(&server, "page");
    for number in 0..4 {
        client.save(&format!("note/{number}"), json!({"n": number}));
    }
    let query = |more: Json| {
        let mut body = json!({"record_type": "note"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        client.call("record:query", body)
    };
    for more in [
        json!({"limit": 3}),
        json!({"limit": 1000, "offset": 1}),
        json!({"offset": 1}),
    ] {
        assert_eq!(query(more).result().as_array().unwrap().len(), 3);
    }
    // An answer that is cut without a word would pass for all there is.
    for more in [json!({}), json!({"limit": 4}), json!({"limit": 1000})] {
        assert_names(&query(more), (400, 108), "MAX_PAGE_RECORDS", 3);
    }
    let answer = query(json!({"limit": 1, "count": true})).json();
    assert_eq!(answer["info"]["count"], 4);
}

fn comparison(number: usize) -> Json {
    json!(["eq", {"$type": "keypath", "$val": "n"}, number])
}

fn nested(depth: usize) -> Json {
    (1..depth).fold(comparison(1), |inner, _| json!(["not", inner]))
}

fn chain(operator: &str, nodes: usize) -> Json {
    let mut predicate = vec![json!(operator)];
    predicate.extend((1..nodes).map(comparison));
    predicate.into()
}

#[test]
fn the_size_of_a_predicate() {
    let settings = [("MAX_PREDICATE_NODES", "6"), ("MAX_PREDICATE_DEPTH", "4")];
    let server = TestServer::with(&settings);
    let client = Client::signed_up(&server, "size");
    client.save("note/1", json!({"n": 1}));
    let ask = |predicate: Json| {
        let body = json!({"record_type": "note", "predicate": predicate});
        client.call("record:query", body)
    };
    assert_eq!(ask(chain("or", 6)).result().as_array().unwrap().len(), 1);
    assert_names(&ask(chain("or", 7)), (400, 108), "MAX_PREDICATE_NODES", 6);
    assert_eq!(ask(nested(4)).status, 200);
    assert_names(&ask(nested(5)), (400, 108), "MAX_PREDICATE_DEPTH", 4);
}

/// What the settings allow at most, the store must be able to answer.
#[test]
fn the_largest_predicates_that_can_be_allowed_are_answered() {
    let settings = [
        ("MAX_PREDICATE_NODES", "900"),
        ("MAX_PREDICATE_DEPTH", "100"),
        ("MAX_JSON_DEPTH", "120"),
    ];
    let server = TestServer::with(&settings);
    let client = Client::signed_up(&server, "large");
    client.save("note/1", json!({"n": 1}));
    for predicate in [chain("or", 900), chain("and", 900), nested(100)] {
        let body = json!({"record_type": "note", "predicate": predicate});
        let answer = client.call("record:query", body);
        assert_eq!(answer.status, 200, "{}", answer.json());
    }
}
