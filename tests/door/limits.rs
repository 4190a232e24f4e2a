//! What a request may contain: up to the limit it is served; beyond, it is refused by name.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::live::listener::Listener;
use crate::support::client::{Answer, Client, send};
use crate::support::raw::RawClient;
use crate::support::server::{API_KEY, TestServer};

const TIMEOUT: Duration = Duration::from_secs(20);

fn post(server: &TestServer, body: &str) -> Answer {
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let url = format!("{}/record/query", server.base_url);
    send("POST", &url, &headers, Some(body.as_bytes().to_vec())).unwrap()
}

/// Fails unless the answer is an error that names the limit.
pub(super) fn assert_names(answer: &Answer, (status, code): (u16, i64), name: &str, max: u64) {
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
    let answer = client.answer(TIMEOUT).unwrap();
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
    let answer = client.answer(TIMEOUT).unwrap();
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

#[test]
fn the_entries_of_an_access_list() {
    let server = TestServer::start();
    let client = Client::signed_up(&server, "entries");
    let list = |count: usize| -> Json {
        let entry = |n| json!({"role": format!("r{n}"), "level": "read"});
        (0..count).map(entry).collect::<Vec<_>>().into()
    };
    let save = |count: usize| {
        let record = json!({"_id": "note/1", "_access": list(count)});
        client
            .call("record:save", json!({"records": [record]}))
            .result()[0]
            .clone()
    };
    let is_refused = |said: &Json| {
        let text = said.to_string();
        assert!(text.contains("more than 5000 entries"), "{text}");
    };
    let saved = save(5000);
    assert_eq!(saved["_access"].as_array().unwrap().len(), 5000);
    let refused = save(5001);
    assert_eq!(refused["code"], 108);
    is_refused(&refused);

    let master = Client::master(&server);
    let import = json!({"records": [{"_id": "note/2", "_access": list(5001)}]});
    is_refused(&master.call("record:import", import).json());
    let body = json!({"type": "note", "default_access": list(5001)});
    let refused = master.call("schema:default_access", body);
    assert_names(&refused, (400, 108), "MAX_LIST_ITEMS", 5000);
}

#[test]
fn the_length_of_a_pattern() {
    let server = TestServer::start();
    let client = Client::signed_up(&server, "length");
    client.save("note/1", json!({"text": "a".repeat(1 << 20)}));
    let ask = |operator: &str, pattern: &str| {
        let predicate = json!([operator, {"$type": "keypath", "$val": "text"}, pattern]);
        let body = json!({"record_type": "note", "predicate": predicate});
        client.call("record:query", body)
    };
    for operator in ["like", "ilike"] {
        for (pattern, num_found) in [
            ("%".to_owned() + &"a".repeat(4094) + "%", 1),
            ("%".to_owned() + &"_a".repeat(2047) + "%", 1),
            ("%a".repeat(2048), 1),
            ("%".to_owned() + &"a".repeat(4093) + "b%", 0),
            ("%".to_owned() + &"_a".repeat(2046) + "_b%", 0),
            ("%a".repeat(2047) + "%b", 0),
        ] {
            let found = ask(operator, &pattern).result();
            assert_eq!(found.as_array().unwrap().len(), num_found, "{pattern}");
        }
        let refused = ask(operator, &"a".repeat(4097));
        assert_eq!(
            (refused.status, refused.code()),
            (400, 108),
            "{}",
            refused.json()
        );
    }
}

#[test]
fn what_a_predicate_looks_at_in_a_record() {
    let server = TestServer::start();
    let client = Client::signed_up(&server, "looks");
    client.save("note/1", json!({"text": "a".repeat(1 << 20)}));
    let ask = |num_patterns: usize| {
        let pattern = |n: usize| format!("%{n}{}", "a%".repeat(100));
        let path = json!({"$type": "keypath", "$val": "text"});
        let parts = (0..num_patterns).map(|n| json!(["like", path, pattern(n)]));
        let predicate: Vec<Json> = [json!("or")].into_iter().chain(parts).collect();
        let body = json!({"record_type": "note", "predicate": predicate});
        client.call("record:query", body)
    };
    assert_eq!(ask(10).result(), json!([]));
    let refused = ask(300);
    assert_eq!(
        (refused.status, refused.code()),
        (400, 108),
        "{}",
        refused.json()
    );
}

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

pub(super) fn path(field: &str) -> Json {
    json!({"$type": "keypath", "$val": field})
}

/// Returns `count` names that include the same.
pub(super) fn names_of(field: &str, count: usize) -> Json {
    (0..count)
        .map(|n| (format!("n{n}"), path(field)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Asks for records in every way; returns each answer.
fn ask_every_way(server: &TestServer, client: &Client, query: &Json) -> Vec<(&'static str, Json)> {
    let mut said = Vec::new();
    for action in ["record:query", "record:export"] {
        let master = Client::master(server);
        let client = if action == "record:query" {
            client
        } else {
            &master
        };
        said.push((action, client.call(action, query.clone()).json()));
    }
    let mut listener = Listener::open(server, client);
    listener.ask("q", query.clone());
    listener.until("q", |it| it.error.is_some() || it.num_ready > 0);
    let error = listener.followed["q"].error.clone();
    said.push(("/live", json!({"error": error})));
    let headers = [
        ("X-Skygear-API-Key".to_owned(), API_KEY.to_owned()),
        (
            "X-Skygear-Access-Token".to_owned(),
            client.token.clone().unwrap(),
        ),
    ];
    let url = format!("{}/live/query", server.base_url);
    if error.is_some() {
        let body = query.to_string().into_bytes();
        let answer = send("POST", &url, &headers, Some(body)).unwrap();
        said.push(("/live/query", answer.json()));
    }
    said
}

#[test]
fn what_a_query_includes_and_sorts_by() {
    let settings = [("MAX_QUERY_INCLUDES", "3"), ("MAX_QUERY_SORTS", "2")];
    let server = TestServer::with(&settings);
    let client = Client::signed_up(&server, "names");
    client.save("note/1", json!({"n": 1}));
    let including =
        |count: usize| json!({"record_type": "note", "include": names_of("_owner_id", count)});
    for (way, said) in ask_every_way(&server, &client, &including(3)) {
        assert_eq!(said["error"], json!(null), "{way}: {said}");
    }
    let refused = ask_every_way(&server, &client, &including(4));
    assert_eq!(refused.len(), 4);
    for (way, said) in refused {
        let error = &said["error"];
        assert_eq!(error["code"], 108, "{way}: {said}");
        assert_eq!(error["info"]["arguments"], json!(["include"]), "{way}");
        let limit = json!({"name": "MAX_QUERY_INCLUDES", "max": 3});
        assert_eq!(error["info"]["limit"], limit, "{way}");
    }
    // A repeated name counts once.
    let n = path("_owner_id");
    let again = format!(
        r#"{{"record_type": "note", "include": {{"a": {n}, "b": {n}, "a": {n}, "c": {n}}}}}"#
    );
    assert_eq!(post(&server, &again).status, 200);

    let sorted = |count: usize| {
        let sort = vec![json!([path("n"), "asc"]); count];
        let body = json!({"record_type": "note", "sort": sort});
        client.call("record:query", body)
    };
    assert_eq!(sorted(2).status, 200);
    assert_names(&sorted(3), (400, 108), "MAX_QUERY_SORTS", 2);
}

/// The defaults permit as many as pages of apps need.
#[test]
fn includes_and_sorts_that_are_not_limited_otherwise() {
    let server = TestServer::start();
    let client = Client::signed_up(&server, "names");
    client.save("note/1", json!({"n": 1}));
    let ask = |names: usize, keys: usize| {
        let sort = vec![json!([path("n"), "asc"]); keys];
        let include = names_of("_owner_id", names);
        let body = json!({"record_type": "note", "include": include, "sort": sort});
        client.call("record:query", body)
    };
    let found = ask(20, 16).result();
    assert_eq!(found[0]["_transient"].as_object().unwrap().len(), 20);
    assert_names(&ask(21, 0), (400, 108), "MAX_QUERY_INCLUDES", 20);
    assert_names(&ask(0, 17), (400, 108), "MAX_QUERY_SORTS", 16);
}

/// The store must be able to answer the largest request that the settings permit.
#[test]
fn the_longest_sorts_that_can_be_allowed_are_answered() {
    let server = TestServer::with(&[("MAX_QUERY_SORTS", "500")]);
    let client = Client::signed_up(&server, "large");
    client.save("note/1", json!({"n": 1}));
    let sort = vec![json!([path("n"), "asc"]); 500];
    let body = json!({"record_type": "note", "sort": sort});
    assert_eq!(client.call("record:query", body).result()[0]["n"], 1);
}

#[test]
fn one_id_again_and_again() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let fetch = |times: usize| ada.call("record:fetch", json!({"ids": vec!["note/1"; times]}));
    let found = fetch(10).result();
    let found = found.as_array().unwrap();
    assert!(found.len() == 10 && found.iter().all(|it| it["n"] == 1));
    assert_eq!(fetch(11).code(), 108);
}
