//! Who may call: what each section says, tried with every kind of caller.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Value as Json, json};

use super::{API, page};
use crate::support::client::{Client, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// The callers, in the order of the table below.
const CALLERS: [&str; 6] = [
    "nobody",
    "app",
    "user",
    "user of the app",
    "administrator",
    "master",
];

/// The error code for each caller, or 0 for a permitted one, while `DEV_MODE` is off.
const RIGHTS: &[(&str, [i64; 6])] = &[
    ("anyone", [0, 0, 0, 0, 0, 0]),
    ("an app", [101, 0, 101, 0, 0, 0]),
    ("a key or a user", [101, 0, 0, 0, 0, 0]),
    ("a user", [101, 101, 0, 0, 0, 0]),
    ("an administrator", [101, 101, 102, 102, 0, 0]),
    ("a developer", [101, 102, 101, 102, 102, 0]),
    ("the master key", [101, 102, 101, 102, 102, 0]),
];

/// Returns who may call, by section.
fn rights() -> BTreeMap<String, [i64; 6]> {
    let who = Regex::new(r"\*([A-Za-z ]+?)[.*,]").unwrap();
    let mut rights = BTreeMap::new();
    let mut section = None;
    for line in API.lines() {
        if line.starts_with('#') {
            section = page::sections(line).pop();
        }
        let Some(name) = &section else { continue };
        let Some(found) = who.captures(line).filter(|_| !rights.contains_key(name)) else {
            continue;
        };
        let found = found[1].to_lowercase();
        let row = RIGHTS.iter().find(|(who, _)| *who == found);
        let (_, refusals) = row.unwrap_or_else(|| panic!("{name}: who is {found:?}?"));
        rights.insert(name.clone(), *refusals);
    }
    rights
}

#[test]
fn who_may_call_an_action_is_as_its_section_says() {
    let server = TestServer::with(&[("DEV_MODE", "NO")]);
    let (user, boss) = (
        Client::signed_up(&server, "user"),
        Client::signed_up(&server, "boss"),
    );
    let master = Client::master(&server);
    master
        .call("role:admin", json!({"roles": ["boss"]}))
        .result();
    let assignment = json!({"roles": ["boss"], "users": [boss.user]});
    master.call("role:assign", assignment).result();
    // Actions that refuse questions about other users need a user to be asked about.
    let about = json!([user.user]);
    let (user, boss) = (user.token.unwrap(), boss.token.unwrap());
    let shown = [
        json!({}),
        json!({"api_key": API_KEY}),
        json!({"access_token": user}),
        json!({"api_key": API_KEY, "access_token": user}),
        json!({"api_key": API_KEY, "access_token": boss}),
        json!({"api_key": MASTER_KEY}),
    ];
    let rights = rights();
    let mut wrong = Vec::new();
    for section in page::sections(API) {
        let refusals = rights
            .get(&section)
            .unwrap_or_else(|| panic!("{section}: who may?"));
        for ((caller, shown), expected) in CALLERS.iter().zip(&shown).zip(refusals) {
            // Without further arguments nothing is done, whoever calls.
            let mut body = shown.clone();
            body["users"] = about.clone();
            let answer = ask(&server, &section, &body);
            let code = answer["error"]["code"].as_i64().unwrap_or(0);
            let refused = if [101, 102, 103].contains(&code) {
                code
            } else {
                0
            };
            if refused != *expected {
                wrong.push(format!(
                    "{section}, {caller}: expected {expected}, got {answer}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ask(server: &TestServer, action: &str, shown: &Json) -> Json {
    let path = if action == "home" {
        String::new()
    } else {
        action.replace(':', "/")
    };
    let url = format!("{}/{path}", server.base_url);
    let body = shown.to_string().into_bytes();
    send("POST", &url, &[], Some(body)).unwrap().json()
}
