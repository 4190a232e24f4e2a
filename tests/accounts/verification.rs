//! `VERIFY_REQUIRED`: who has not been verified may sign in and nothing else.

use serde_json::json;

use super::{change_password, log_in};
use crate::support::client::Client;
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";

#[test]
fn a_user_may_act_once_the_record_says_that_he_is_verified() {
    let server = TestServer::with(&[("VERIFY_REQUIRED", "YES")]);
    let mut ada = Client::signed_up(&server, "ada");
    let id = format!("user/{}", ada.user.clone().unwrap());
    let own = json!({"records": [{"_id": id, "is_verified": true}]});
    let refused = [
        ada.call("record:save", own.clone()),
        ada.call("record:query", json!({"record_type": "note"})),
        ada.call("relation:add", json!({"name": "_follow", "targets": []})),
        ada.call("me", json!({})),
        change_password(&mut ada, PASSWORD, "other"),
    ];
    for answer in refused {
        assert_eq!(
            (answer.status, answer.code()),
            (403, 128),
            "{}",
            answer.json()
        );
    }
    assert_eq!(log_in(&ada, "ada", PASSWORD).status, 200);
    let roles = ada.call("role:get", json!({"users": [ada.user]}));
    assert_eq!(roles.status, 200);
    // A plugin that verifies users has the master key.
    Client::master(&server).call("record:save", own).result();
    ada.call("me", json!({})).result();
    ada.save("note/1", json!({"n": 1}));
    change_password(&mut ada, PASSWORD, "other").result();
}
