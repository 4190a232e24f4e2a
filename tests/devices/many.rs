//! A change is held only against the subscriptions that it can concern.

use serde_json::{Value as Json, json};

use super::{Listener, notes, register};
use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn notices(master: &Client) -> Json {
    master.health()["notices"].take()
}

#[test]
fn what_a_subscription_asks_for_is_found_among_many() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let device = register(&ada, "t");
    let subscription = |number: u32| {
        let query = notes(&format!("text {number}"));
        json!({"id": format!("s{number}"), "type": "query", "query": query})
    };
    let subscriptions: Vec<Json> = (0..150).map(subscription).collect();
    let body = json!({"device_id": device, "subscriptions": subscriptions});
    ada.call("subscription:save", body).result();
    let mut listener = Listener::new(&server, &device);

    let save = |text: &str| {
        let records = json!([{"_id": "note/1", "text": text}]);
        ada.call("record:save", json!({"records": records}))
            .result();
    };
    save("text 7");
    listener.hears("s7");
    // It leaves one result and enters another.
    save("text 8");
    assert_eq!(listener.hears("s7"), listener.hears("s8"));
    save("no longer");
    listener.hears("s8");
    save("text 9");
    listener.hears("s9");
    let body = json!({"ids": ["note/1"]});
    ada.call("record:delete", body).result();
    listener.hears("s9");

    eventually("everything is told", || {
        let notices = notices(&master);
        let is_done = notices["consumer"]["num_notices"] == 6;
        is_done.then(|| {
            assert_eq!(notices["consumer"]["num_checks"], 6, "{notices}");
        })
    });
    eventually("nothing waits", || {
        let notices = notices(&master);
        (notices["lag_events"] == 0 && notices["lag_seconds"] == 0).then_some(())
    });
    let metrics = scrape(&server);
    for name in [
        "skytrail_notices_lag_events",
        "skytrail_notices_lag_seconds",
    ] {
        assert!(figure(&metrics, name).abs() < 0.5, "{metrics}");
    }
}
