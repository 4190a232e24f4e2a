//! What a plugin's SQL sees when the plugin is asked something: everything that was saved before.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::plugin::hook;
use crate::plugin::http::ready;
use crate::plugin::http_plugin::{HttpPlugin, Reaction};
use crate::plugin::worker::{Serving, Worker};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres, Session, shared};
use crate::support::server::TestServer;

/// How often a client asks immediately after it has saved.
const ROUNDS: u32 = 20;

fn session(database: &Database<'_>) -> Session {
    database.session("SET search_path TO app_myapp")
}

/// Answers a request as a plugin that looks only at the tables.
fn answer(session: &mut Session, request: &Json) -> Result<Json, Json> {
    if request["kind"] == "hook" {
        let record = &request["param"]["record"];
        let chat = record["chat"].as_str().unwrap();
        let sql = format!("SELECT count(*) FROM member WHERE chat = '{chat}' AND role = 'admin'");
        return match session.sql(&sql).join("").as_str() {
            "1" => Err(json!({"code": 108, "message": "the last admin stays"})),
            _ => Ok(record.clone()),
        };
    }
    let args = &request["param"]["args"];
    let (table, id) = (args[0].as_str().unwrap(), args[1].as_str().unwrap());
    let sql = format!("SELECT count(*) FROM \"{table}\" WHERE _id = '{id}'");
    Ok(json!(session.sql(&sql) == ["1"]))
}

fn points() -> Json {
    json!({"hook": [hook("member", "beforeDelete")], "op": [{"name": "has"}]})
}

fn over_websocket(database: &Database<'_>) -> (TestServer, Serving) {
    let settings = [("DATABASE_URL", &*database.url()), ("PLUGINS", "TEST")];
    let server = TestServer::with(&settings);
    let worker = Worker::ready(&server, &json!({}), &points());
    let mut session = session(database);
    let serving = worker.serve(move |worker, request| match answer(&mut session, request) {
        Ok(result) => worker.answer(request, &result),
        Err(error) => worker.refuse(request, &error),
    });
    (server, serving)
}

fn over_http(database: &Database<'_>) -> (TestServer, HttpPlugin) {
    // The session begins before the schema exists.
    let session = Mutex::new(session(database));
    let plugin = HttpPlugin::start(points(), move |request| {
        Reaction::Json(match answer(&mut session.lock().unwrap(), request) {
            Ok(result) => json!({"result": result}),
            Err(error) => json!({"error": error}),
        })
    });
    let server = TestServer::with(&[
        ("DATABASE_URL", &database.url()),
        ("PLUGINS", "TEST"),
        ("TEST_TRANSPORT", "http"),
        ("TEST_PATH", &plugin.url()),
    ]);
    ready(&server);
    (server, plugin)
}

/// Saves the only admin of a chat and deletes them again, many times; each deletion is refused.
fn the_last_admin_stays(server: &TestServer) {
    let ada = Client::signed_up(server, "ada");
    let deleted = (0..ROUNDS).filter(|n| {
        let id = format!("member/{n}");
        ada.save(&id, json!({"chat": n.to_string(), "role": "admin"}));
        let answer = ada.call("record:delete", json!({"ids": [id]}));
        answer.result()[0]["code"] != 108
    });
    assert_eq!(deleted.collect::<Vec<_>>(), [0; 0], "are gone");
}

#[test]
fn a_hook_over_a_websocket_counts_what_was_saved_before() {
    let database = shared().database(&[]);
    let (server, _serving) = over_websocket(&database);
    the_last_admin_stays(&server);
}

#[test]
fn a_hook_over_http_counts_what_was_saved_before() {
    let database = shared().database(&[]);
    let (server, _plugin) = over_http(&database);
    the_last_admin_stays(&server);
}

#[test]
fn a_lambda_finds_what_its_client_has_saved() {
    let database = shared().database(&[]);
    let (server, _serving) = over_websocket(&database);
    let ada = Client::signed_up(&server, "ada");
    let missing = (0..ROUNDS).filter(|n| {
        // Every other record is the first of its type.
        let table = match n % 2 {
            0 => "note".to_owned(),
            _ => format!("fresh_{n}"),
        };
        ada.save(&format!("{table}/{n}"), json!({"n": n}));
        let found = ada.call("has", json!({"args": [table, n.to_string()]}));
        found.result() != true
    });
    assert_eq!(missing.collect::<Vec<_>>(), [0; 0], "were not found");
    // A user, too.
    let bob = Client::signed_up(&server, "bob");
    let found = bob.call("has", json!({"args": ["user", bob.user]}));
    assert_eq!(found.result(), true);
}

/// The plugin's own transaction has a row that the store must change before anything else.
#[test]
fn a_store_that_is_held_up_costs_the_wait_once() {
    const CALLS: u32 = 12;
    // Erasures in any database of its server wait for the transaction.
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let (server, _serving) = over_websocket(&database);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    // What is in memory can be saved while the store is held up.
    master.save("note/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let mut locking = session(&database);
    locking.sql("BEGIN; UPDATE note SET n = 2");
    // Waits in vain, for two seconds.
    master.save("note/1", json!({"n": 3}));
    let has = |id: &str| ada.call("has", json!({"args": ["note", id]})).result();
    let began = Instant::now();
    for n in 4..4 + CALLS {
        assert_eq!(has("1"), true);
        // As the plugin does within its transaction.
        master.save("note/1", json!({"n": n}));
    }
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(12),
        "{CALLS} calls took {took:?}"
    );
    locking.sql("COMMIT");
    eventually("the store has everything", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then_some(())
    });
    for n in 20..20 + CALLS {
        ada.save(&format!("note/{n}"), json!({"n": n}));
        assert_eq!(has(&n.to_string()), true);
    }
}
