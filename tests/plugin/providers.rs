//! Auth providers: plugins that vouch for users.

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, server};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::server::TestServer;

fn points() -> Json {
    json!({"provider": [{"type": "auth", "id": "acme"}]})
}

fn body(more: Json) -> Json {
    let mut body = json!({"provider": "acme", "provider_auth_data": {"pin": "1234-pin"}});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// Signs a user in or up while the plugin answers as given.
fn ask(
    server: &TestServer,
    worker: &mut Worker,
    (action, more): (&str, Json),
    react: impl FnOnce(&mut Worker, &Json),
) -> Answer {
    let asked = call(&Client::anonymous(server), action, body(more));
    let request = worker.expect_request("acme");
    assert_eq!(request["kind"], "provider");
    react(worker, &request);
    asked.join().unwrap()
}

fn vouch(principal: &str) -> impl FnOnce(&mut Worker, &Json) {
    let answer = json!({"principal_id": principal, "auth_data": {"token": "token-of-acme"}});
    move |worker, request| worker.answer(request, &answer)
}

#[test]
fn who_is_vouched_for_is_signed_in_as_the_same_user_each_time() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    Client::master(&server)
        .call("role:default", json!({"roles": ["member"]}))
        .result();
    let login = ("auth:login", json!({}));
    let first = ask(&server, &mut worker, login.clone(), |worker, request| {
        let auth_data = json!({"pin": "1234-pin"});
        assert_eq!(
            request["param"],
            json!({"action": "login", "auth_data": auth_data})
        );
        assert_eq!(request["context"]["request_tag"], "auth");
        vouch("ada")(worker, request);
    })
    .result();
    // As in v1, only those who sign up get default roles.
    assert!(first.get("roles").is_none(), "{first}");
    let again = ask(&server, &mut worker, login.clone(), vouch("ada")).result();
    let other = ask(&server, &mut worker, login.clone(), vouch("ben")).result();
    assert_eq!(first["user_id"], again["user_id"]);
    assert_ne!(first["user_id"], other["user_id"]);

    let mut client = Client::anonymous(&server);
    client.token = again["access_token"].as_str().map(str::to_owned);
    assert_eq!(
        client.call("me", json!({})).result()["user_id"],
        first["user_id"]
    );

    drop(worker);
    server.restart();
    let mut worker = Worker::ready(&server, &json!({}), &points());
    let after = ask(&server, &mut worker, login, vouch("ada")).result();
    assert_eq!(after["user_id"], first["user_id"]);
}

#[test]
fn signing_up_brings_a_profile_and_the_default_roles_once() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    Client::master(&server)
        .call("role:default", json!({"roles": ["member"]}))
        .result();
    let ignored = json!({"username": "ada"});
    let signup = json!({"profile": {"motto": "m"}, "auth_data": ignored, "password": "pw"});
    let signup = ("auth:signup", signup);
    let made = ask(&server, &mut worker, signup.clone(), vouch("ada")).result();
    assert_eq!(made["profile"]["motto"], "m");
    assert!(made["profile"].get("username").is_none(), "{made}");
    assert_eq!(made["roles"], json!(["member"]));
    let refused = ask(&server, &mut worker, signup, vouch("ada"));
    assert_eq!((refused.status, refused.code()), (409, 109));
    assert_eq!(refused.json()["error"]["message"], "user duplicated");
}

