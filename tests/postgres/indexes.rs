//! Automatic indexes, and index declarations.

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

#[test]
fn queries_and_people_get_their_indexes_while_others_write() {
    let database = shared().database(&[]);
    let url = database.url();
    let server = TestServer::with(&[("DATABASE_URL", &url)]);
    let ada = Client::signed_up(&server, "ada");
    for batch in 0..12 {
        let notes = (0..100).map(|number| {
            let number = batch * 100 + number;
            json!({"_id": format!("note/{number}"), "n": number, "text": format!("t{number}")})
        });
        let notes: Vec<_> = notes.collect();
        ada.call("record:save", json!({"records": notes})).result();
    }
    let setting = format!("DATABASE_URL={url}");
    let index = |arguments: &[&str]| {
        let output = server.skytrail(&[&["--set", &setting, "index"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        said
    };
    // The command asks the store.
    assert!(!ada.query("note", json!(null)).is_empty());
    assert!(index(&["declare", "note", "n"]).contains("to be built, declared"));
    let mut number = 0_u32;
    let listed = eventually("both indexes are there", || {
        let found = ada.query(
            "note",
            json!(["eq", {"$type": "keypath", "$val": "text"}, "t7"]),
        );
        assert_eq!(found.len(), 1);
        ada.save(&format!("other/{number}"), json!({"n": number}));
        number += 1;
        // Listing takes longer than a query.
        if !number.is_multiple_of(50) {
            return None;
        }
        let listed = index(&["list"]);
        (listed.matches(" built").count() == 2).then_some(listed)
    });
    assert!(listed.contains("without it"), "{listed}");
    let names = "SELECT count(*) FROM pg_indexes WHERE schemaname='app_myapp' \
                 AND indexname LIKE '\\_query\\_%'";
    assert_eq!(database.sql(names), "2\n");
    index(&["forbid", "note", "text"]);
    index(&["forbid", "note", "n"]);
    eventually("both indexes are gone", || {
        (database.sql(names) == "0\n").then_some(())
    });
    assert_eq!(ada.query("other", json!(null)).len().min(50), 50);
}
