//! Live queries while the database is away.

use serde_json::{Value as Json, json};

use super::{AWAY, settings};
use crate::live::listener::{Followed, Listener, TIMEOUT};
use crate::support::client::Client;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;
use crate::support::wire::Wire;

/// A query that needs no more than the events, and one that is run again when a room changes.
fn queries() -> [(&'static str, Json); 2] {
    let room = json!({"room": {"$type": "keypath", "$val": "room"}});
    [
        ("plain", json!({"record_type": "note"})),
        ("wide", json!({"record_type": "note", "include": room})),
    ]
}

fn ended(listener: &mut Listener, name: &str) -> Json {
    listener.until(name, |it| it.error.is_some());
    listener.followed[name].error.clone().unwrap()
}

#[test]
fn who_has_a_result_is_told_what_follows_when_the_database_is_back() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let server = TestServer::with(&settings(&database.url()));
    let ada = Client::signed_up(&server, "ada");
    ada.save("room/1", json!({"n": 1}));
    let fields = json!({"n": 1, "room": {"$type": "ref", "$id": "room/1"}});
    ada.save("note/1", fields.clone());
    ada.query("note", Json::Null);
    let mut stays = Listener::open(&server, &ada);
    let mut known = Vec::new();
    for (name, query) in queries() {
        known.push(stays.subscribe(name, query).resumed());
    }
    let mut returns = Listener::open(&server, &ada);
    let mut fresh = Listener::open(&server, &ada);
    postgres.crash();
    for ((name, mut query), known) in queries().into_iter().zip(known) {
        fresh.ask(name, query.clone());
        let error = ended(&mut fresh, name);
        assert_eq!(error["code"], AWAY, "{error}");
        assert_eq!(error["info"]["retry_after_ms"], 1000, "{error}");
        query["from"] = known.position.into();
        returns.followed.insert(name.to_owned(), known);
        returns.ask(name, query);
    }
    ada.save("note/1", json!({"n": 2}));
    ada.save("room/1", json!({"n": 2}));
    // Looked up, in vain, after these.
    fresh.ask("again", queries()[1].1.clone());
    assert_eq!(ended(&mut fresh, "again")["code"], AWAY);
    postgres.start_again();
    let has_both = |it: &Followed| it.error.is_none() && it.records["note/1"]["n"] == 2;
    for (name, query) in queries() {
        stays.until(name, has_both);
        returns.until(name, has_both);
        fresh.subscribe(&format!("{name} later"), query);
    }
    ada.save("note/2", fields);
    let has_new = |it: &Followed| it.records.contains_key("note/2");
    for (name, _) in queries() {
        stays.until(name, has_new);
        returns.until(name, has_new);
        fresh.until(&format!("{name} later"), has_new);
    }
    let room = &stays.followed["wide"].records["note/1"]["_transient"]["room"];
    assert_eq!(room["n"], 2);
}

/// Who asks is looked up in the database for every query.
#[test]
fn a_page_is_answered_that_its_connection_works_while_its_query_waits_for_the_database() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let wire = Wire::to(postgres.folder());
    let url = wire.url(database.name());
    let server = TestServer::with(&[("DATABASE_URL", &*url), ("HEAD_CACHE_BYTES", "0")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    ada.query("note", Json::Null);
    let mut listener = Listener::open(&server, &ada);
    wire.silence();
    listener.ask("q", json!({"record_type": "note"}));
    for message in [
        json!({"action": "live:unsubscribe", "id": "q"}),
        json!({"action": "live:ping"}),
    ] {
        listener.socket.send(&message.to_string());
    }
    assert_eq!(listener.next(TIMEOUT), Some(json!({"event": "pong"})));
    wire.speak();
    // The rest is done in the order in which it was sent.
    listener.until("q", |it| it.has_ended);
    assert_eq!(listener.followed["q"].error, None);
    listener.subscribe("q", json!({"record_type": "note"}));
}
