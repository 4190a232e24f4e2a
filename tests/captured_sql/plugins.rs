//! Plugins on v1's published runtimes, unmodified, that write records by SQL.

use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use crate::plugin::http::ready;
use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::program::{Program, python, repository, set_up};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer, lasting_address};

/// Starts a server with a database, and its plugin, which gets the addresses of both.
fn world(
    plugin: impl FnOnce(&str, &str, &Database<'_>) -> Command,
) -> (Database<'static>, TestServer, Program) {
    let database = shared().database(&[]);
    let (here, place) = (lasting_address(), lasting_address());
    let mut command = plugin(&here, &place, &database);
    command
        .stdin(Stdio::null())
        .env("APP_NAME", "myapp")
        .env("API_KEY", API_KEY)
        .env("MASTER_KEY", MASTER_KEY)
        .env("SKYGEAR_ENDPOINT", format!("http://{here}"));
    let program = Program::start(&mut command);
    let server = TestServer::with(&[
        ("HOST", &here),
        ("DATABASE_URL", &database.url()),
        ("PLUGINS", "SQL"),
        ("SQL_TRANSPORT", "http"),
        ("SQL_PATH", &format!("http://{place}")),
    ]);
    (database, server, program)
}

fn call(client: &Client, name: &str, args: Json) -> Json {
    client.call(name, json!({"args": args})).result()
}

fn fetch(client: &Client, record: &str) -> Json {
    client
        .call("record:fetch", json!({"ids": [record]}))
        .result()[0]
        .clone()
}

fn reference(id: &str) -> Json {
    json!({"$type": "ref", "$id": id})
}

/// A plugin on v1's Python runtime.
fn in_python(file: &str, place: &str, database: &Database<'_>) -> Command {
    let url = database.url().replace("postgres://", "postgresql://");
    let mut command = python();
    command
        .arg(set_up(".venv/bin/py-skygear"))
        .args(["--http", "--http-addr", place, file])
        .current_dir(repository("tests/captured_sql"))
        .env("DATABASE_URL", url);
    command
}

/// The store waits for the row that the second hook's transaction holds, and that hook waits for an
/// answer of the server: which must not wait for the store.
#[test]
fn a_plugin_that_holds_a_row_can_ask_the_server() {
    let (database, server, _plugin) =
        world(|_, place, database| in_python("nested_plugin.py", place, database));
    ready(&server);
    let ada = Client::signed_up(&server, "ada");
    ada.save("counter/c", json!({"n": 0}));
    ada.save("other/o", json!({"text": "x"}));
    let actions = [
        "record:query",
        "record:fetch",
        "record:save",
        "record:delete",
    ];
    for (round, action) in actions.into_iter().enumerate() {
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (ada, id) = (&ada, format!("note/{round}-{number}"));
                scope.spawn(move || ada.save(&id, json!({"text": action})));
            }
        });
    }
    let all = 4 * actions.len();
    let count = "SELECT n FROM app_myapp.counter";
    assert_eq!(database.sql(count), format!("{all}\n"));
    assert_eq!(fetch(&ada, "counter/c")["n"], all);
    let bystander = ada.query("other", json!(null));
    assert_eq!(bystander.len(), 1);
}

