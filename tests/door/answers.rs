//! How large an answer may be: up to the limit it is sent; beyond, the request is refused by name.

use serde_json::{Value as Json, json};

use super::limits::{assert_names, names_of, path};
use crate::live::listener::Listener;
use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

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
    // An answer that is silently cut would be taken for complete.
    for more in [json!({}), json!({"limit": 4}), json!({"limit": 1000})] {
        assert_names(&query(more), (400, 108), "MAX_PAGE_RECORDS", 3);
    }
    let answer = query(json!({"limit": 1, "count": true})).json();
    assert_eq!(answer["info"]["count"], 4);
}

/// The store must be able to answer the largest request that the settings permit.
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
    // Evaluated in memory, because the database does not evaluate this pattern.
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

/// A save may read and answer as much as a fetch may return, however little it sends.
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
    // Every copy in the answer has the fields of all copies.
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

/// A page of an export ends early instead of being refused.
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

/// A record that many refer to is included with each of them, under each name.
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
    // A constant and a name count like included records.
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
