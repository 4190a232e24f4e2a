//! Types with more fields than a table has columns.

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

fn numbered(id: &str, numbers: std::ops::Range<usize>) -> Json {
    let fields = numbers.map(|n| (format!("f{n}"), json!(n)));
    let mut record: Json = fields.collect();
    record["_id"] = id.into();
    record
}

fn try_save(client: &Client, record: Json) -> (i64, String) {
    let saved = client.call("record:save", json!({"records": [record]}));
    if saved.status != 200 {
        let message = saved.json()["error"]["message"].to_string();
        return (saved.code(), message);
    }
    let saved = saved.result();
    let message = saved[0]["message"].to_string();
    (saved[0]["code"].as_i64().unwrap_or_default(), message)
}

#[test]
fn fields_that_no_table_takes_are_refused_and_nothing_is_lost() {
    let mut server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let (code, said) = try_save(&ada, numbered("new/a", 0..2500));
    assert_eq!(code, 114, "{said}");
    assert!(said.contains("1500"), "{said}");

    for from in [0, 700] {
        assert_eq!(
            try_save(&ada, numbered("old/a", from..from + 700)).0,
            if from == 0 { 0 } else { 108 }
        );
    }
    let (code, said) = try_save(&ada, numbered("old/a", 1400..1600));
    assert_eq!(code, 114, "{said}");
    assert_eq!(try_save(&ada, numbered("old/b", 1300..1310)).0, 0);

    // A file takes two columns.
    let files = (0..751).map(|n| json!({"name": format!("f{n}"), "type": "asset"}));
    let files = json!({"record_types": {"file": {"fields": files.collect::<Vec<_>>()}}});
    assert_eq!(master.call("schema:create", files).code(), 114);
    let imported = json!({"records": [numbered("third/a", 0..1501)]});
    let imported = master.call("record:import", imported);
    let said = imported.json().to_string();
    assert!(said.contains("1500"), "{said}");

    assert!(server.terminate().success());
    server.restart();
    let ids = json!({"ids": ["old/a", "old/b"]});
    let found = ada.at(&server).call("record:fetch", ids).result();
    assert_eq!(found[0]["f3"], 3, "{found}");
    assert_eq!(found[1]["f1300"], 1300, "{found}");
}
