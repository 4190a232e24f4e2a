//! Hooks of the user record: every new user passes through them.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::deliveries::expect_end;
use crate::plugin::worker::Worker;
use crate::plugin::{call, server};
use crate::sso::{SECRET, token_of};
use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

fn hooks() -> Json {
    let mut points = points("user", &["beforeSave", "afterSave"]);
    points["provider"] = json!([{"id": "acme"}]);
    points
}

/// The ways to become a user: the caller, the action, and its body.
fn arrivals(server: &TestServer, name: &str) -> Vec<(Client, &'static str, Json)> {
    let (anyone, master) = (Client::anonymous(server), Client::master(server));
    let auth_data = json!({"username": name});
    let account = json!({"provider": "com.example", "principal_id": name});
    let token = token_of(name, json!({"nickname": name}));
    let vouched = json!({"provider": "acme", "provider_auth_data": {"name": name}});
    vec![
        (
            anyone.clone(),
            "auth:signup",
            json!({"auth_data": auth_data, "password": "secret"}),
        ),
        (anyone.clone(), "auth:signup", json!({})),
        (anyone.clone(), "auth:login", vouched),
        (master, "sso:oauth:signup", account),
        (anyone, "sso:custom_token:login", json!({"token": token})),
    ]
}

/// Waits for a hook; auth providers are asked before it.
fn expect_hook(worker: &mut Worker, name: &str) -> Json {
    let mut request = worker.expect("request");
    if request["kind"] == "provider" {
        let principal = request["param"]["auth_data"]["name"].clone();
        worker.answer(&request, &json!({"principal_id": principal}));
        request = worker.expect("request");
    }
    assert_eq!(request["name"], name);
    request
}

/// Returns whether the user records include one with this mark.
fn is_stored(server: &TestServer, mark: &str) -> bool {
    let users = Client::master(server).query("user", json!([]));
    users.iter().any(|user| user["mark"] == mark)
}

fn assert_refused(answer: &Answer, message: &str) {
    assert_eq!(
        (answer.status, answer.code()),
        (403, 102),
        "{}",
        answer.json()
    );
    assert_eq!(answer.json()["error"]["message"], message);
}

#[test]
fn every_way_to_become_a_user_leads_through_the_hooks() {
    let server = server(&[("CUSTOM_TOKEN_SECRET", SECRET)]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks());
    for (number, (client, action, body)) in arrivals(&server, "ada").into_iter().enumerate() {
        let asked = call(&client, action, body.clone());
        let request = expect_hook(&mut worker, "user_beforeSave");
        let (param, context) = (&request["param"], &request["context"]);
        assert_eq!(param["original"], json!(null));
        // The user does not exist yet, but already owns the record.
        assert!(context.get("user_id").is_none(), "{action}: {context}");
        let tag = if action.starts_with("sso") {
            "sso"
        } else {
            "auth"
        };
        assert_eq!(context["request_tag"], tag);
        let id = param["record"]["_id"].as_str().unwrap().to_owned();
        let owner = param["record"]["_ownerID"].as_str().unwrap();
        assert_eq!(id, format!("user/{owner}"));
        let mark = format!("mark-{number}");
        worker.answer_record(&request, &json!({"mark": mark}));
        let request = worker.expect_request("user_afterSave");
        let record = &request["param"]["record"];
        assert_eq!(
            (&record["_id"], &record["mark"]),
            (&json!(id), &json!(mark))
        );
        worker.answer_record(&request, &json!({}));
        let session = asked.join().unwrap().result();
        assert_eq!(session["profile"]["mark"], mark, "{action}");
        assert_eq!(session["profile"]["_id"], json!(id));
        assert!(is_stored(&server, &mark));
    }
}

#[test]
fn whom_a_hook_refuses_is_nobody_and_may_come_again() {
    let server = server(&[("CUSTOM_TOKEN_SECRET", SECRET)]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks());
    let no = |message: &str| json!({"code": 102, "message": message});
    for (client, action, body) in arrivals(&server, "ada") {
        let asked = call(&client, action, body.clone());
        let request = expect_hook(&mut worker, "user_beforeSave");
        worker.refuse(&request, &no("not you"));
        assert_refused(&asked.join().unwrap(), "not you");
        assert!(Client::master(&server).query("user", json!([])).is_empty());

        // If the user has already been created, they are removed again.
        let asked = call(&client, action, body.clone());
        let request = expect_hook(&mut worker, "user_beforeSave");
        worker.answer_record(&request, &json!({}));
        let request = worker.expect_request("user_afterSave");
        worker.refuse(&request, &no("after all"));
        assert_refused(&asked.join().unwrap(), "after all");
        assert!(Client::master(&server).query("user", json!([])).is_empty());
    }
    // All names are free.
    for (client, action, body) in arrivals(&server, "ada") {
        let asked = call(&client, action, body);
        for name in ["user_beforeSave", "user_afterSave"] {
            let request = expect_hook(&mut worker, name);
            worker.answer_record(&request, &json!({}));
        }
        asked.join().unwrap().result();
    }
}

#[test]
fn who_comes_again_and_what_is_no_record_goes_by_the_hooks() {
    let server = server(&[("CUSTOM_TOKEN_SECRET", SECRET)]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks());
    let serve = |worker: &mut Worker| {
        for name in ["user_beforeSave", "user_afterSave"] {
            let request = expect_hook(worker, name);
            worker.answer_record(&request, &json!({}));
        }
    };
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let auth_data = json!({"username": "ada"});
    let body = json!({"auth_data": auth_data, "password": "old"});
    let asked = call(&anyone, "auth:signup", body.clone());
    serve(&mut worker);
    let session = asked.join().unwrap().result();
    let user = session["user_id"].clone();
    let ada = anyone.with_token(session["access_token"].as_str().unwrap());
    anyone.call("auth:login", body).result();
    ada.call("me", json!({})).result();
    let passwords = json!({"old_password": "old", "password": "new"});
    ada.call("auth:password", passwords).result();
    let roles = json!({"roles": ["member"], "users": [user]});
    master.call("role:assign", roles).result();
    expect_end(&server, &mut worker);

    // A custom token with another profile changes the record.
    let log_in = |nickname: &str| {
        let token = token_of("ben", json!({"nickname": nickname}));
        call(&anyone, "sso:custom_token:login", json!({"token": token}))
    };
    let asked = log_in("Ben");
    serve(&mut worker);
    asked.join().unwrap().result();
    let asked = log_in("Benny");
    let request = expect_hook(&mut worker, "user_beforeSave");
    assert_eq!(request["param"]["original"]["nickname"], "Ben");
    worker.refuse(&request, &json!({"code": 102, "message": "keep it"}));
    assert_refused(&asked.join().unwrap(), "keep it");
    let users = master.query("user", json!([]));
    assert!(users.iter().any(|user| user["nickname"] == "Ben"));
    assert!(!users.iter().any(|user| user["nickname"] == "Benny"));
}
