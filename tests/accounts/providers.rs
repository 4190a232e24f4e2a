//! Accounts that a plugin's auth provider vouches for: traces of guesses, and links to users who
//! exist already.

use serde_json::{Value as Json, json};

use super::log_in;
use crate::door::{figure, scrape};
use crate::plugin::call;
use crate::plugin::worker::Worker;
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::server::TestServer;

const AUDITED: [(&str, &str); 2] = [("PLUGINS", "TEST"), ("USER_AUDIT_ENABLED", "YES")];

fn ready(server: &TestServer) -> Worker {
    let points = json!({"provider": [{"type": "auth", "id": "acme"}]});
    Worker::ready(server, &json!({}), &points)
}

/// Signs in or up through the provider, which vouches for an account or for nobody.
fn ask(server: &TestServer, worker: &mut Worker, action: &str, account: Option<&str>) -> Answer {
    let body = json!({"provider": "acme", "provider_auth_data": {"pin": "1234"}});
    let asked = call(&Client::anonymous(server), action, body);
    let request = worker.expect_request("acme");
    match account {
        Some(account) => worker.answer(&request, &json!({"principal_id": account})),
        None => worker.refuse(&request, &json!({"code": 105, "message": "no"})),
    }
    asked.join().unwrap()
}

/// Returns the audit trail's entries of an event, once there are so many.
fn audited(server: &TestServer, event: &str, number: usize) -> Vec<Json> {
    eventually("the entries are written", || {
        let output = server.output();
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let found: Vec<Json> = lines
            .filter(|it: &Json| it["msg"] == "audit_trail" && it["event"] == event)
            .collect();
        (found.len() >= number).then_some(found)
    })
}

#[test]
fn guesses_by_sign_ups_through_a_provider_leave_traces() {
    let settings = [AUDITED[0], AUDITED[1], ("AUTH_THROTTLE", "on")];
    let server = TestServer::with(&settings);
    let (mut worker, master) = (ready(&server), Client::master(&server));
    let reason = |reason: &str| {
        let sample = format!("skytrail_auth_refused_total{{reason=\"{reason}\"}}");
        figure(&scrape(&server), &sample)
    };
    ask(&server, &mut worker, "auth:signup", Some("ada")).result();
    let told = ask(&server, &mut worker, "auth:signup", Some("ada"));
    assert_eq!(told.code(), 109);
    for _ in 0..3 {
        let wrong = ask(&server, &mut worker, "auth:signup", None);
        assert_eq!(wrong.code(), 105);
    }
    let failures = audited(&server, "login_failure", 4);
    let expected = json!({"service": "provider/acme"});
    assert!(
        failures.iter().all(|it| it["data"] == expected),
        "{failures:?}"
    );
    assert_eq!(reason("wrong_credentials"), 3.0);
    let rows = master.call("audit:refusals", json!({})).result();
    let rows = rows.as_array().unwrap();
    let ours = rows.iter().filter(|row| row["way"] == "provider/acme");
    let counts = ours.map(|row| row["count"].as_i64().unwrap());
    assert_eq!(counts.sum::<i64>(), 3, "{rows:?}");

    // Names that nobody registered are strangers' text.
    let body = json!({"provider": "a-canary", "provider_auth_data": {}});
    let anyone = Client::anonymous(&server);
    assert_eq!(anyone.call("auth:signup", body).code(), 108);
    let rows = master.call("audit:refusals", json!({})).result();
    assert!(!rows.to_string().contains("canary"), "{rows}");
    // So are attempts that are refused unheard.
    let throttled = (0..30).find_map(|number| {
        let guess = log_in(&anyone, &format!("nobody{number}"), "x");
        (guess.status == 429).then_some(())
    });
    throttled.unwrap();
    let before = reason("throttled");
    let body = json!({"provider": "acme", "provider_auth_data": {}});
    assert_eq!(anyone.call("auth:signup", body).status, 429);
    assert_eq!(reason("throttled"), before + 1.0);
}