#[test]
fn who_is_not_vouched_for_is_refused_with_few_words() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    let secret = json!({"code": 108, "message": "the pin should have been 4321"});
    let answers = [
        json!({"principal_id": "", "auth_data": {}}),
        json!({"auth_data": {}}),
        json!({"principal_id": 7}),
        json!({"principal_id": "ada", "auth_data": "text"}),
        json!("ada"),
        Json::Null,
    ];
    for (action, message) in [
        ("auth:signup", "unable to login with the given credentials"),
        ("auth:login", "invalid authentication information"),
    ] {
        let said = |answer: Answer| {
            assert_eq!((answer.status, answer.code()), (401, 105));
            assert_eq!(answer.json()["error"]["message"], message);
        };
        let refused = ask(
            &server,
            &mut worker,
            (action, json!({})),
            |worker, request| {
                worker.refuse(request, &secret);
            },
        );
        said(refused);
        for answer in &answers {
            said(ask(
                &server,
                &mut worker,
                (action, json!({})),
                |worker, request| {
                    worker.answer(request, answer);
                },
            ));
        }
        let body = json!({"provider": "none", "provider_auth_data": {}});
        let unknown = Client::anonymous(&server).call(action, body);
        assert_eq!((unknown.status, unknown.code()), (400, 108));
        let error = unknown.json()["error"].take();
        assert_eq!(error["message"], "no auth provider of name \"none\"");
        assert_eq!(error["info"], json!({"arguments": ["provider"]}));
    }
    // The plugin's author can find out what is wrong, and no values of users are shown.
    let told = eventually("the log tells of each", || {
        let output = server.output();
        let lines = output.lines().filter(|line| line.contains("plugin=TEST"));
        let told = lines.filter(|line| line.contains("provider=\"acme\""));
        let told: Vec<_> = told.map(str::to_owned).collect();
        (told.len() == 2 * answers.len()).then_some(told)
    });
    for (line, why) in
        told.iter()
            .zip(["principal_id", "principal_id", "principal_id", "auth_data"])
    {
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn nobodys_credentials_are_wrong_because_a_plugin_is_slow_or_away() {
    let server = server(&[]);
    let mut points = points();
    let hasty = json!({"type": "auth", "id": "hasty", "timeout_ms": 500});
    points["provider"].as_array_mut().unwrap().push(hasty);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ask = |provider: &str| {
        let body = body(json!({"provider": provider}));
        call(&Client::anonymous(&server), "auth:login", body)
    };
    let asked = ask("hasty");
    worker.expect_request("hasty");
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.code()), (504, 119));
    assert_eq!(worker.expect("cancel")["reason"], "deadline");
    let asked = ask("acme");
    worker.expect_request("acme");
    worker.die();
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.code()), (503, 118));
}

/// Returns the events of accounts linked to a user, in order.
fn links(server: &TestServer, user: &Json) -> Vec<Json> {
    let stream = format!("user/{}", user.as_str().unwrap());
    let shown = server.skytrail(&["log", "show", &stream]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let events = serde_json::Deserializer::from_str(&shown).into_iter::<Json>();
    let events = events.map(|event| event.unwrap());
    events
        .filter(|event| event["kind"] == "account.linked")
        .map(|event| event["payload"].clone())
        .collect()
}

#[test]
fn what_a_provider_says_is_kept_and_replaced_without_what_opens_something() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    let mut log_in = |auth_data: Json| {
        let answer = json!({"principal_id": "ada", "auth_data": auth_data});
        let login = ("auth:login", json!({}));
        let react = |worker: &mut Worker, request: &Json| worker.answer(request, &answer);
        ask(&server, &mut worker, login, react).result()["user_id"].clone()
    };
    let first = json!({"name": "Ada", "token": "token-of-acme", "mail": {"at": "here"}});
    let user = log_in(first.clone());
    // The same data again gives no event.
    log_in(first);
    log_in(json!({"name": "Ada L.", "deep": [{"refresh_token": "token-of-acme", "n": 1}]}));
    let links = links(&server, &user);
    let profiles: Vec<&Json> = links.iter().map(|link| &link["profile"]).collect();
    let expected = [
        json!({"name": "Ada", "mail": {"at": "here"}}),
        json!({"name": "Ada L.", "deep": [{"n": 1}]}),
    ];
    assert_eq!(profiles, expected.iter().collect::<Vec<_>>(), "{links:?}");
    drop(worker);
    server.terminate();
    let grep = std::process::Command::new("grep")
        .args(["-rlaE", "1234-pin|token-of-acme"])
        .arg(server.data_dir())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
}

#[test]
fn who_is_vouched_for_takes_no_tries_from_others() {
    let server = server(&[("AUTH_THROTTLE", "on")]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    let login = ("auth:login", json!({}));
    for number in 0..15 {
        let answer = ask(&server, &mut worker, login.clone(), vouch("ada"));
        assert_eq!(answer.status, 200, "{number}");
    }
    let refuse = |worker: &mut Worker, request: &Json| {
        worker.refuse(request, &json!({"code": 105, "message": "no"}));
    };
    for number in 0..5 {
        let answer = ask(&server, &mut worker, login.clone(), refuse);
        assert_eq!(answer.code(), 105, "{number}");
    }
}
