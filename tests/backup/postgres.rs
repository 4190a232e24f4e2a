//! A restore whose records are in PostgreSQL: the database is made from the log.

use serde_json::{Value as Json, json};

use super::{World, said, text};
use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

/// Starts a server on a restored folder.
fn start(world: &World, folder: &str, database: &Database<'_>) -> TestServer {
    let folder = world.server.folder().join(folder);
    TestServer::with(&[
        ("DATA_DIR", text(&folder)),
        ("DATABASE_URL", &database.url()),
    ])
}

fn titles(database: &Database<'_>) -> String {
    database.sql("SELECT _id, title FROM app_myapp.note ORDER BY _id")
}

/// Returns everything that a server has of a type.
fn exported(client: &Client, record_type: &str) -> Json {
    let body = json!({"record_type": record_type, "limit": 1000});
    client.call("record:export", body).result()
}

#[test]
fn a_backup_is_restored_into_an_empty_database() {
    let (database, other) = (shared().database(&[]), shared().database(&[]));
    let world = World::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&world.server, "ada");
    for number in 0..20 {
        ada.save(
            &format!("note/{number}"),
            json!({"title": format!("t{number}")}),
        );
    }
    ada.save("note/3", json!({"title": "changed"}));
    ada.call("record:delete", json!({"ids": ["note/4"]}))
        .result();
    let master = world.master();
    let (notes, users) = (exported(&master, "note"), exported(&master, "user"));
    world.back_up(&[]);
    ada.save("note/later", json!({"title": "not in the backup"}));

    said(&world.try_restore("restored", &[]));
    let restored = start(&world, "restored", &other);
    let master = Client::master(&restored);
    assert_eq!(exported(&master, "note"), notes);
    assert_eq!(exported(&master, "user"), users);
    assert_eq!(titles(&other).lines().count(), 19);
    // It is the same app: users sign in, and the log goes on.
    let login = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    assert_eq!(
        Client::anonymous(&restored)
            .call("auth:login", login)
            .status,
        200
    );
    let ada = ada.at(&restored);
    ada.save("note/new", json!({"title": "goes on"}));
    assert_eq!(ada.query("note", json!(null)).len(), 20);
    assert!(titles(&other).contains("new|goes on"));
    assert_eq!(
        titles(&database).lines().count(),
        20,
        "the other is as it was"
    );
}
