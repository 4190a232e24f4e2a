//! `sso:oauth:*`, as a plugin calls them.

use serde_json::{Value as Json, json};

use super::{everything_in, server};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn account(principal: &str) -> Json {
    json!({"provider": "com.example", "principal_id": principal})
}

/// An account with more members.
fn with(principal: &str, more: &Json) -> Json {
    let mut all = account(principal);
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn code_and_arguments(answer: &crate::support::client::Answer) -> (i64, Json) {
    let arguments = answer.json()["error"]["info"]["arguments"].clone();
    (answer.code(), arguments)
}

#[test]
fn an_account_is_signed_up_signed_in_and_survives_a_restart() {
    let mut server = server();
    let master = Client::master(&server);
    assert_eq!(master.call("sso:oauth:login", account("al")).code(), 105);

    let profile = json!({"profile": {
        "nickname": "Al", "born": {"$type": "date", "$date": "2000-01-02T03:04:05Z"},
    }});
    master
        .call("role:default", json!({"roles": ["member"]}))
        .result();
    let session = master
        .call("sso:oauth:signup", with("al", &profile))
        .result();
    assert_eq!(session["profile"]["nickname"], "Al");
    assert_eq!(session["profile"]["born"]["$date"], "2000-01-02T03:04:05Z");
    assert!(session.get("roles").is_none(), "{session}");
    assert!(session.get("last_login_at").is_none(), "{session}");

    server.restart();
    let master = master.at(&server);
    let again = master.call("sso:oauth:login", account("al")).result();
    assert_eq!(again["user_id"], session["user_id"]);
    assert!(again["last_login_at"].is_string(), "{again}");
    let mut al = Client::anonymous(&server);
    al.token = again["access_token"].as_str().map(str::to_owned);
    let me = al.call("me", json!({})).result();
    assert_eq!(me["user_id"], session["user_id"]);

    let refused = master.call("sso:oauth:signup", account("al"));
    assert_eq!(refused.code(), 108);
    assert_eq!(refused.json()["error"]["message"], "user already connected");
    // The same name at another provider is a different person.
    let elsewhere = json!({"provider": "org.example", "principal_id": "al"});
    assert_eq!(master.call("sso:oauth:login", elsewhere).code(), 105);
}

#[test]
fn every_member_that_is_missing_is_named() {
    let server = server();
    let master = Client::master(&server);
    let cases = [
        ("login", json!({"principal_id": "x"}), "provider"),
        (
            "login",
            json!({"provider": "p", "principal_id": ""}),
            "principal_id",
        ),
        ("signup", json!({"provider": "p"}), "principal_id"),
        (
            "link",
            json!({"principal_id": "x", "user_id": "u"}),
            "provider",
        ),
        (
            "link",
            json!({"provider": "p", "user_id": "u"}),
            "principal_id",
        ),
        (
            "link",
            json!({"provider": "p", "principal_id": "x"}),
            "user_id",
        ),
        ("unlink", json!({"user_id": "u"}), "provider"),
        ("unlink", json!({"provider": "p"}), "user_id"),
    ];
    for (action, body, argument) in cases {
        let answer = master.call(&format!("sso:oauth:{action}"), body.clone());
        let found = code_and_arguments(&answer);
        assert_eq!(found, (108, json!([argument])), "{action} {body}");
    }
    for body in [
        json!({"provider": 5, "principal_id": "x"}),
        json!({"provider": "p", "principal_id": "x", "token_response": "t"}),
        json!({"provider": "p", "principal_id": "x", "provider_profile": []}),
    ] {
        let answer = master.call("sso:oauth:login", body.clone());
        assert_eq!(answer.code(), 107, "{body}");
    }
    let bad = with(
        "x",
        &json!({"profile": {"at": {"$type": "date", "$date": "soon"}}}),
    );
    assert_eq!(master.call("sso:oauth:signup", bad).code(), 108);
    assert_eq!(master.call("sso:oauth:login", account("x")).code(), 105);
}

#[test]
fn a_user_links_and_unlinks_an_account() {
    let server = server();
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let link = |client: &Client, principal: &str| {
        let user = json!({"user_id": client.user});
        master.call("sso:oauth:link", with(principal, &user))
    };
    let login = |principal: &str| master.call("sso:oauth:login", account(principal));
    let message =
        |answer: crate::support::client::Answer| answer.json()["error"]["message"].clone();

    assert_eq!(link(&ada, "al").result(), "OK");
    assert_eq!(
        login("al").result()["user_id"].as_str(),
        ada.user.as_deref()
    );
    let taken = "provider account already linked with existing user";
    assert_eq!(message(link(&ben, "al")), taken);
    assert_eq!(message(link(&ada, "al")), taken);
    assert_eq!(
        message(link(&ada, "bo")),
        "user linked to the provider already"
    );
    let nobody = with("bo", &json!({"user_id": "nobody"}));
    assert_eq!(master.call("sso:oauth:link", nobody).code(), 110);

    let unlink = |client: &Client| {
        let body = json!({"provider": "com.example", "user_id": client.user});
        master.call("sso:oauth:unlink", body)
    };
    assert_eq!(unlink(&ben).code(), 110);
    assert_eq!(unlink(&ada).result(), "OK");
    assert_eq!(unlink(&ada).code(), 110);
    assert_eq!(login("al").code(), 105);
    assert_eq!(link(&ben, "al").result(), "OK");
    assert_eq!(
        login("al").result()["user_id"].as_str(),
        ben.user.as_deref()
    );
}

#[test]
fn what_a_provider_says_is_kept_and_its_tokens_are_not() {
    let server = server();
    let master = Client::master(&server);
    let said = |name: &str| {
        json!({
            "token_response": {"access_token": "token-of-the-provider"},
            "provider_profile": {"name": name},
        })
    };
    let session = master
        .call("sso:oauth:signup", with("al", &said("first-name")))
        .result();
    master
        .call("sso:oauth:login", with("al", &said("second-name")))
        .result();
    let user = session["user_id"].as_str().unwrap();
    let shown = log_of(&server, &format!("user/{user}"));
    assert!(
        shown.contains("first-name") && shown.contains("second-name"),
        "{shown}"
    );
    // The log has it only sealed, so it is readable once the store has it.
    let kept = eventually("what was said last is kept", || {
        let kept = everything_in(&server.data_dir());
        kept.contains("second-name").then_some(kept)
    });
    assert!(!kept.contains("token-of-the-provider"));
    assert!(!server.output().contains("token-of-the-provider"));
}

fn log_of(server: &TestServer, stream: &str) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("DATA_DIR", server.data_dir());
    let output = command.args(["log", "show", stream]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
