//! Fields that a caller may neither read nor save.

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn an_atomic_save_does_not_tell_what_a_hidden_field_holds() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    master.save("note/1", json!({"grade": 3, "text": "x"}));
    let rule = json!({"record_type": "note", "record_field": "grade", "user_role": "_public",
        "writable": false, "readable": false, "comparable": false, "discoverable": false});
    master
        .call("schema:field_access:update", json!({"access": [rule]}))
        .result();
    let save = |id: &str, grade: serde_json::Value, atomic: bool| {
        let records = json!([{"_id": id, "grade": grade, "text": "y"}]);
        ada.call("record:save", json!({"records": records, "atomic": atomic}))
    };
    for (id, grade) in [
        ("note/1", json!(3)),
        ("note/1", json!(4)),
        ("note/1", json!(null)),
        ("note/2", json!(null)),
    ] {
        let refused = save(id, grade.clone(), true);
        assert_eq!(refused.code(), 115, "{id} {grade}: {}", refused.json());
    }
    // In a batch that is not atomic, fields that cannot be saved are left out, as always.
    let saved = save("note/1", json!(4), false).result();
    assert_eq!(saved[0]["text"], "y");
    assert_eq!(master.query("note", json!(null))[0]["grade"], 3);
    let body = json!({"records": [{"_id": "note/1", "text": "z"}], "atomic": true});
    assert_eq!(ada.call("record:save", body).status, 200);
}

#[test]
fn a_field_that_a_rule_for_all_types_hides_is_hidden_under_its_new_name() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    for id in ["note/1", "page/1"] {
        master.save(id, json!({"grade": 3, "text": "x"}));
    }
    let rule = json!({"record_type": "*", "record_field": "grade", "user_role": "_public",
        "writable": false, "readable": false, "comparable": false, "discoverable": false});
    let body = json!({"access": [rule]});
    master.call("schema:field_access:update", body).result();
    let last = json!({"record": "page/1", "limit": 1});
    let position = master.call("log:read", last).result()[0]["position"].clone();
    let body = json!({"record_type": "note", "item_name": "grade", "new_name": "mark"});
    master.call("schema:rename", body).result();

    for (record_type, field) in [("note", "mark"), ("page", "grade")] {
        let found = ada.query(record_type, json!(null));
        assert_eq!(
            (&found[0]["text"], found[0].get(field)),
            (&json!("x"), None)
        );
        let path = json!({"$type": "keypath", "$val": field});
        let guess = json!({"record_type": record_type, "predicate": ["eq", path, 3]});
        assert_eq!(ada.call("record:query", guess).code(), 124);
        let saved = ada.save(&format!("{record_type}/1"), json!({field: 4, "text": "y"}));
        assert_eq!((&saved["text"], saved.get(field)), (&json!("y"), None));
        let body = json!({"record_type": record_type, "as_of": position});
        let was = ada.call("record:query", body).result();
        assert!(was[0].get("grade").is_none(), "{was}");
    }
    let found = master.query("note", json!(null));
    assert_eq!(found[0]["mark"], 3);
}