#[test]
fn a_plugin_in_python_keeps_counts_by_sql() {
    let (database, server, _plugin) =
        world(|_, place, database| in_python("sql_plugin.py", place, database));
    ready(&server);
    crate::support::eventually("the plugin's constraint is known", || {
        let types = "SELECT definition FROM app_myapp._type WHERE name = 'user_channel'";
        database.sql(types).contains("_database_id").then_some(())
    });
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let ids = ["ada", "bob"].map(|name| {
        let sql = format!("SELECT _id FROM app_myapp.\"user\" WHERE username = '{name}'");
        crate::support::eventually("the user is in the table", || {
            let id = database.sql(&sql).trim().to_owned();
            (!id.is_empty()).then_some(id)
        })
    });
    master.save("conversation/c", json!({"title": "talk"}));
    for (name, id) in ["ada", "bob"].iter().zip(&ids) {
        let fields = json!({
            "user": reference(&format!("user/{id}")),
            "conversation": reference("conversation/c"),
            "unread_count": 0,
        });
        master.save(&format!("user_conversation/{name}"), fields);
    }
    for n in 1..=2 {
        let message = json!({"body": "hello", "conversation": reference("conversation/c")});
        let saved = ada.save(&format!("message/{n}"), message);
        assert_eq!(saved["seq"], n);
        assert_eq!(fetch(&bob, "user_conversation/bob")["unread_count"], n);
    }
    assert_eq!(fetch(&ada, "user_conversation/ada")["unread_count"], 0);
    let last = &fetch(&bob, "conversation/c")["last_message"];
    assert_eq!(last["$id"], "message/2");

    let fields = json!({
        "user": reference(&format!("user/{}", ids[1])),
        "message": reference("message/2"),
    });
    master.save("receipt/r", fields);
    let told = call(&bob, "sql:read", json!([ids[1], "2"]));
    let expected = json!({"status": "some_read", "unread": 1, "told": "some_read"});
    assert_eq!(told, expected);
    assert!(fetch(&bob, "receipt/r")["read_at"]["$date"].is_string());
    assert_eq!(
        fetch(&bob, "user_conversation/bob")["last_read_message"]["$id"],
        "message/2"
    );
    assert_eq!(
        call(&ada, "sql:withdraw", json!(["2"])),
        json!({"last": "1"})
    );
    assert_eq!(
        fetch(&bob, "conversation/c")["last_message"]["$id"],
        "message/1"
    );
    assert_eq!(fetch(&bob, "message/2")["deleted"], true);

    let versions = master.call("history:list", json!({"record": "conversation/c"}));
    let versions = versions.result()["versions"].clone();
    let origins: Vec<&Json> = versions.as_array().unwrap().iter().collect();
    let by_sql = origins.iter().filter(|it| it["actor"]["origin"] == "sql");
    assert_eq!(by_sql.count(), 3);

    let channel = |client: &Client, id: &str| {
        let record = json!({"_id": format!("user_channel/{id}"), "name": id});
        let body = json!({"database_id": "_private", "records": [record]});
        client.call("record:save", body).result()[0]["code"].clone()
    };
    assert_eq!(channel(&ada, "one"), Json::Null);
    assert_eq!(channel(&ada, "two"), 109);
    assert_eq!(channel(&bob, "three"), Json::Null);
    for table in ["_parked", "_faults", "_lifted"] {
        let left = database.sql(&format!("SELECT * FROM app_myapp.{table}"));
        assert_eq!(left, "", "{table}");
    }
}

#[test]
fn a_plugin_in_javascript_counts_by_sql() {
    let (database, server, _plugin) = world(|_, place, database| {
        let (folder, name) = (database.folder(), database.name());
        let mut command = Command::new("node");
        command
            .arg(set_up("tests/node/node_modules/.bin/skygear-node"))
            .arg("index.js")
            .current_dir(repository("tests/node/sql_plugin"))
            .env("HTTP", "true")
            .env("HTTP_ADDR", place)
            // The runtime cannot pass on the folder of a socket.
            .env("PGHOST", folder)
            .env(
                "DATABASE_URL",
                format!("postgres://postgres:none@/{name}?sslmode=disable"),
            );
        command
    });
    ready(&server);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    assert_eq!(call(&ada, "sql:count", json!(["1", 4])), json!([{"n": 5}]));
    crate::support::eventually("the first is heard of", || {
        (fetch(&ada, "note/1")["n"] == 5).then_some(())
    });
    assert_eq!(call(&ada, "sql:count", json!(["1", 2])), json!([{"n": 7}]));
    assert_eq!(fetch(&ada, "note/1")["n"], 7);
    assert_eq!(
        database.sql("SELECT count(*) FROM app_myapp._parked"),
        "0\n"
    );
}
