//! Live queries from outside.

mod costly;
mod erased;
mod history;
mod javascript;
mod let_go;
pub mod listener;
mod refused;
mod rights;
mod slow;
pub mod stream;

use serde_json::{Value as Json, json};

use self::listener::{Followed, Listener, TIMEOUT};
use self::stream::Stream;
use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn ids(followed: &Followed) -> Vec<&str> {
    followed.records.keys().map(String::as_str).collect()
}

#[test]
fn a_result_comes_and_then_what_happens_to_it() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"stars": 3, "text": "old"}));
    ada.save("note/2", json!({"stars": 1}));
    let mut listener = Listener::open(&server, &ada);
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let begun = listener.subscribe("q", query.clone()).clone();
    assert_eq!(begun.events, ["result", "ready"]);
    assert_eq!(ids(&begun), ["note/1"]);
    assert_eq!(
        begun.records["note/1"],
        ada.query("note", query["predicate"].clone())[0]
    );
    ada.save("note/2", json!({"stars": 4}));
    listener.until("q", |it| it.events.last().unwrap() == "enter");
    ada.save("note/1", json!({"text": "new"}));
    listener.until("q", |it| it.events.last().unwrap() == "change");
    assert_eq!(listener.followed["q"].records["note/1"]["text"], "new");
    ada.save("note/2", json!({"stars": 0}));
    listener.until("q", |it| it.events.last().unwrap() == "leave");
    ada.call("record:delete", json!({"ids": ["note/1"]}))
        .result();
    listener.until("q", |it| it.records.is_empty());
    let told = &listener.followed["q"].events;
    assert_eq!(told[2..], ["enter", "change", "leave", "leave"]);
    listener.unsubscribe("q");
    ada.save("note/3", json!({"stars": 5}));
    listener.subscribe("r", query);
    assert_eq!(ids(&listener.followed["r"]), ["note/3"]);
    assert_eq!(listener.followed["q"].events.last().unwrap(), "end");
}

#[test]
fn who_comes_back_is_told_what_he_missed() {
    let server = TestServer::with(&[("LIVE_MAX_MISSED", "50")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"stars": 3}));
    ada.save("note/2", json!({"stars": 3}));
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let mut listener = Listener::open(&server, &ada);
    let before = listener.subscribe("q", query.clone()).clone();
    drop(listener);
    ada.save("note/1", json!({"text": "changed"}));
    ada.save("note/2", json!({"stars": 0}));
    ada.save("note/3", json!({"stars": 7}));
    ada.save("other/1", json!({"stars": 7}));
    let resumed = |from: &Followed| {
        let mut query = query.clone();
        query["from"] = from.position.unwrap().into();
        query
    };
    let mut listener = Listener::open(&server, &ada);
    listener.followed.insert("q".into(), before.resumed());
    let after = listener.subscribe("q", resumed(&before)).clone();
    assert_eq!(after.events[2..], ["change", "leave", "enter", "ready"]);
    assert_eq!(ids(&after), ["note/1", "note/3"]);
    // Too much has happened since.
    drop(listener);
    for n in 0..60 {
        ada.save("other/1", json!({"n": n}));
    }
    let mut listener = Listener::open(&server, &ada);
    listener.followed.insert("q".into(), after.resumed());
    let anew = listener.subscribe("q", resumed(&after)).clone();
    assert_eq!(anew.events[6..], ["reset", "result", "ready"]);
    assert_eq!(ids(&anew), ["note/1", "note/3"]);
}

