//! Push from outside: the real server, devices that clients register, and services that check what
//! the real ones would.

mod addresses;
mod apns;
mod apple;
mod certificates;
mod fcm;
mod kept;
mod notices;
mod plugins;
mod service;
mod waiting;
mod web;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Starts a server that trusts the authority of the tests.
fn server(settings: &[(&str, &str)]) -> TestServer {
    let authority = certificates::setting("ca.pem");
    let mut all = vec![("SSL_CERT_FILE", authority.as_str())];
    all.extend_from_slice(settings);
    TestServer::with(&all)
}

fn register(client: &Client, kind: &str, token: &str, topic: &str) -> String {
    let body = json!({"type": kind, "device_token": token, "topic": topic});
    let registered = client.call("device:register", body).result();
    registered["id"].as_str().unwrap().to_owned()
}

/// Pushes to a user's devices; fails if the request is refused.
fn push_to(client: &Client, user: &Client, notification: &Json) {
    let user = user.user.as_deref().unwrap();
    let body = json!({"user_ids": [user], "notification": notification});
    let pushed = client.call("push:user", body).result();
    assert_eq!(pushed, json!([{"_id": user}]));
}

/// Waits until a figure of a service has a value.
fn await_figure(server: &TestServer, service: &str, figure: &str, expected: impl Into<Json>) {
    let expected = expected.into();
    let master = Client::master(server);
    let mut last = Json::Null;
    let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("{service}: {figure} is {expected}"), || {
            last = master.health()["push"].clone();
            let of = last
                .as_array()?
                .iter()
                .find(|it| it["service"] == service)?;
            (of[figure] == expected).then_some(())
        });
    }));
    assert!(
        reached.is_ok(),
        "{service}: {figure} is not {expected}: {last}"
    );
}

/// Returns whether a device is still known.
fn is_known(client: &Client, device: &str) -> bool {
    let body = json!({"device_ids": [device], "notification": {}});
    let answer = client.call("push:device", body).result();
    answer[0]["_type"] != "error"
}
