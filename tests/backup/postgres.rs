//! A restore whose records are in PostgreSQL: the database is built from the log.

use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use super::{World, refusal, said, text};
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
    let none = refusal(&rebuild(&world.server, &other, &["--verify"]));
    assert!(none.contains("there is no record store yet"), "{none}");
    let restored = start(&world, "restored", &other);
    let master = Client::master(&restored);
    assert_eq!(exported(&master, "note"), notes);
    assert_eq!(exported(&master, "user"), users);
    assert_eq!(titles(&other).lines().count(), 19);
    // It is the same app: users sign in, and the log continues.
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

/// An earlier state is restored while the database has later events. The start says what to do, and
/// doing so gives the earlier state.
#[test]
fn an_earlier_state_takes_the_place_of_a_later_one_when_it_is_told_to() {
    let database = shared().database(&[]);
    let mut world = World::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&world.server, "ada");
    ada.save("note/1", json!({"title": "early"}));
    let early = world.head();
    ada.save("note/1", json!({"title": "late"}));
    ada.save("note/2", json!({"title": "late, too"}));
    ada.query("note", json!(null));
    world.back_up(&[]);
    assert!(world.server.terminate().success());

    said(&world.try_restore("earlier", &["--until", &early.to_string()]));
    let folder = world.server.folder().join("earlier");
    world.server.set("DATA_DIR", text(&folder));
    refused_with_advice(&mut world.server, "ends at");
    compared_with_advice(&world.server, &database, "ends at");
    assert_eq!(titles(&database), "1|late\n2|late, too\n");

    // The log continues elsewhere, beyond the database's position: another history of the same log.
    world.server.set("DATABASE_URL", "");
    world.server.restart();
    let here = ada.at(&world.server);
    for number in 0..5 {
        here.save("note/1", json!({"title": format!("other {number}")}));
    }
    assert!(world.server.terminate().success());
    world.server.set("DATABASE_URL", &database.url());
    refused_with_advice(&mut world.server, "has a different event at");
    compared_with_advice(&world.server, &database, "has a different event at");

    let done = said(&rebuild(&world.server, &database, &[]));
    assert!(done.contains("has a different event at"), "{done}");
    assert!(
        !done.contains("run `skytrail rebuild`"),
        "it is running: {done}"
    );
    world.server.restart();
    assert_eq!(titles(&database), "1|other 4\n");
    let here = ada.at(&world.server);
    here.save("note/3", json!({"title": "goes on"}));
    assert_eq!(here.query("note", json!(null)).len(), 2);
    let old = database.sql("SELECT title FROM \"app_myapp~old\".note ORDER BY _id");
    assert_eq!(old, "late\nlate, too\n");
    said(&rebuild(&world.server, &database, &["--verify"]));
}

/// Fails unless the server refuses to start and gives advice.
fn refused_with_advice(server: &mut TestServer, why: &str) {
    let said = server.try_restart().unwrap_err();
    assert!(said.contains(why), "{said}");
    assert!(said.contains("run `skytrail rebuild`"), "{said}");
}

/// Fails unless a comparison gives the same advice.
fn compared_with_advice(server: &TestServer, database: &Database<'_>, why: &str) {
    let said = refusal(&rebuild(server, database, &["--verify"]));
    assert!(said.contains(why), "{said}");
    assert!(said.contains("run `skytrail rebuild`"), "{said}");
}

fn rebuild(server: &TestServer, database: &Database<'_>, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().arg("rebuild").args(more);
    command.env("DATA_DIR", server.data_dir());
    command
        .env("APP_NAME", "myapp")
        .env("DATABASE_URL", database.url());
    command.output().unwrap()
}