/// 500 events of the type are told to everybody, more of them only of a result of half that size.
#[test]
fn who_missed_much_more_than_the_result_gets_the_result() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let save = |n: u64| {
        let records: Vec<_> = (0..300)
            .map(|id| json!({"_id": format!("note/{id}"), "id": id, "n": n}))
            .collect();
        ada.call("record:save", json!({"records": records}))
            .result();
    };
    save(0);
    let few = json!({"record_type": "note", "predicate": ["lt", path("id"), 3]});
    let all = json!({"record_type": "note"});
    let asked = [("few", &few), ("all", &all)];
    let mut known: Vec<Followed> = Vec::new();
    let mut listener = Listener::open(&server, &ada);
    for (name, query) in asked {
        known.push(listener.subscribe(name, query.clone()).clone());
    }
    for (n, resets) in [(1, [0, 0]), (2, [1, 0]), (3, [1, 1])] {
        drop(listener);
        for n in 0..n {
            save(n + 1);
        }
        listener = Listener::open(&server, &ada);
        for (place, (name, query)) in asked.iter().enumerate() {
            let mut query = (*query).clone();
            query["from"] = known[place].position.unwrap().into();
            let before = known[place].resumed();
            let before_resets = before.num_resets;
            listener.followed.insert((*name).to_owned(), before);
            let after = listener.subscribe(name, query.clone()).clone();
            assert_eq!(
                after.num_resets - before_resets,
                resets[place],
                "{name} {n}"
            );
            query.as_object_mut().unwrap().remove("from");
            let fresh = listener.subscribe("fresh", query).clone();
            listener.unsubscribe("fresh");
            listener.followed.remove("fresh");
            assert_eq!(after.records, fresh.records, "{name} {n}");
            known[place] = after;
        }
    }
}

#[test]
fn what_cannot_be_followed_is_refused_in_plain_words() {
    let server = TestServer::with(&[("LIVE_MAX_SUBSCRIPTIONS", "2"), ("LIVE_MAX_RECORDS", "3")]);
    let ada = Client::signed_up(&server, "ada");
    let mut listener = Listener::open(&server, &ada);
    let mut refusal = |frame: Json| {
        listener.socket.send(&frame.to_string());
        let said = listener.next(TIMEOUT).unwrap();
        assert_eq!(said["event"], "error", "{said}");
        assert_eq!(
            said["id"].as_str(),
            frame["id"].as_str().filter(|id| !id.is_empty())
        );
        (
            said["error"]["code"].clone(),
            said["error"]["message"].as_str().unwrap().to_owned(),
        )
    };
    let subscribe = |more: Json| {
        let mut frame = json!({"action": "live:subscribe", "id": "q", "record_type": "note"});
        let more = more.as_object().unwrap().clone();
        frame.as_object_mut().unwrap().extend(more);
        frame
    };
    for (more, word) in [
        (json!({"limit": 3}), "limit"),
        (json!({"offset": 1}), "offset"),
        (json!({"sort": [[path("stars"), "asc"]]}), "sort"),
        (json!({"count": true}), "count"),
        (json!({"as_of": 3}), "as_of"),
        (json!({"from": "yesterday"}), "from"),
        (json!({"id": ""}), "id"),
        (json!({"action": "live:dance"}), "action"),
    ] {
        let (code, message) = refusal(subscribe(more));
        assert_eq!(code, 108);
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(refusal(json!([1])).0, 107);
    // Whatever is wrong, the error names the query.
    let deep = (0..80).fold(json!(["eq", 1, 1]), |inner, _| json!(["not", inner]));
    let (_, message) = refusal(subscribe(json!({"predicate": deep})));
    assert!(message.contains("nested"), "{message}");
    let (code, _) = refusal(subscribe(json!({"predicate": ["likes", path("a"), 1]})));
    assert_eq!(code, 108);
    let (code, _) = refusal(subscribe(json!({"database_id": "_union"})));
    assert_eq!(code, 101);
    ada.save("note/1", json!({"stars": 1}));
    let (code, _) = refusal(subscribe(json!({"predicate": ["eq", path("planets"), 1]})));
    assert_eq!(code, 120);
    listener.followed.clear();
    listener.subscribe("q", json!({"record_type": "note"}));
    listener.subscribe("r", json!({"record_type": "note"}));
    let mut refusal = |frame: Json| {
        listener.socket.send(&frame.to_string());
        let said = listener.next(TIMEOUT).unwrap();
        said["error"]["message"].as_str().unwrap().to_owned()
    };
    assert!(refusal(subscribe(json!({}))).contains("already"));
    assert!(refusal(subscribe(json!({"id": "s"}))).contains("at most 2"));
    // A result that grows too long ends.
    listener.followed.get_mut("q").unwrap().error = None;
    for n in 2..=4 {
        ada.save(&format!("note/{n}"), json!({"stars": 1}));
    }
    listener.followed.remove("s");
    listener.until("q", |it| it.error.is_some());
    let error = listener.followed["q"].error.clone().unwrap();
    assert_eq!(error["info"]["limit"]["name"], "LIVE_MAX_RECORDS");
}

#[test]
fn a_browser_follows_over_plain_http_and_comes_back() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"stars": 3}));
    let query = json!({"record_type": "note", "predicate": ["gt", path("stars"), 2]});
    let mut stream = Stream::get(&server, &ada, &query, None);
    stream.until(|it| it.num_ready == 1);
    ada.save("note/2", json!({"stars": 4}));
    stream.until(|it| ids(it) == ["note/1", "note/2"]);
    stream.close();
    ada.save("note/1", json!({"stars": 1}));
    ada.save("note/3", json!({"stars": 5}));
    let last_id = stream.last_id.clone();
    let back = Stream::get(&server, &ada, &query, last_id.as_deref());
    let mut back = back.after(&stream.followed);
    back.until(|it| it.num_ready == 2);
    assert_eq!(back.followed.events[3..], ["leave", "enter", "ready"]);
    assert_eq!(ids(&back.followed), ["note/2", "note/3"]);
    let mut posted = Stream::post(&server, &ada, &query);
    posted.until(|it| it.num_ready == 1);
    assert_eq!(posted.followed.records, back.followed.records);
    // An error is an answer like any other, or the last event.
    assert_eq!(
        Stream::get(&server, &ada, &json!({"record_type": ""}), None).status,
        400
    );
    assert_eq!(Stream::get(&server, &ada, &query, Some("x")).status, 400);
    assert_eq!(
        Stream::get(&server, &ada.with_token("bad"), &query, None).status,
        401
    );
    let wrong = json!({"record_type": "note", "predicate": ["eq", path("planets"), 1]});
    let mut wrong = Stream::get(&server, &ada, &wrong, None);
    wrong.until(|it| it.error.is_some());
    wrong.until_over();
    let body = json!({"auth_id": ada.user, "disabled": true});
    Client::master(&server)
        .call("auth:disable:set", body)
        .result();
    back.until(|it| it.error.is_some());
    assert_eq!(back.followed.error.clone().unwrap()["code"], 127);
    assert_eq!(Stream::get(&server, &ada, &query, None).status, 403);
}

