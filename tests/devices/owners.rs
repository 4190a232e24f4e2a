//! Whose a device is: no other user subscribes with it, looks at it, or takes it away.

use serde_json::{Value as Json, json};

use super::{Listener, notes, register, subscribe, subscriptions};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// Returns the answers to every possible request about a device, with its id left out.
fn tries(client: &Client, device: &str) -> Vec<Json> {
    let ids = json!({"device_id": device, "subscription_ids": ["hers", "his"]});
    let his = json!([{"id": "his", "type": "query", "query": notes("x")}]);
    [
        (
            "subscription:save",
            json!({"device_id": device, "subscriptions": his}),
        ),
        ("subscription:fetch", ids.clone()),
        ("subscription:fetch_all", json!({"device_id": device})),
        ("subscription:delete", ids),
        ("device:unregister", json!({"id": device})),
    ]
    .map(|(action, body)| {
        let answer = client.call(action, body);
        json!([answer.status, answer.json()])
    })
    .to_vec()
}

#[test]
fn to_a_stranger_a_device_is_as_if_it_were_not_there() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let master = Client::master(&server);
    let device = register(&ada, "t");
    subscribe(&ada, &device, "hers", notes("x"));
    assert_eq!(tries(&ben, &device), tries(&ben, "no-such-device"));
    // They had no effect.
    let listed = subscriptions(&ada, &device);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["id"], "hers");
    assert_eq!(subscriptions(&master, &device), listed);
    subscribe(&master, &device, "for-her", notes("y"));
    assert_eq!(subscriptions(&ada, &device).len(), 2);
    let gone = ada.call("device:unregister", json!({"id": device}));
    assert_eq!(gone.result()["id"], *device);
    // A device without a user can be used only after it is registered, even by its last user.
    for client in [&ada, &ben] {
        assert_eq!(tries(client, &device), tries(client, "no-such-device"));
    }
    assert_eq!(subscriptions(&master, &device).len(), 2);
    let gone = master.call("device:unregister", json!({"id": device}));
    assert_eq!(gone.result()["id"], *device);
}

#[test]
fn what_a_user_subscribed_to_ends_when_another_has_his_device() {
    let mut server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/1", json!({"text": "y"}));
    let device = register(&ada, "t");
    let again = json!({"id": device, "type": "ios", "device_token": "t"});
    let take = |client: &Client| {
        let taken = client.call("device:register", again.clone());
        assert_eq!(taken.result()["id"], *device);
    };
    subscribe(&ada, &device, "hers", notes("x"));
    take(&ada);
    assert_eq!(
        subscriptions(&ada, &device).len(),
        1,
        "it is hers as before"
    );
    take(&ben);
    assert_eq!(subscriptions(&ben, &device), [json!(null); 0]);
    assert_eq!(subscriptions(&ada, &device), [json!(null); 0]);
    subscribe(&ben, &device, "his", notes("x"));
    let mut heard = Listener::new(&server, &device);
    ada.save("note/1", json!({"text": "x"}));
    heard.hears("his");

    // Nor does the next user get them when the last one has logged out.
    ben.call("device:unregister", json!({"id": device}))
        .result();
    take(&ada);
    assert_eq!(subscriptions(&ada, &device), [json!(null); 0]);
    subscribe(&ada, &device, "hers", notes("x"));
    server.kill();
    server.restart();
    let names: Vec<Json> = subscriptions(&ada.at(&server), &device)
        .iter()
        .map(|it| it["id"].clone())
        .collect();
    assert_eq!(names, [json!("hers")]);
}

/// Of two concurrent requests, either the subscription is saved and then ends, or it comes too
/// late.
#[test]
fn nothing_is_subscribed_to_for_a_user_while_his_device_goes_to_another() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    for round in 0..20 {
        let device = register(&ada, &format!("t{round}"));
        let hers = json!([{"id": "hers", "type": "query", "query": notes("x")}]);
        let save = json!({"device_id": device, "subscriptions": hers});
        std::thread::scope(|scope| {
            scope.spawn(|| ada.call("subscription:save", save).result());
            let taken = json!({"id": device, "type": "ios"});
            ben.call("device:register", taken).result();
        });
        assert_eq!(subscriptions(&ben, &device), [json!(null); 0]);
    }
}

/// As in queries, where whoever has to be verified first may read nothing.
#[test]
fn an_unverified_user_is_not_told_of_what_they_could_read() {
    let server = TestServer::with(&[("VERIFY_REQUIRED", "YES")]);
    let master = Client::master(&server);
    let [ada, bob] = ["ada", "bob"].map(|name| {
        let user = Client::signed_up(&server, name);
        let id = format!("user/{}", user.user.as_ref().unwrap());
        master.save(&id, json!({"is_verified": true}));
        user
    });
    let device = register(&bob, "t");
    for record_type in ["letter", "mark"] {
        let query = json!({"record_type": record_type});
        subscribe(&bob, &device, record_type, query);
    }
    let mut listener = Listener::new(&server, &device);
    let to_bob = json!([{"user_id": bob.user, "level": "read"}]);
    ada.save("letter/1", json!({"_access": to_bob}));
    listener.hears("letter");
    let id = format!("user/{}", bob.user.as_ref().unwrap());
    master.save(&id, json!({"is_verified": false}));
    ada.save("letter/2", json!({"_access": to_bob}));
    ada.save("mark/1", json!({}));
    listener.hears("mark");
}
