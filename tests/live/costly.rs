//! Queries that would delay all others: the work per change is limited.

use serde_json::{Value as Json, json};

use super::listener::Listener;
use super::path;
use crate::support::client::Client;
use crate::support::server::TestServer;

/// The limit counts what a condition could look at, so the first part may settle it.
fn query(name: &str, num_likes: usize) -> Json {
    let other = json!(["like", path("text"), format!("%{name}%")]);
    let first = json!(["like", path("text"), "a%"]);
    let parts = [json!("or"), first].into_iter();
    let parts: Json = parts.chain(vec![other; num_likes - 1]).collect();
    json!({"record_type": "note", "predicate": parts, "desired_keys": ["n"]})
}

fn large() -> Json {
    json!({"text": "a".repeat(2 << 20), "n": 1})
}

/// Fails unless the query ended because it costs too much.
fn assert_ended(listener: &mut Listener, name: &str, most: &str) {
    listener.until(name, |it| it.error.is_some());
    let error = listener.followed[name].error.clone().unwrap();
    assert_eq!(error["code"], 108, "{error}");
    assert!(error["message"].as_str().unwrap().contains(most), "{error}");
    assert_eq!(error["info"]["arguments"], json!(["predicate"]), "{error}");
}

#[test]
fn one_that_looks_at_too_much_of_a_change_ends_and_the_others_go_on() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/0", json!({"text": "b", "n": 0}));
    let [mut hers, mut his] = [&ada, &ben].map(|client| Listener::open(&server, client));
    hers.subscribe("costly", query("x", 33));
    hers.subscribe("cheap", query("x", 31));
    his.subscribe("cheap", query("y", 2));
    ada.save("note/1", large());
    assert_ended(&mut hers, "costly", "64 MiB");
    for listener in [&mut hers, &mut his] {
        listener.until("cheap", |it| it.records.contains_key("note/1"));
    }
    // The same query continues from the result; only such changes cost too much.
    hers.followed.remove("costly");
    hers.subscribe("costly", query("x", 33));
    ada.save("note/1", json!({"text": "b"}));
    hers.until("costly", |it| it.records.is_empty());
}

#[test]
fn those_of_a_connection_that_look_at_too_much_together_end_and_the_others_go_on() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/0", json!({"text": "b", "n": 0}));
    let [mut hers, mut his] = [&ada, &ben].map(|client| Listener::open(&server, client));
    let names: Vec<String> = (0..8).map(|number| format!("q{number}")).collect();
    for name in &names {
        hers.subscribe(name, query(name, 31));
    }
    his.subscribe("q", query("other", 31));
    ada.save("note/1", large());
    for name in &names[4..] {
        assert_ended(&mut hers, name, "256 MiB");
    }
    for name in &names[..4] {
        hers.until(name, |it| it.records.contains_key("note/1"));
    }
    his.until("q", |it| it.records.contains_key("note/1"));
}

#[test]
fn one_that_is_too_large_to_be_kept_is_refused() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "a"}));
    let mut hers = Listener::open(&server, &ada);
    let query = |num_texts: usize| {
        let texts: Vec<String> = (0..num_texts).map(|n| format!("{n:08}")).collect();
        json!({"record_type": "note", "predicate": ["in", path("text"), texts]})
    };
    hers.subscribe("small", query(5000));
    hers.ask("large", query(7000));
    assert_ended(&mut hers, "large", "65536");
    assert!(hers.followed["small"].error.is_none());
}
