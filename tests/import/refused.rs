//! Databases that cannot be imported, and what the error tells the operator to do.

use super::{Move, said};
use crate::support::server::TestServer;

#[test]
fn what_cannot_be_imported_is_said_at_once() {
    let moved = Move::with("");
    let failing = |arguments: &[&str]| {
        let done = moved.command(arguments).output().unwrap();
        assert!(!done.status.success());
        said(&done)
    };
    let said = failing(&["--app", "other"]);
    assert!(
        said.contains("no schema \"app_other\"") && said.contains("there are: myapp"),
        "{said}"
    );
    let said = failing(&[
        "--database-url",
        "postgres://nobody@localhost/x?host=/nowhere",
    ]);
    assert!(said.contains("the database cannot be reached"), "{said}");
    let said = failing(&["--assets-from", "/nowhere"]);
    assert!(said.contains("/nowhere is not a folder"), "{said}");
    let server = moved.serve(&[]);
    let said = failing(&[]);
    assert!(said.contains("another process"), "{said}");
    drop(server);
    moved.database.sql("DROP TABLE app_myapp._sso_oauth");
    let said = failing(&[]);
    assert!(said.contains("no table _sso_oauth"), "{said}");
}

#[test]
fn a_database_that_is_not_there_is_told_in_one_sentence() {
    let moved = Move::with("");
    let (name, url) = (moved.database.name(), moved.database.url());
    let nowhere = url.replace(name, "nodb");
    let mut command = moved.command(&["--dry-run"]);
    let refused = command
        .env("SKYGEAR_DATABASE_URL", &nowhere)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let told = said(&refused);
    assert!(told.contains("database \"nodb\" does not exist"), "{told}");
    assert!(!told.contains("at line"), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&refused.stdout),
        "",
        "nothing began"
    );

    let server = TestServer::start();
    let refused = server.skytrail(&["rebuild", "--to", &nowhere]);
    assert!(!refused.status.success());
    let told = said(&refused);
    assert!(!told.contains("at line"), "{told}");
    assert_eq!(told.matches("does not exist").count(), 1, "{told}");
    // It says where the database is, without the credentials.
    assert!(told.contains("/nodb"), "{told}");
}

#[test]
fn a_database_of_v1_is_told_from_others_and_where_it_goes() {
    let moved = Move::with("");
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    server.set("DATABASE_URL", &moved.database.url());
    let told = server.try_restart().unwrap_err();
    assert!(told.contains("looks like Skygear v1's"), "{told}");
    assert!(told.contains("SKYGEAR_DATABASE_URL"), "{told}");
    assert!(told.contains("skytrail import skygear"), "{told}");
}

/// The log accepts names and ids of any length, but a PostgreSQL store does not, and would stop for
/// good.
#[test]
fn ids_that_no_store_takes_are_refused() {
    let moved = Move::with("");
    let long = "x".repeat(1025);
    let record = |key: &str, owner: &str| {
        format!(
            "INSERT INTO app_myapp.query_all_t (_id, _database_id, _owner_id, _created_at, \
               _updated_at) VALUES ('{key}', '', '{owner}', now(), now());"
        )
    };
    let before = moved.import(&[]);
    moved.database.sql(&format!(
        "{}{} INSERT INTO app_myapp._auth (id) VALUES ('eve'), ('{long}'); \
         INSERT INTO app_myapp._follow (left_id, right_id) VALUES ('eve', '{long}'); \
         INSERT INTO app_myapp._device (id, auth_id, type, last_registered_at) \
           VALUES ('{long}', 'eve', 'ios', now())",
        record(&long, "eve"),
        record("owned", &long),
    ));
    let (table, told) = moved.import_and_report(&[]);
    let refused = |name: &str| table.of(name)[5] - before.of(name)[5];
    assert_eq!(refused("query_all_t"), 2, "{told:?}");
    for name in ["_auth", "_follow", "_device"] {
        assert_eq!(refused(name), 1, "{name} {told:?}");
    }
    let reasons = told.iter().map(|line| line["reason"].as_str().unwrap());
    let too_long = reasons.filter(|reason| reason.ends_with("can have at most 1024 bytes"));
    assert_eq!(too_long.count(), 5, "{told:?}");
}

#[test]
fn a_type_that_no_store_takes_is_refused_with_its_records() {
    let moved = Move::with(
        "CREATE TABLE wide_t (LIKE asset_in_record_t INCLUDING ALL); \
         DO $$ BEGIN FOR n IN 1..1520 LOOP \
           EXECUTE format('ALTER TABLE wide_t ADD COLUMN c%s double precision', n); \
         END LOOP; END $$; \
         INSERT INTO wide_t (_id, _database_id, _owner_id, _created_at, _updated_at) \
         VALUES ('empty', '', '', now(), now());",
    );
    let (table, left_out) = moved.import_and_report(&[]);
    assert_eq!(table.of("wide_t"), [1, 0, 0, 0, 0, 1]);
    let why = |id: &str| {
        let line = left_out.iter().find(|line| line["id"] == id);
        line.map_or(String::new(), |line| line["reason"].to_string())
    };
    assert!(why("wide_t").contains("1500"), "{left_out:?}");
    assert!(why("empty").contains("its type"), "{left_out:?}");
}