#[test]
fn a_providers_account_is_linked_to_a_user_who_has_a_password() {
    let server = TestServer::with(&AUDITED);
    let (mut worker, master) = (ready(&server), Client::master(&server));
    let ada = Client::signed_up(&server, "ada");
    let of_ada = |more: Json| {
        let mut body = json!({"user_id": ada.user, "provider": "acme"});
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        body
    };
    let link = of_ada(json!({"service": "provider", "principal_id": "ada-at-acme"}));
    assert_eq!(master.call("sso:oauth:link", link.clone()).result(), "OK");
    let session = ask(&server, &mut worker, "auth:login", Some("ada-at-acme")).result();
    assert_eq!(session["user_id"], json!(ada.user));
    let users = master
        .call("auth:export", json!({"ids": [ada.user]}))
        .result();
    let account = &users[0]["accounts"]["provider/acme"];
    assert_eq!(account["principal"], "ada-at-acme", "{users}");
    assert_eq!(master.call("sso:oauth:link", link).code(), 108);

    // The account of the same name at an OAuth service is another one.
    let unlink = |more: Json| master.call("sso:oauth:unlink", of_ada(more));
    let missing = unlink(json!({}));
    assert_eq!(missing.code(), 110);
    let expected = "no account of oauth/acme is linked to the user";
    assert_eq!(missing.json()["error"]["message"], expected);
    assert_eq!(unlink(json!({"service": "oauth"})).code(), 110);
    for bad in [json!("provider/acme"), json!("custom_token"), json!("")] {
        let refused = unlink(json!({"service": bad}));
        assert_eq!(refused.code(), 108, "{bad}");
        let arguments = &refused.json()["error"]["info"]["arguments"];
        assert_eq!(*arguments, json!(["service"]));
    }
    let provider = json!({"service": "provider"});
    assert_eq!(unlink(provider.clone()).result(), "OK");
    assert_eq!(unlink(provider).code(), 110);
    let other = ask(&server, &mut worker, "auth:login", Some("ada-at-acme")).result();
    assert_ne!(other["user_id"], json!(ada.user));

    let linked = audited(&server, "link_account", 1);
    let expected = json!({"service": "provider/acme", "principal": "ada-at-acme"});
    assert_eq!(linked[0]["data"], expected);
    let unlinked = audited(&server, "unlink_account", 1);
    assert_eq!(unlinked[0]["data"], json!({"service": "provider/acme"}));
}

/// Starts a lambda and has it check a password, as for a login with a second factor.
fn check_in_lambda(worker: &mut Worker, client: &Client, username: &str, password: &str) -> Json {
    let asked = call(client, "totp:login", json!({}));
    let outer = worker.expect_request("totp:login");
    let payload = json!({"action": "auth:login", "auth_data": {"username": username},
        "password": password});
    let nested = json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload});
    worker.send(nested);
    let reply = worker.expect("reply");
    worker.answer(&outer, &Json::Null);
    asked.join().unwrap();
    reply["status"].clone()
}

#[test]
fn a_password_that_a_lambda_checks_cannot_be_guessed_without_limit() {
    let server = TestServer::with(&[AUDITED[0], ("AUTH_THROTTLE", "on")]);
    let points = json!({"op": [{"name": "totp:login"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    for name in ["ada", "ben"] {
        Client::signed_up(&server, name);
    }
    let anyone = Client::anonymous(&server);
    let mut check =
        |username: &str, password: &str| check_in_lambda(&mut worker, &anyone, username, password);
    // A right password uses nothing up.
    for number in 0..101 {
        let right = check("ben", "secret-of-the-test");
        assert_eq!(right, 200, "{number}");
    }
    let mut num_told = 0;
    while num_told < 300 && check("ada", &format!("guess {num_told}")) == 401 {
        num_told += 1;
    }
    assert!((100..300).contains(&num_told), "{num_told}");
    // Nobody else is concerned, nor is the owner where she signed in before.
    assert_eq!(check("ben", "secret-of-the-test"), 200);
    let status = log_in(&anyone, "ada", "secret-of-the-test").status;
    assert_eq!(status, 200);
}
