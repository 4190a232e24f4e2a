//! What a request may hold: at the limit it is served, beyond it is refused by name.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::live::listener::Listener;
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
fn the_bytes_of_an_answers_records() {
    let server = TestServer::with(&[("MAX_PAGE_BYTES", "100000")]);
    let client = Client::signed_up(&server, "bytes");
    let ids: Vec<String> = (0..8).map(|n| format!("note/{n}")).collect();
    for id in &ids {
        client.save(id, json!({"text": "x".repeat(20_000)}));
    }
    let past = client.save("small/1", json!({}))["_updated_at"].clone();
    let sort = json!([[{"$type": "keypath", "$val": "text"}, "asc"]]);
    // In memory, since no database looks for it as it is.
    let pattern = "%x".repeat(100) + "%";
    let matching = json!(["like", {"$type": "keypath", "$val": "text"}, pattern]);
    let ask = |limit: Option<usize>, more: Json| {
        let mut body = json!({"record_type": "note"});
        if let Some(limit) = limit {
            body["limit"] = json!(limit);
        }
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        client.call("record:query", body)
    };
    let queries = [
        json!({}),
        json!({"sort": sort}),
        json!({"predicate": matching}),
        json!({"predicate": matching, "sort": sort}),
        json!({"as_of": past}),
    ];
    for query in queries {
        let found = ask(Some(4), query.clone()).result();
        assert_eq!(found.as_array().unwrap().len(), 4, "{query}");
        for limit in [Some(6), Some(1000), None] {
            let answer = ask(limit, query.clone());
            assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);
        }
    }
    let fetch = |ids: &[String], more: Json| {
        let mut body = json!({"ids": ids});
        if more.is_string() {
            body["as_of"] = more;
        }
        client.call("record:fetch", body)
    };
    for moment in [json!(null), past] {
        assert_eq!(fetch(&ids[..4], moment.clone()).status, 200);
        let answer = fetch(&ids, moment);
        assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);
    }
}

/// What a save reads and answers is as much as a fetch may bring, however little it sends.
#[test]
fn the_bytes_of_a_saves_answer() {
    let server = TestServer::with(&[("MAX_PAGE_BYTES", "100000")]);
    let client = Client::signed_up(&server, "bytes");
    let text = "x".repeat(20_000);
    for number in 0..8 {
        client.save(&format!("note/{number}"), json!({"text": text, "n": 0}));
    }
    let save = |ids: Vec<String>, is_atomic: bool| {
        let records = ids.iter().map(|id| json!({"_id": id, "n": 1}));
        let records: Vec<Json> = records.collect();
        client.call(
            "record:save",
            json!({"records": records, "atomic": is_atomic}),
        )
    };
    let one = |times: usize| vec!["note/0".to_owned(); times];
    let many = |count: usize| -> Vec<String> { (0..count).map(|n| format!("note/{n}")).collect() };
    for is_atomic in [false, true] {
        for ids in [one(6), many(6)] {
            let answer = save(ids, is_atomic);
            assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);
            let found = client.call("record:fetch", json!({"ids": ["note/0"]}));
            assert_eq!(found.result()[0]["n"], 0, "it was stored all the same");
        }
    }
    // What the copies bring together comes with each of them.
    let parts = (0..8).map(|n| json!({"_id": "wide/1", format!("part{n}"): "x".repeat(4000)}));
    let answer = client.call("record:save", json!({"records": parts.collect::<Vec<_>>()}));
    assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);

    for ids in [one(4), many(4)] {
        let saved = save(ids, false).result();
        let saved = saved.as_array().unwrap();
        assert_eq!(saved.len(), 4);
        assert!(saved.iter().all(|it| it["n"] == 1 && it["text"] == text));
    }
}

#[test]
fn the_bytes_of_what_is_fetched_again_and_deleted() {
    let server = TestServer::with(&[("MAX_PAGE_BYTES", "100000")]);
    let client = Client::signed_up(&server, "bytes");
    for number in 0..8 {
        let fields = json!({"text": "x".repeat(20_000)});
        client.save(&format!("note/{number}"), fields);
    }
    let again = |times: usize| json!({"ids": vec!["note/0"; times]});
    assert_eq!(client.call("record:fetch", again(4)).status, 200);
    let answer = client.call("record:fetch", again(6));
    assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);

    let ids = |range: std::ops::Range<usize>| -> Json {
        let ids = range.map(|n| format!("note/{n}"));
        json!({"ids": ids.collect::<Vec<_>>()})
    };
    let answer = client.call("record:delete", ids(0..8));
    assert_names(&answer, (400, 108), "MAX_PAGE_BYTES", 100_000);
    for range in [0..4, 4..8] {
        let deleted = client.call("record:delete", ids(range)).result();
        let deleted = deleted.as_array().unwrap();
        assert!(
            deleted.iter().all(|it| it["_type"] == "record"),
            "{deleted:?}"
        );
    }
}

