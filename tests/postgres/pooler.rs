//! A pooler between the server and its database, or settings of its role there, do not change how
//! its connections work.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::spawn;

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

/// Forwards connections to the server whose socket is in a folder, without their startup `options`,
/// as poolers do; returns the port. Ends with the test's process.
fn without_options(folder: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = folder.join(".s.PGSQL.5432");
    spawn(move || {
        for from in listener.incoming().map_while(Result::ok) {
            let _ = pass(from, socket.clone());
        }
    });
    port
}

fn pass(mut from: TcpStream, socket: PathBuf) -> std::io::Result<()> {
    let mut to = UnixStream::connect(socket)?;
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    from.read_exact(&mut body)?;
    let (version, pairs) = body.split_at(4);
    let pairs: Vec<&[u8]> = pairs.split(|byte| *byte == 0).collect();
    let mut kept = version.to_vec();
    for pair in pairs.chunks(2) {
        match pair {
            [name, value] if !name.is_empty() && *name != b"options" => {
                kept.extend_from_slice(&[*name, b"\0", *value, b"\0"].concat());
            }
            _ => {}
        }
    }
    kept.push(0);
    let length = u32::try_from(kept.len() + 4).map_err(std::io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], &kept].concat())?;
    let (mut back, mut answer) = (from.try_clone()?, to.try_clone()?);
    spawn(move || {
        let _ = copy(&mut answer, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

#[test]
fn a_way_that_loses_what_connections_say_of_themselves_is_refused() {
    let database = shared().database(&[]);
    let port = without_options(database.folder());
    let name = database.name();
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    let url = format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable");
    server.set("DATABASE_URL", &url);
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("startup options"), "{said}");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname='app_myapp'";
    assert_eq!(database.sql(made), "0\n");
}

/// Whatever is set for the server's role, it writes and answers in the same way.
#[test]
fn settings_of_the_role_change_nothing() {
    let database = shared().database(&[]);
    let name = database.name();
    for setting in [
        "default_transaction_isolation TO serializable",
        "default_transaction_deferrable TO on",
        "lock_timeout TO '10ms'",
        "idle_in_transaction_session_timeout TO '10ms'",
        "statement_timeout TO '300ms'",
        "standard_conforming_strings TO off",
        "\"DateStyle\" TO 'German'",
        "\"TimeZone\" TO 'Asia/Kolkata'",
        "\"IntervalStyle\" TO sql_standard",
        "extra_float_digits TO -15",
        "bytea_output TO escape",
        "transform_null_equals TO on",
        "quote_all_identifiers TO on",
        "search_path TO pg_catalog",
        "row_security TO off",
    ] {
        database.sql(&format!("ALTER DATABASE {name} SET {setting}"));
    }
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    let date = json!({"$type": "date", "$date": "2026-02-03T04:05:06.789012Z"});
    let exact = 0.1 + 0.2;
    let fields = json!({"text": "50% off\\", "n": exact, "at": date, "m": 0});
    ada.save("note/1", fields);
    let keypath = |field: &str| json!({"$type": "keypath", "$val": field});
    for condition in [
        json!(["like", keypath("text"), "50\\%%"]),
        json!(["ilike", keypath("text"), "%OFF\\\\"]),
        json!(["eq", keypath("n"), exact]),
        json!(["eq", keypath("at"), date]),
        json!(["not", ["eq", keypath("m"), null]]),
    ] {
        assert_eq!(ada.query("note", condition.clone()).len(), 1, "{condition}");
    }

    // Another program changes the row that the server is about to change.
    for round in 1..=5 {
        let change = format!(
            "SET lock_timeout TO 0; SET statement_timeout TO 0; \
             SET idle_in_transaction_session_timeout TO 0; \
             BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE app_myapp.note SET m = {round}"
        );
        let mut other = shared().session(("postgres", name), &change);
        ada.save("note/1", json!({"n": round}));
        let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type='Lock' \
                       AND datname=current_database()";
        eventually("the server waits for the row", || {
            (database.sql(waiting) == "t\n").then_some(())
        });
        other.sql("COMMIT");
        eventually("both changes are in the log", || {
            let note = &ada.query("note", json!(null))[0];
            (note["n"] == round && note["m"] == round).then_some(())
        });
    }
    let kept = database.sql("SELECT n, m, at FROM app_myapp.note");
    assert_eq!(kept, "5|5|03.02.2026 04:05:06.789012\n");
    let said = server.output();
    assert!(!said.contains("could not serialize"), "{said}");
}

/// The writing connection waits as long as needed, whatever is set for the role or the database.
#[test]
fn what_limits_the_statements_of_others_does_not_limit_the_one_who_writes() {
    let database = shared().database(&[]);
    let name = database.name();
    database.sql(&format!(
        "ALTER DATABASE {name} SET statement_timeout TO '300ms'"
    ));
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let lock = "SET statement_timeout TO 0; BEGIN; LOCK TABLE app_myapp.note IN EXCLUSIVE MODE";
    let holder = shared().session(("postgres", name), lock);
    ada.save("note/2", json!({"n": 2}));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type='Lock' AND \
                   datname=current_database() AND now()-query_start > interval '400 milliseconds'";
    eventually("the one who writes waits on", || {
        (database.sql(waiting) == "1\n").then_some(())
    });
    drop(holder);
    assert_eq!(ada.query("note", json!(null)).len(), 2);
}
