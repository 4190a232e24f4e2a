//! Logins, log-outs, passwords, roles, locks and plugins in the log; refusals next to it. No secret
//! in either, and nothing that a stranger can make grow.

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python_plugin};
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";

fn events(master: &Client, asked: Json) -> Vec<Json> {
    let answer = master.call("log:read", asked);
    answer.result().as_array().unwrap().clone()
}

fn kinds(events: &[Json]) -> Vec<&str> {
    let kind = |event: &'_ Json| event["kind"].as_str().map(str::len);
    assert!(events.iter().all(|event| kind(event).is_some()));
    events
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect()
}

fn refusals(master: &Client, asked: Json) -> Vec<(Json, String, String, i64)> {
    let rows = master.call("audit:refusals", asked).result();
    let rows = rows.as_array().unwrap().iter().map(|row| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let count = row["count"].as_i64().unwrap();
        (row["user"].clone(), text("way"), text("reason"), count)
    });
    // A minute may end in between, which splits the counts.
    let mut sums = std::collections::BTreeMap::new();
    for (user, way, reason, count) in rows {
        *sums.entry((user.to_string(), way, reason)).or_insert(0) += count;
    }
    let sums = sums.into_iter();
    sums.map(|((user, way, reason), count)| {
        (serde_json::from_str(&user).unwrap(), way, reason, count)
    })
    .collect()
}

#[test]
fn what_a_user_does_with_his_session_is_in_the_log() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let (id, master) = (ada.user.clone().unwrap(), Client::master(&server));
    let log_in = json!({"auth_data": {"username": "ada"}, "password": PASSWORD});
    let session = ada.without_token().call("auth:login", log_in).result();
    let ada = ada.with_token(session["access_token"].as_str().unwrap());
    let change = json!({"old_password": PASSWORD, "password": "another-secret-of-it"});
    let session = ada.call("auth:password", change).result();
    let ada = ada.with_token(session["access_token"].as_str().unwrap());
    master
        .call("role:assign", json!({"roles": ["editor"], "users": [id]}))
        .result();
    ada.call("auth:logout", json!({})).result();
    let reset = json!({"auth_id": id, "password": "a-third-secret-of-it"});
    master.call("auth:reset_password", reset).result();
    let lock = json!({"auth_id": id, "disabled": true, "message": "spam"});
    master.call("auth:disable:set", lock).result();
    let lock = json!({"auth_id": id, "disabled": false});
    master.call("auth:disable:set", lock).result();

    let stream = format!("user/{id}");
    let all = events(&master, json!({"stream": stream}));
    let expected = [
        "user.created",
        "user.logged_in",
        "user.logged_in",
        "user.password_set",
        "user.changed",
        "user.logged_out",
        "user.password_set",
        "user.disabled",
        "user.enabled",
    ];
    assert_eq!(kinds(&all), expected);
    assert_eq!(all[2]["payload"]["keys"], json!(["username"]));
    assert_eq!(all[4]["payload"], json!({"roles_added": ["editor"]}));
    assert_eq!(all[7]["payload"]["message"], "spam");
    // The actor distinguishes a change from a reset.
    for (index, key) in [(2, "client"), (3, "client"), (5, "client"), (6, "master")] {
        assert_eq!(all[index]["actor"]["key"], key, "{}", all[index]);
    }
    assert_eq!(all[3]["actor"]["user"], json!(id));
    // Everything that the user did is found by their id, including logins.
    let own = events(&master, json!({"user": id, "kinds": ["user"]}));
    assert_eq!(own.len(), 5, "{own:?}");
    for event in &all {
        let text = event.to_string();
        assert!(
            !text.contains("argon2") && !text.contains("secret"),
            "{text}"
        );
    }
}

#[test]
fn a_login_with_an_account_elsewhere_names_the_service() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let account = json!({"provider": "com.example", "principal_id": "ada@example.com",
        "token_response": {"access_token": "a-token"}, "provider_profile": {}});
    let session = master.call("sso:oauth:signup", account.clone()).result();
    master.call("sso:oauth:login", account).result();
    let user = session["user_id"].clone();
    let logins = events(&master, json!({"kinds": ["user.logged_in"], "user": user}));
    assert_eq!(logins.len(), 2);
    for login in &logins {
        assert_eq!(login["payload"]["service"], "oauth/com.example");
        assert!(!login.to_string().contains("a-token"));
    }
    let stranger = json!({"provider": "com.example", "principal_id": "eve@example.com"});
    assert_eq!(master.call("sso:oauth:login", stranger).code(), 105);
    let expected = (Json::Null, "oauth/com.example", "wrong_credentials", 1);
    let found = refusals(&master, json!({}));
    let found: Vec<_> = found
        .iter()
        .map(|(user, way, why, count)| (user.clone(), way.as_str(), why.as_str(), *count))
        .collect();
    assert_eq!(found, [expected]);
}

