//! Values and types that are harder for PostgreSQL than for a file.

use serde_json::json;

use crate::devices::{register, subscribe};
use crate::sso::{SECRET, token_of};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres, shared};
use crate::support::server::TestServer;

fn keypath(name: &str) -> serde_json::Value {
    json!({"$type": "keypath", "$val": name})
}

/// Returns a text that cannot be compressed.
fn long_text(length: usize) -> String {
    let mut seed = 1_u64;
    let chars = (0..length).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap())
    });
    chars.collect()
}

pub(super) fn assert_no_faults(database: &Database<'_>) {
    let faults = database.sql("SELECT count(*) FROM app_myapp._faults");
    assert_eq!(faults, "0\n");
}

#[test]
fn fields_that_are_unique_together_take_long_values() {
    let database = shared().database(&[]);
    let url = database.url();
    let mut server = TestServer::with(&[
        ("DATABASE_URL", &url),
        ("AUTH_RECORD_KEYS", "username,(email,phone)"),
    ]);
    let ada = Client::signed_up(&server, "ada");
    let user = format!("user/{}", ada.user.as_ref().unwrap());
    ada.save(&user, json!({"email": long_text(4000), "phone": "1"}));
    assert_eq!(ada.query("user", json!(null)).len(), 1);
    // Whatever happens to the type later.
    ada.save(&user, json!({"nickname": "the first"}));
    let found = ada.query("user", json!(["eq", keypath("nickname"), "the first"]));
    assert_eq!(found.len(), 1);
    assert!(server.terminate().success());
    server.restart();
    let ada = ada.at(&server);
    assert_eq!(ada.query("user", json!(null)).len(), 1);
    assert_no_faults(&database);
}

#[test]
fn a_key_that_no_index_takes_is_refused() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save(&format!("note/{}", long_text(1024)), json!({"n": 1}));
    let body = json!({"records": [{"_id": format!("note/{}", long_text(1025)), "n": 1}]});
    let saved = ada.call("record:save", body).result();
    assert_eq!(saved[0]["code"], 108, "{saved}");
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    assert_no_faults(&database);
}

#[test]
fn a_field_that_comes_again_with_another_type_is_read() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"amount": "five"}));
    let read = || ada.query("note", json!(null)).first().unwrap()["amount"].clone();
    // On every connection of the pool.
    for _ in 0..20 {
        assert_eq!(read(), "five");
    }
    let body = json!({"record_type": "note", "item_name": "amount"});
    master.call("schema:delete", body).result();
    ada.save("note/1", json!({"amount": 5}));
    for _ in 0..20 {
        assert_eq!(read(), 5);
    }
}

#[test]
fn records_of_somebody_are_found_by_an_index() {
    // In a shared server, no query uses a new index before older transactions of others have ended.
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let url = database.url();
    let server = TestServer::with(&[("DATABASE_URL", &url)]);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let notes = (0..1000).map(|number| json!({"_id": format!("note/{number}"), "n": number}));
    let notes: Vec<_> = notes.collect();
    for some in notes.chunks(100) {
        bob.call("record:save", json!({"records": some})).result();
    }
    ada.save("note/of-ada", json!({"n": 1}));
    let setting = format!("DATABASE_URL={url}");
    let declared = server.skytrail(&["--set", &setting, "index", "declare", "note", "_owner"]);
    assert!(declared.status.success(), "{declared:?}");
    let mut number = 0;
    eventually("the index is used", || {
        // Indexes are built between writes.
        ada.save("other/1", json!({"n": number}));
        number += 1;
        let own = json!(["eq", keypath("_owner"), ada.user]);
        assert_eq!(ada.query("note", own).len(), 1);
        let used = database.sql(
            "SELECT coalesce(sum(idx_scan), 0) > 0 FROM pg_stat_user_indexes \
             WHERE schemaname = 'app_myapp' AND indexrelname LIKE '\\_query\\_%'",
        );
        (used == "t\n").then_some(())
    });
}

#[test]
fn who_acted_may_be_of_any_length() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    Client::master(&server).save("note/1", json!({"n": 1}));
    // Such an id may be in a log from before ids were limited.
    let put = format!(
        "SET skytrail.own = 'yes'; INSERT INTO app_myapp._actor (id, actor) VALUES (99, '{}')",
        long_text(6000)
    );
    database.sql(&put);
    let actors = "SELECT count(*) FROM app_myapp._actor WHERE length(actor) = 6000";
    assert_eq!(database.sql(actors), "1\n");
}

#[test]
fn names_that_no_index_takes_are_refused() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[
        ("DATABASE_URL", &database.url()),
        ("CUSTOM_TOKEN_SECRET", SECRET),
    ]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let long = long_text(6000);
    let note = json!([{"_id": "note/1", "n": 1}]);
    let user = json!({"_user_id": long, "records": note});
    let refused = [
        master.call("record:save", user),
        master.call(
            "record:query",
            json!({"record_type": "note", "database_id": long}),
        ),
        ada.call(
            "sso:custom_token:login",
            json!({"token": token_of(&long, json!({}))}),
        ),
        master.call("role:assign", json!({"roles": [long], "users": []})),
        master.call("role:default", json!({"roles": [long]})),
        master.call("role:import", json!({"roles": [{"name": long}]})),
        master.call("schema:access", json!({"type": long, "create_roles": []})),
        master.call(
            "schema:access",
            json!({"type": "note", "create_roles": [long]}),
        ),
        master.call("schema:create", json!({"record_types": {long.clone(): {}}})),
        master.call(
            "schema:create",
            json!({"record_types": {"note": {"fields": [{"name": long, "type": "number"}]}}}),
        ),
        master.call(
            "sso:oauth:signup",
            json!({"provider": "acme", "principal_id": long}),
        ),
    ];
    for (number, refused) in refused.iter().enumerate() {
        assert_eq!(refused.code(), 108, "{number}: {}", refused.json());
        let message = refused.json()["error"]["message"].clone();
        assert!(
            message.as_str().unwrap().contains("1024 bytes"),
            "{message}"
        );
    }
    for record in [
        json!({"_id": format!("{long}/1")}),
        json!({"_id": "note/1", long.clone(): 1}),
    ] {
        let saved = ada
            .call("record:save", json!({"records": [record]}))
            .result();
        assert_eq!(saved[0]["code"], 108, "{saved}");
    }
    let device = register(&ada, "token");
    let subscription = json!({"id": long, "type": "query", "query": {"record_type": "note"}});
    let body = json!({"device_id": device, "subscriptions": [subscription]});
    assert_eq!(ada.call("subscription:save", body).code(), 108);
    // The longest ids that are allowed, all together.
    let longest = long_text(1024);
    let user = json!({"_user_id": longest, "records": [{"_id": format!("{longest}/{longest}"), longest.clone(): 1}]});
    master.call("record:save", user).result();
    master
        .call("role:default", json!({"roles": [longest]}))
        .result();
    let token = token_of(&longest, json!({}));
    ada.call("sso:custom_token:login", json!({"token": token}))
        .result();
    subscribe(&ada, &device, &longest, json!({"record_type": longest}));
    assert_eq!(ada.query(&longest, json!(null)).len(), 1);
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(ada.at(&server).query(&longest, json!(null)).len(), 1);
    assert_no_faults(&database);
}
