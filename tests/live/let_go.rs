//! Who is let go: whoever may not act any more, or no longer proves who they are.

use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use super::listener::{Followed, Listener, TIMEOUT};
use super::rights::World;
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::server::{MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};
use crate::support::sse::{EventSource, Heard};

#[test]
fn who_may_not_act_any_more_hears_no_more() {
    let world = World::new(&[("TOKEN_STORE", "fs")]);
    let ask = |client: &Client| {
        let mut listener = Listener::open(&world.server, client);
        listener.subscribe("q", json!({"record_type": "note"}));
        listener
    };
    let refusal = |mut listener: Listener| {
        let mut last = Json::Null;
        let deadline = Instant::now() + TIMEOUT;
        while !listener.is_closed {
            assert!(Instant::now() < deadline, "the socket stays open: {last}");
            last = listener.next(TIMEOUT).unwrap_or(last);
        }
        assert_eq!(last["event"], "error", "{last}");
        last["error"]["code"].as_i64().unwrap()
    };
    let bystander = ask(&world.ada);
    let listener = ask(&world.bob);
    let lock = |disabled: bool| {
        let body = json!({"auth_id": world.bob.user, "disabled": disabled, "message": "enough"});
        world.master.call("auth:disable:set", body).result();
    };
    lock(true);
    assert_eq!(refusal(listener), 127);
    let refused = Listener::try_open(&world.server, &world.bob).err().unwrap();
    assert_eq!((refused.0, &refused.1["error"]["code"]), (403, &json!(127)));
    lock(false);
    // Logged out.
    let listener = ask(&world.bob);
    world.bob.call("auth:logout", json!({})).result();
    assert_eq!(refusal(listener), 104);
    // A new password, one second later than the token: a token of the same second may have been
    // issued after it.
    let login = json!({"auth_data": {"username": "bob"}, "password": "secret-of-the-test"});
    let session = world.bob.call("auth:login", login).result();
    let bob = world
        .bob
        .with_token(session["access_token"].as_str().unwrap());
    let listener = ask(&bob);
    std::thread::park_timeout(Duration::from_millis(1100));
    let reset = json!({"auth_id": bob.user, "password": "another-secret"});
    world.master.call("auth:reset_password", reset).result();
    assert_eq!(refusal(listener), 104);
    drop(bystander);
}

#[test]
fn who_is_verified_no_more_listens_no_more() {
    let server = TestServer::with(&[("VERIFY_REQUIRED", "YES")]);
    let (master, bob) = (Client::master(&server), Client::signed_up(&server, "bob"));
    let record = format!("user/{}", bob.user.as_ref().unwrap());
    master.save("note/1", json!({"loss": "none"}));
    let verify = |fields: Json| drop(master.save(&record, fields));
    let query = json!({"record_type": "note"});
    for loss in [json!({"is_verified": false}), json!({"is_verified": null})] {
        verify(json!({"is_verified": true}));
        let mut listener = Listener::open(&server, &bob);
        listener.subscribe("q", query.clone());
        // A user who changes something else in their own record stays connected.
        bob.save(&record, json!({"bio": "x"}));
        let mut stranger = Listener::open(&server, &master);
        stranger.subscribe("q", query.clone());
        let mut idle = Listener::open(&server, &bob);
        let told = loss.to_string();
        bob.save("note/1", json!({"loss": told}));
        let heard = |it: &Followed| it.records["note/1"]["loss"] == told;
        listener.until("q", heard);
        stranger.until("q", heard);
        verify(loss.clone());
        for listener in [&mut listener, &mut idle] {
            let last = listener.next(TIMEOUT).unwrap();
            assert_eq!(last["error"]["code"], 128, "{loss}: {last}");
            listener.until_closed();
        }
        let refused = Listener::try_open(&server, &bob).err().unwrap();
        assert_eq!((refused.0, &refused.1["error"]["code"]), (403, &json!(128)));
        master.save("note/1", json!({"loss": "told"}));
        stranger.until("q", |it| it.records["note/1"]["loss"] == "told");
    }
}

#[test]
fn a_token_is_good_for_listening_until_it_expires() {
    let world = World::new(&[("TOKEN_STORE_EXPIRY", "8")]);
    let mut listener = Listener::open(&world.server, &world.bob);
    listener.subscribe("q", json!({"record_type": "note"}));
    let last = listener.next(TIMEOUT).unwrap();
    assert_eq!(last["error"]["code"], 104, "{last}");
    listener.until_closed();
    let refused = Listener::try_open(&world.server, &world.bob).err().unwrap();
    assert_eq!((refused.0, &refused.1["error"]["code"]), (401, &json!(104)));
    let nobody = world.bob.without_token();
    Listener::open(&world.server, &nobody).subscribe("q", json!({"record_type": "note"}));
}