#[test]
fn a_restart_is_an_absence_like_any_other() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"stars": 3}));
    let mut listener = Listener::open(&server, &ada);
    let query = json!({"record_type": "note"});
    let before = listener.subscribe("q", query.clone()).clone();
    ada.save("note/2", json!({"stars": 3}));
    assert!(server.terminate().success());
    listener.until_closed();
    let before = if listener.followed["q"].records.len() == 2 {
        listener.followed["q"].clone()
    } else {
        before
    };
    server.restart();
    let ada = ada.at(&server);
    ada.save("note/3", json!({"stars": 3}));
    let mut listener = Listener::open(&server, &ada);
    listener.followed.insert("q".into(), before.resumed());
    let mut query = query;
    query["from"] = before.position.into();
    let after = listener.subscribe("q", query.clone());
    assert_eq!(
        (after.num_resets, ids(after)),
        (0, vec!["note/1", "note/2", "note/3"])
    );
    // A position that never existed.
    query["from"] = 1_000_000.into();
    let after = listener.subscribe("r", query);
    assert_eq!((after.num_resets, after.records.len()), (1, 3));
}

/// Pages cannot ping as programs do.
#[test]
fn a_page_can_ask_whether_its_connection_works() {
    let server = TestServer::start();
    let key = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let mut socket = Socket::open(server.address(), "/live", &key).unwrap();
    for ping in [
        json!({"action": "live:ping"}),
        json!({"action": "live:ping", "id": 7}),
    ] {
        socket.send(&ping.to_string());
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("{:?}", socket.close_reason());
        };
        assert_eq!(text, json!({"event": "pong"}).to_string());
    }
}
