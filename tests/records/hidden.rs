//! Fields that somebody may neither read nor save.

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
    // One after the other, what cannot be saved is left out, as ever.
    let saved = save("note/1", json!(4), false).result();
    assert_eq!(saved[0]["text"], "y");
    assert_eq!(master.query("note", json!(null))[0]["grade"], 3);
    let body = json!({"records": [{"_id": "note/1", "text": "z"}], "atomic": true});
    assert_eq!(ada.call("record:save", body).status, 200);
}
