//! Exports: of one moment, which may be past, and never over an earlier file.

use serde_json::{Value as Json, json};

use super::records::{export, file, head, import, run};
use super::said;
use crate::support::assert_private;
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn an_export_is_of_one_moment() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let notes: Vec<Json> = (0..2500)
        .map(|n| json!({"_id": format!("note/{n:04}"), "n": n}))
        .collect();
    for notes in notes.chunks(500) {
        master
            .call("record:save", json!({"records": notes}))
            .result();
    }
    let then = head(&master);
    let exported = export(&server, &["note"]);
    assert_eq!(exported.lines().count(), 2501);
    // Deleted, changed, deleted and created again, new; and the field is renamed.
    let gone: Vec<String> = (0..2500)
        .step_by(100)
        .map(|n| format!("note/{n:04}"))
        .collect();
    master.call("record:delete", json!({"ids": gone})).result();
    for id in ["note/0001", "note/0100", "note/2499", "note/0000x"] {
        master.save(id, json!({"n": -1}));
    }
    let as_of = then.to_string();
    assert!(
        export(&server, &["note", "--as-of", &as_of]) == exported,
        "another past"
    );
    let now = export(&server, &["note"]);
    assert_eq!(now.lines().count(), 2501 - 25 + 2);
    let condition = json!(["lt", {"$type": "keypath", "$val": "n"}, 3]).to_string();
    let few = export(
        &server,
        &["note", "--as-of", &as_of, "--predicate", &condition],
    );
    let few: Vec<Json> = few
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let few: Vec<&Json> = few.iter().skip(1).map(|record| &record["n"]).collect();
    assert_eq!(few, [&json!(0), &json!(1), &json!(2)]);
    master
        .call(
            "schema:rename",
            json!({"record_type": "note", "item_name": "n", "new_name": "m"}),
        )
        .result();
    let renamed = export(&server, &["note", "--as-of", &as_of]);
    let without_type = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert!(
        without_type(&renamed) == without_type(&exported),
        "another name"
    );
}

#[test]
fn an_export_does_not_overwrite_an_earlier_one() {
    let server = TestServer::start();
    Client::master(&server).save("note/1", json!({"n": 1}));
    let path = server.folder().join("all.jsonl");
    let to = path.to_string_lossy().into_owned();
    export(&server, &["--output", &to]);
    assert_private(&path);
    let first = std::fs::read_to_string(&path).unwrap();
    assert!(first.contains("note/1"));
    let refused = run(&server, &["export", "user", "--output", &to]);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("already exists"),
        "{}",
        said(&refused)
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    // A command that is refused for another reason leaves no file.
    let other = server.folder().join("other.jsonl");
    let to = other.to_string_lossy().into_owned();
    let refused = run(&server, &["export", "nothing", "--output", &to]);
    assert!(!refused.status.success());
    assert!(!other.exists());
}

#[test]
fn an_export_of_the_past_has_the_fields_of_then() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"title": "One", "gone": 1, "kept": true}));
    master.save("note/2", json!({"title": "Two", "gone": 2}));
    let then = head(&master).to_string();
    let types = || {
        let exported = export(&server, &["--as-of", &then]);
        let first: Json = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
        first["types"].clone()
    };
    let of_then = types();
    let table = export(&server, &["note", "--as-of", &then, "--format", "csv"]);
    assert!(table.contains("One") && table.contains("gone"), "{table}");
    let change = |action: &str, body: Json| assert_eq!(master.call(action, body).code(), 0);
    change(
        "schema:rename",
        json!({"record_type": "note", "item_name": "title", "new_name": "heading"}),
    );
    change(
        "schema:delete",
        json!({"record_type": "note", "item_name": "gone"}),
    );
    master.save(
        "note/3",
        json!({"heading": "Three", "title": 3, "more": "x"}),
    );
    master.save("later/1", json!({"n": 1}));
    let again = export(&server, &["note", "--as-of", &then, "--format", "csv"]);
    assert_eq!(again, table);
    assert_eq!(types(), of_then);
    // This is how it is imported elsewhere.
    let second = TestServer::start();
    let whole = export(&server, &["note", "--as-of", &then]);
    let total = import(&second, &file(&second, "note.jsonl", &whole), &[]);
    assert_eq!(total.of("total"), [2, 2, 0, 0, 0, 0], "{}", total.0);
    assert_eq!(export(&second, &["note", "--format", "csv"]), table);
    let never = run(&server, &["export", "later", "--as-of", &then]);
    assert!(!never.status.success());
    let why = format!("there was no type \"later\" at {then}");
    assert!(said(&never).contains(&why), "{}", said(&never));
    let then = "2020-01-01T00:00:00Z";
    let never = run(&server, &["export", "note", "--as-of", then]);
    let why = format!("there was no type \"note\" at {then}");
    assert!(said(&never).contains(&why), "{}", said(&never));
    let page = master
        .call("record:export", json!({"record_type": "note"}))
        .json();
    assert_eq!(page["info"]["fields"]["title"], "number", "{page}");
    let page = master
        .call("record:export", json!({"record_type": "never"}))
        .json();
    assert_eq!(page["info"]["fields"], json!(null), "{page}");
}
