//! Events that the record store skips are reported.

use serde_json::json;

use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

#[test]
fn what_is_not_stored_is_counted_and_told() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let number = |server: &TestServer| {
        eventually("health and metrics agree", || {
            let health = master.at(server).health();
            let number = health["projector"]["num_faults"].as_u64();
            let figure = figure(&scrape(server), "skytrail_projector_faults");
            (number.map(|number| number as f64) == Some(figure)).then_some(number)
        })
    };
    assert_eq!(number(&server), Some(0));
    // The name of one of the server's own constraints, which is not lifted as others are.
    database.sql("ALTER TABLE app_myapp.note ADD CONSTRAINT _small CHECK (n < 5)");
    ada.save("note/2", json!({"n": 20}));
    ada.save("note/3", json!({"n": 3}));
    assert_eq!(ada.query("note", json!(null)).len(), 2);
    assert_eq!(number(&server), Some(1));
    let told = eventually("the log of the server has it", || {
        let output = server.output();
        let told = output.lines().find(|line| line.contains("note/2"));
        told.map(str::to_owned)
    });
    assert!(told.contains("ERROR"), "{told}");
    for what in ["position=", "stream=", "skytrail rebuild --verify"] {
        assert!(told.contains(what), "{told}");
    }
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(number(&server), Some(1));
    let erased = json!({"record": "note/2", "why": "asked for"});
    let erased = master.at(&server).call("erase:record", erased);
    assert_eq!(erased.status, 200, "{}", erased.json());
    eventually("what is erased counts no more", || {
        (number(&server) == Some(0)).then_some(())
    });
}
