//! Index declarations are accepted only for types and fields that exist.

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn a_wish_is_for_a_type_and_fields_that_there_are() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    master.save("todo/1", json!({"title": "a", "list": {"a": 1}}));
    // A query waits until the store has applied the record.
    assert_eq!(master.query("todo", json!(null)).len(), 1);
    assert!(server.terminate().success());
    let index_at = |server: &TestServer, arguments: &[&str]| {
        let output = server.skytrail(&[&["index"], arguments].concat());
        let texts = [&output.stdout, &output.stderr];
        let said = texts.map(|text| String::from_utf8_lossy(text)).concat();
        (output.status.success(), said)
    };
    let index = |arguments: &[&str]| index_at(&server, arguments);
    for what in ["declare", "forbid", "pin"] {
        let (is_done, said) = index(&[what, "nope", "x"]);
        assert!(!is_done, "{what}: {said}");
        assert!(said.contains("there is no type \"nope\""), "{said}");
        let (is_done, said) = index(&[what, "todo", "title", "nope:desc"]);
        assert!(!is_done, "{what}: {said}");
        assert!(
            said.contains("todo has no field \"nope\"; it has list, title"),
            "{said}"
        );
    }
    for field in ["title", "_owner", "_created_at:desc", "_id"] {
        let (is_done, said) = index(&["declare", "todo", field]);
        assert!(is_done, "{said}");
        assert!(said.contains("to be built, declared"), "{said}");
    }
    let (_, said) = index(&["forbid", "todo", "title"]);
    assert!(said.contains(" forbidden;"), "{said}");
    assert!(!said.contains("to be built"), "{said}");
    let (_, said) = index(&["list"]);
    assert!(!said.contains("to be built, forbidden"), "{said}");
    // A field that was declared earlier may have been deleted; its declaration can still be
    // removed.
    server.restart();
    let body = json!({"record_type": "todo", "item_name": "title"});
    master.at(&server).call("schema:delete", body).result();
    assert_eq!(master.at(&server).query("todo", json!(null)).len(), 1);
    assert!(server.terminate().success());
    let index = |arguments: &[&str]| index_at(&server, arguments);
    for what in ["forbid", "free"] {
        let (is_done, said) = index(&[what, "todo", "title"]);
        assert!(is_done, "{what}: {said}");
    }
    let (is_done, said) = index(&["free", "todo", "titel"]);
    assert!(!is_done, "{said}");
    assert!(
        said.contains("todo has no index on titel; it has one on"),
        "{said}"
    );
    assert!(said.contains(", title"), "{said}");
}