#[test]
fn who_is_not_let_in_is_counted_and_the_log_grows_by_nothing() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let (id, master) = (json!(ada.user), Client::master(&server));
    let bob = Client::signed_up(&server, "bob");
    let lock = json!({"auth_id": bob.user, "disabled": true});
    master.call("auth:disable:set", lock).result();
    let head = |master: &Client| master.health()["log"]["head"].as_u64().unwrap();
    let before = head(&master);
    let nobody = Client::anonymous(&server);
    let tries = |name: &str, password: &str| {
        let body = json!({"auth_data": {"username": name}, "password": password});
        nobody.call("auth:login", body).code()
    };
    for _ in 0..5 {
        assert_eq!(tries("ada", "a-wrong-one"), 105);
    }
    // A password typed into the name field.
    assert_eq!(tries("a-canary-password", "ada"), 110);
    assert_eq!(tries("bob", PASSWORD), 127);
    let wrong = json!({"old_password": "a-wrong-one", "password": "another-secret-of-it"});
    ada.call("auth:password", wrong).code();
    assert_eq!(bob.call("me", json!({})).code(), 127);
    assert_eq!(head(&master), before);

    let row = |user: &Json, way: &str, reason: &str, count: i64| {
        (user.clone(), way.to_owned(), reason.to_owned(), count)
    };
    let mut expected = vec![
        row(&id, "change_password", "wrong_credentials", 1),
        row(&id, "password", "wrong_credentials", 5),
        row(&json!(bob.user), "password", "disabled", 1),
        row(&json!(bob.user), "token", "disabled", 1),
        row(&Json::Null, "password", "unknown_account", 1),
    ];
    let sorted = |mut rows: Vec<(Json, String, String, i64)>| {
        rows.sort_by_key(|row| format!("{row:?}"));
        rows
    };
    expected = sorted(expected);
    assert_eq!(sorted(refusals(&master, json!({}))), expected);
    assert_eq!(refusals(&master, json!({"user": id})).len(), 2);
    let past = json!({"until": "2020-01-01T00:00:00Z"});
    assert!(refusals(&master, past).is_empty());
    // They survive the process, and hold nothing that was typed.
    server.kill();
    server.restart();
    let master = Client::master(&server);
    assert_eq!(sorted(refusals(&master, json!({}))), expected);
    let pages = refusals(&master, json!({"limit": 1}));
    assert_eq!(pages.len(), 1);
    for name in ["ops.sqlite", "ops.sqlite-wal"] {
        let bytes = std::fs::read(server.data_dir().join(name)).unwrap_or_default();
        let canary = b"a-canary-password";
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
    assert_eq!(
        master.call("audit:refusals", json!({"limit": 0})).code(),
        108
    );
}

#[test]
fn a_throttled_account_is_one_row() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let nobody = Client::anonymous(&server);
    let guess = |number: u32| {
        let password = format!("wrong {number}");
        let body = json!({"auth_data": {"username": "ada"}, "password": password});
        nobody.call("auth:login", body).status
    };
    let refused = (0..40).filter(|number| guess(*number) == 429);
    let num_throttled = i64::try_from(refused.count()).unwrap();
    assert!(num_throttled > 20);
    let counted = refusals(&master, json!({"user": ada.user}));
    let throttled = counted.iter().find(|row| row.2 == "throttled");
    assert_eq!(throttled.unwrap().3, num_throttled);
    assert_eq!(counted.len(), 2);
}

#[test]
fn what_a_plugin_registers_is_told_once_until_it_is_something_else() {
    let server = TestServer::with(&[("PLUGINS", "NOTED")]);
    let master = Client::master(&server);
    let registered = || events(&master, json!({"kinds": ["plugin.registered"]}));
    let start = || {
        let mut command = python_plugin(&server, "tests/audit/plugin.py");
        Program::start(command.env("PLUGIN_NAME", "NOTED"))
    };
    let first = start();
    let told = eventually("the registration is in the log", || {
        Some(registered()).filter(|events| !events.is_empty())
    });
    let points = &told[0]["payload"]["points"];
    assert_eq!(points["op"], json!(["noted:hello"]));
    assert_eq!(
        points["hook"],
        json!(["beforeSave note note.beforeSave.trim"])
    );
    assert_eq!(told[0]["stream"], "plugin/NOTED");
    let by_plugin = events(&master, json!({"plugin": "NOTED", "kinds": ["plugin"]}));
    assert_eq!(by_plugin.len(), 1);
    first.terminate();
    let second = start();
    eventually("the plugin is back", || {
        (master.call("noted:hello", json!({})).status == 200).then_some(())
    });
    // This is committed after what would have been recorded.
    master.save("other/1", json!({"a": 1}));
    assert_eq!(registered().len(), 1);
    second.terminate();
}

#[test]
fn who_is_erased_is_not_among_those_who_were_not_let_in() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada").user.unwrap(),
        Client::signed_up(&server, "bob").user.unwrap(),
    );
    let try_as = |name: &str| {
        let wrong = json!({"auth_data": {"username": name}, "password": "guessed"});
        let refused = Client::anonymous(&server).call("auth:login", wrong);
        assert_eq!(refused.code(), 105);
    };
    ["ada", "bob"].into_iter().for_each(try_as);
    let of = |user: &str| refusals(&master, json!({"user": user})).len();
    eventually("both are listed", || {
        (of(&ada) == 1 && of(&bob) == 1).then_some(())
    });
    // A refusal that has not been written yet.
    try_as("ada");
    let erase = json!({"user": ada, "why": "a test"});
    let erased = master.call("erase:user", erase).result();
    assert_eq!(erased["finished"], true, "{erased}");
    ["bob", "bob"].into_iter().for_each(try_as);
    let all_of_bob = || refusals(&master, json!({"user": bob}))[0].3 == 3;
    eventually("what came later is written", || all_of_bob().then_some(()));
    assert_eq!((of(&ada), of(&bob)), (0, 1));
}