/// A page of an export ends early, rather than to be refused.
#[test]
fn the_bytes_of_an_exports_page() {
    let server = TestServer::with(&[("MAX_PAGE_BYTES", "100000")]);
    let client = Client::signed_up(&server, "bytes");
    let master = Client::master(&server);
    for number in 0..40 {
        let fields = json!({"text": "x".repeat(20_000)});
        client.save(&format!("note/{number:02}"), fields);
    }
    let then = client.save("small/1", json!({}))["_updated_at"].clone();
    let all: Vec<String> = (0..40).map(|n| format!("note/{n:02}")).collect();
    let export = |moment: &Json| {
        let (mut found, mut after) = (Vec::new(), Json::Null);
        loop {
            let mut body = json!({"record_type": "note"});
            for (name, value) in [("as_of", moment), ("after", &after)] {
                if !value.is_null() {
                    body[name] = value.clone();
                }
            }
            let answer = master.call("record:export", body);
            let page = answer.result();
            let page = page.as_array().unwrap();
            assert!((1..=5).contains(&page.len()), "{} records", page.len());
            found.extend(page.iter().map(|it| it["_id"].as_str().unwrap().to_owned()));
            after = answer.json()["info"]["next"].clone();
            if after.is_null() {
                return found;
            }
        }
    };
    assert_eq!(export(&Json::Null), all);
    for ids in all[10..30].chunks(3) {
        client.call("record:delete", json!({"ids": ids})).result();
    }
    for ids in all[25..].chunks(3) {
        let records: Vec<Json> = ids.iter().map(|id| json!({"_id": id, "n": 1})).collect();
        client
            .call("record:save", json!({"records": records}))
            .result();
    }
    assert_eq!(export(&then), all);
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

fn path(field: &str) -> Json {
    json!({"$type": "keypath", "$val": field})
}

/// So many names that bring the same.
fn names_of(field: &str, count: usize) -> Json {
    (0..count)
        .map(|n| (format!("n{n}"), path(field)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The ways in which records are asked for.
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
    // A name that is given again is the same name.
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

/// By default so many are let in as pages of apps have.
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

/// What the settings allow at most, the store must be able to answer.
#[test]
fn the_longest_sorts_that_can_be_allowed_are_answered() {
    let server = TestServer::with(&[("MAX_QUERY_SORTS", "500")]);
    let client = Client::signed_up(&server, "large");
    client.save("note/1", json!({"n": 1}));
    let sort = vec![json!([path("n"), "asc"]); 500];
    let body = json!({"record_type": "note", "sort": sort});
    assert_eq!(client.call("record:query", body).result()[0]["n"], 1);
}

/// A record that many refer to comes with each of them, under each name.
#[test]
fn the_bytes_that_a_query_includes() {
    let server = TestServer::with(&[("MAX_INCLUDED_BYTES", "10000")]);
    let client = Client::signed_up(&server, "bytes");
    client.save("room/1", json!({"text": "x".repeat(1000)}));
    let room = json!({"$type": "ref", "$id": "room/1"});
    for number in 0..4 {
        client.save(&format!("note/{number}"), json!({"room": room}));
    }
    let asking = |include: Json| json!({"record_type": "note", "include": include});
    let query = |include: Json| client.call("record:query", asking(include));
    let found = query(names_of("room", 1)).result();
    for note in found.as_array().unwrap() {
        assert_eq!(note["_transient"]["n0"]["text"], "x".repeat(1000));
    }
    let is_refused =
        |answer: &Answer| assert_names(answer, (400, 108), "MAX_INCLUDED_BYTES", 10_000);
    is_refused(&query(names_of("room", 3)));
    let head = Client::master(&server).call("log:read", json!({"limit": 1, "backwards": true}));
    let position = head.json()["result"][0]["position"].clone();
    let mut then = asking(names_of("room", 3));
    then["as_of"] = position;
    is_refused(&client.call("record:query", then));
    // A constant and a name count like what a reference brings.
    assert_eq!(query(json!({"text": "x".repeat(2000)})).status, 200);
    is_refused(&query(json!({"text": "x".repeat(3000)})));
    is_refused(&query(json!({"x".repeat(3000): path("_owner_id")})));

    let mut listener = Listener::open(&server, &client);
    listener.ask("q", asking(names_of("room", 3)));
    listener.until("q", |it| it.error.is_some() || it.num_ready > 0);
    let error = listener.followed["q"].error.clone().unwrap();
    let limit = json!({"name": "MAX_INCLUDED_BYTES", "max": 10_000});
    assert_eq!(
        (&error["code"], &error["info"]["limit"]),
        (&json!(108), &limit)
    );
    assert_eq!(
        listener
            .subscribe("r", asking(names_of("room", 1)))
            .records
            .len(),
        4
    );
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
