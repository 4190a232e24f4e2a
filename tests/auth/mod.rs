//! The examples of auth providers, with the services that they use: a directory, an `OpenID`
//! provider.

mod directory;
mod ldap;
mod openid;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::server::TestServer;

/// Signs a user in or up with their credentials for a provider.
fn ask(server: &TestServer, action: &str, provider: &str, shown: &Json) -> Answer {
    let body = json!({"provider": provider, "provider_auth_data": shown});
    Client::anonymous(server).call(action, body)
}

/// Returns the client of a user who has just signed in.
fn client_of(server: &TestServer, session: &Json) -> Client {
    Client::anonymous(server).with_token(session["access_token"].as_str().unwrap())
}

/// Waits until clients are served.
fn await_ready(server: &TestServer) {
    let client = Client::anonymous(server);
    eventually("the plugin is ready", || {
        let answer = client.call("record:query", json!({"record_type": "user"}));
        (answer.code() != 118 && answer.code() != 121).then_some(())
    });
}

/// Erases a user and then the record that the plugin keeps about their account.
fn assert_erasable(master: &Client, session: &Json, record_type: &str) {
    let erase = json!({"user": session["user_id"], "why": "asked for"});
    master.call("erase:user", erase).result();
    for account in master.query(record_type, json!([])) {
        let erase = json!({"record": account["_id"], "why": "asked for"});
        master.call("erase:record", erase).result();
    }
    let left = master.query(record_type, json!([]));
    assert_eq!(left, Vec::<Json>::new());
}

/// Fails unless the request is refused, with a message that reveals nothing.
fn assert_refused(answer: &Answer, what: &str) {
    let error = answer.json()["error"].take();
    assert_eq!(
        (answer.status, answer.code()),
        (401, 105),
        "{what}: {error}"
    );
    assert_eq!(
        error["message"], "invalid authentication information",
        "{what}"
    );
}
