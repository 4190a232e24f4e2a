//! Publishing without a socket.

use serde_json::json;

use super::{hear, listen};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn jobs_publish_with_the_master_key() {
    let server = TestServer::start();
    let mut one = listen(&server, "one");
    let mut two = listen(&server, "two");
    let master = Client::master(&server);
    let data = json!({"text": "hello", "n": [1, null]});
    let body = json!({"channels": ["one", "two", "nobody"], "data": data});
    assert_eq!(
        master.call("pubsub:publish", body.clone()).result(),
        json!({"status": "OK"})
    );
    assert_eq!([hear(&mut one), hear(&mut two)], [data.clone(), data]);
    for (body, argument) in [
        (json!({"data": 1}), "channels"),
        (json!({"channels": [], "data": 1}), "channels"),
        (json!({"channels": ["one", ""], "data": 1}), "channels"),
        (
            json!({"channels": ["x".repeat(257)], "data": 1}),
            "channels",
        ),
        (json!({"channels": ["one"]}), "data"),
        (json!({"channels": ["one"], "data": null}), "data"),
    ] {
        let refused = master.call("pubsub:publish", body.clone());
        assert_eq!(refused.code(), 108, "{body}");
        assert_eq!(
            refused.json()["error"]["info"]["arguments"],
            json!([argument])
        );
    }
    let ada = Client::signed_up(&server, "ada");
    assert_eq!(ada.call("pubsub:publish", body).code(), 102);
    master.call(
        "pubsub:publish",
        json!({"channels": ["one"], "data": "last"}),
    );
    assert_eq!(hear(&mut one), "last");
}
