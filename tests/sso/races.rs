//! A principal never belongs to two users, however many requests arrive at once.

use std::collections::BTreeSet;
use std::sync::Barrier;

use serde_json::{Value as Json, json};

use super::{server, token_of};
use crate::support::client::{Answer, Client};

const NUM_CALLERS: usize = 8;

/// Calls an action many times concurrently; `payload` returns each caller's body.
fn at_once(client: &Client, action: &str, payload: impl Fn(usize) -> Json + Sync) -> Vec<Answer> {
    let barrier = Barrier::new(NUM_CALLERS);
    let call = |number: usize| {
        barrier.wait();
        client.call(action, payload(number))
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..NUM_CALLERS)
            .map(|number| scope.spawn(move || call(number)))
            .collect();
        let answers = callers.into_iter().map(|caller| caller.join().unwrap());
        answers.collect()
    })
}

#[test]
fn the_same_custom_token_many_times_at_once_makes_one_user() {
    let server = server();
    let anyone = Client::anonymous(&server);
    for round in 0..5 {
        let subject = format!("al-{round}");
        let answers = at_once(
            &anyone,
            "sso:custom_token:login",
            |number| json!({"token": token_of(&subject, json!({"round": round, "number": number}))}),
        );
        let users: BTreeSet<_> = answers
            .iter()
            .map(|answer| answer.result()["user_id"].to_string())
            .collect();
        assert_eq!(users.len(), 1, "{users:?}");
        let records = Client::master(&server).query(
            "user",
            json!(["eq", {
            "$type": "keypath", "$val": "round",
        }, round]),
        );
        assert_eq!(records.len(), 1, "{records:?}");
    }
}

#[test]
fn one_oauth_account_is_signed_up_once() {
    let server = server();
    let master = Client::master(&server);
    let body = |_| json!({"provider": "p", "principal_id": "al", "profile": {"kind": "al"}});
    let answers = at_once(&master, "sso:oauth:signup", body);
    let codes: Vec<_> = answers.iter().map(Answer::code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert!(
        codes.iter().all(|code| [0, 108].contains(code)),
        "{codes:?}"
    );
    assert_eq!(master.query("user", json!(null)).len(), 1);
}

#[test]
fn one_oauth_account_is_linked_to_one_user() {
    let server = server();
    let master = Client::master(&server);
    let users: Vec<_> = (0..NUM_CALLERS)
        .map(|number| Client::signed_up(&server, &format!("user-{number}")).user)
        .collect();
    for round in 0..3 {
        let account = json!({"provider": format!("p{round}"), "principal_id": "al"});
        let answers = at_once(&master, "sso:oauth:link", |number| {
            let mut body = account.clone();
            body["user_id"] = json!(users[number]);
            body
        });
        let linked: Vec<_> = (0..NUM_CALLERS)
            .filter(|number| answers[*number].code() == 0)
            .collect();
        assert_eq!(linked.len(), 1, "{answers:?}");
        let session = master.call("sso:oauth:login", account).result();
        assert_eq!(session["user_id"], json!(users[linked[0]]));
    }
}
