//! Numbers of sequence fields that only a server may assign, never a client.

use serde_json::{Value as Json, json};

use super::records::{export, file, head, import};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn numbers_beyond_those_of_clients_are_exported_imported_and_restored() {
    const LAST_OF_CLIENTS: u64 = 2_147_483_647;
    const LAST: u64 = (1 << 53) - 1;
    let server = TestServer::start();
    let master = Client::master(&server);
    let fields = json!([{"name": "number", "type": "sequence"}]);
    let types = json!({"record_types": {"ticket": {"fields": fields}}});
    master.call("schema:create", types).result();
    let ada = Client::signed_up(&server, "ada");
    ada.save("ticket/1", json!({"number": LAST_OF_CLIENTS}));
    let given = ada.save("ticket/2", json!({"subject": "broken"}))["number"].clone();
    assert_eq!(given, LAST_OF_CLIENTS + 1);
    // A client cannot use up the remaining numbers.
    let asked = json!({"records": [{"_id": "ticket/3", "number": LAST}]});
    let answer = ada.call("record:save", asked).result();
    assert_eq!(answer[0]["_type"], "error", "{answer}");

    let then = head(&master);
    let gone = json!({"ids": ["ticket/2"]});
    master.call("record:delete", gone).result();
    let body = json!({"record": "ticket/2", "as_of": then});
    let restored = master.call("history:restore", body).result();
    assert_eq!(restored["number"], given, "{restored}");

    let second = TestServer::start();
    let exported = export(&server, &["ticket"]);
    let path = file(&second, "tickets.jsonl", &exported);
    for how in [&["--dry-run"] as &[&str], &[]] {
        let table = import(&second, &path, how);
        assert_eq!(table.of("ticket"), [2, 2, 0, 0, 0, 0], "{}", table.0);
    }
    assert_eq!(export(&second, &["ticket"]), exported);
    let next = Client::master(&second).save("ticket/3", json!({}));
    assert_eq!(next["number"], LAST_OF_CLIENTS + 2);

    // No server assigned these.
    let line = |number: &Json| json!({"_id": "ticket/4", "number": number}).to_string();
    for number in [json!(LAST + 1), json!(1.5)] {
        let path = file(&second, "more.jsonl", &line(&number));
        let table = import(&second, &path, &[]);
        assert_eq!(table.of("ticket"), [1, 0, 0, 0, 0, 1], "{}", table.0);
    }
}

#[test]
fn a_field_that_nobody_may_write_has_only_numbers_of_the_server() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let fields = json!([{"name": "number", "type": "sequence"}]);
    let types = json!({"record_types": {"ticket": {"fields": fields}}});
    master.call("schema:create", types).result();
    let rule = json!({"record_type": "ticket", "record_field": "number", "user_role": "_any_user",
        "writable": false, "readable": true, "comparable": true, "discoverable": true});
    let rules = json!({"access": [rule]});
    master.call("schema:field_access:update", rules).result();
    let ada = Client::signed_up(&server, "ada");
    for (id, number) in [("ticket/1", 1), ("ticket/1", 1), ("ticket/2", 2)] {
        let saved = ada.save(id, json!({"number": 2_147_483_647}));
        assert_eq!(saved["number"], number, "{saved}");
    }
}