/// Imports users whose passwords expire in so many seconds.
fn import_with_old_passwords(world: &World, users: &[(&str, u64)]) {
    let hash = bcrypt::hash("soon too old", 4).unwrap();
    let user = |(name, seconds): &(&str, u64)| {
        let almost_30_days = Duration::from_secs(30 * 24 * 3600 - seconds);
        #[expect(
            clippy::disallowed_methods,
            reason = "the server has the machine's clock, too"
        )]
        let set_at = DateTime::<Utc>::from(SystemTime::now() - almost_30_days);
        json!({"id": format!("{name}-1"), "auth_data": {"username": name}, "password_hash": hash,
               "token_valid_since": set_at.to_rfc3339()})
    };
    let users: Vec<Json> = users.iter().map(user).collect();
    let imported = world.master.call("auth:import", json!({"users": users}));
    imported.result();
}

fn logged_in(world: &World, name: &str) -> Client {
    let credentials = json!({"auth_data": {"username": name}, "password": "soon too old"});
    let client = Client::anonymous(&world.server);
    let session = client.call("auth:login", credentials).result();
    client.with_token(session["access_token"].as_str().unwrap())
}

/// Returns the header fields for the master key with only a user's rights.
fn lent_to(user: &str) -> [(String, String); 2] {
    [
        ("X-Skygear-API-Key", MASTER_KEY),
        ("X-Skygear-Rights-Of", user),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

#[test]
fn who_listens_is_let_go_when_his_password_expires() {
    let world = World::new(&[("USER_AUDIT_PW_EXPIRY_DAYS", "30")]);
    import_with_old_passwords(&world, &[("cat", 9)]);
    // The master key with only this user's rights.
    let owned = lent_to("cat-1");
    let fields = owned.each_ref();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_str()));
    let address = world.server.address();
    let mut lent = Socket::open(address, "/live", &owned).unwrap();
    let query = json!({"record_type": "note"}).to_string();
    let mut source = EventSource::open(address, "/live/query", &fields, Some(&query)).unwrap();
    let cat = logged_in(&world, "cat");
    let mut listener = Listener::open(&world.server, &cat);
    listener.subscribe("q", json!({"record_type": "note"}));
    let last = listener.next(TIMEOUT).unwrap();
    assert_eq!(last["error"]["info"]["reason"], "PasswordExpired", "{last}");
    listener.until_closed();
    let refused = Listener::try_open(&world.server, &cat).err().unwrap();
    assert_eq!((refused.0, &refused.1["error"]["code"]), (401, &json!(126)));
    let Incoming::Text(told) = lent.receive(TIMEOUT) else {
        panic!("the socket with the user's rights is told nothing");
    };
    assert!(told.contains("PasswordExpired"), "{told}");
    loop {
        match source.next(TIMEOUT) {
            Heard::Event(event) if event.data.contains("PasswordExpired") => break,
            Heard::Event(event) if event.event != "error" => {}
            other => panic!("{other:?}"),
        }
    }
    let refused = Socket::open(address, "/live", &owned);
    assert_eq!(refused.err().map(|(status, _)| status), Some(401));
}

#[test]
fn who_changes_his_password_in_time_is_not_let_go() {
    let world = World::new(&[("USER_AUDIT_PW_EXPIRY_DAYS", "30")]);
    import_with_old_passwords(&world, &[("cat", 12), ("dog", 13)]);
    let mut lent = Socket::open(world.server.address(), "/live", &lent_to("cat-1")).unwrap();
    let change = json!({"old_password": "soon too old", "password": "good for a month"});
    logged_in(&world, "cat")
        .call("auth:password", change)
        .result();
    // The other password expires later than the changed one would have.
    let url = format!("{}/record/query", world.server.base_url);
    eventually("the other password expires", || {
        let body = json!({"record_type": "note"}).to_string().into_bytes();
        let asked = send("POST", &url, &lent_to("dog-1"), Some(body)).unwrap();
        (asked.code() == 126).then_some(())
    });
    let subscribe = json!({"action": "live:subscribe", "id": "q", "record_type": "note"});
    lent.send(&subscribe.to_string());
    let Incoming::Text(told) = lent.receive(TIMEOUT) else {
        panic!("the socket with the user's rights is told nothing");
    };
    assert!(told.contains("\"id\":\"q\""), "{told}");
}
