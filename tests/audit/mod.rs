//! The audit trail: its content, and that it delays nothing.

mod acts;
mod sessions;

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

const SECRET: &str = "custom-token-secret-of-the-tests";

/// Does everything that is recorded; returns the ids of the user who did it and of another.
fn act(server: &TestServer) -> [String; 2] {
    let mut ada = Client::signed_up(server, "ada");
    let master = Client::master(server);
    let login = |password: &str| {
        let body = json!({"auth_data": {"username": "ada"}, "password": password});
        Client::anonymous(server).call("auth:login", body)
    };
    login("secret-of-the-test").result();
    assert_eq!(login("wrong-secret").code(), 105);
    let nobody = json!({"auth_data": {"username": "nobody"}, "password": "wrong-secret"});
    Client::anonymous(server).call("auth:login", nobody);
    let change = json!({"old_password": "wrong-secret", "password": "another-secret"});
    assert_eq!(ada.call("auth:password", change).code(), 105);
    let change = json!({"old_password": "secret-of-the-test", "password": "another-secret"});
    let changed = ada.call("auth:password", change).result();
    ada = ada.with_token(changed["access_token"].as_str().unwrap());
    let disable = |disabled| {
        let body = json!({"auth_id": ada.user, "disabled": disabled, "message": "no"});
        master.call("auth:disable:set", body).result();
    };
    disable(true);
    disable(false);
    master.call("role:default", json!({"roles": []})).result();
    master
        .call("role:admin", json!({"roles": ["Admin"]}))
        .result();
    let roles = json!({"roles": ["Admin"], "users": [ada.user]});
    master.call("role:assign", roles).result();
    ada.call("role:revoke", json!({"roles": ["x"], "users": ["y"]}))
        .result();
    ada.call("auth:logout", json!({})).result();
    let reset = json!({"auth_id": ada.user, "password": "third-secret"});
    master.call("auth:reset_password", reset).result();
    let account = json!({"provider": "p", "principal_id": "al", "user_id": ada.user});
    master.call("sso:oauth:link", account.clone()).result();
    master.call("sso:oauth:login", account.clone()).result();
    master.call("sso:oauth:unlink", account.clone()).result();
    master.call("sso:oauth:login", account.clone());
    let other = master.call("sso:oauth:signup", account).result();
    let role = json!({"name": "Root", "is_admin": true});
    for is_dry in [true, false, false] {
        let body = json!({"roles": [role], "dry_run": is_dry});
        master.call("role:import", body).result();
    }
    let users = json!({"users": [
        {"id": "eve", "auth_data": {"username": "eve"}, "roles": ["Root"]},
        {"id": "refused", "auth_data": {"nonsense": "x"}, "roles": ["Other"]},
    ]});
    master.call("auth:import", users).result();
    master
        .call(
            "schema:access",
            json!({"type": "note", "create_roles": ["Root"]}),
        )
        .result();
    master
        .call(
            "auth:export",
            json!({"ids": ["eve"], "password_hashes": true}),
        )
        .result();
    let asked = json!({"stream": "note/nobody", "why": "he asked for it"});
    assert!(master.call("erase:record", asked).code() > 0);
    let erased = json!({"user": "eve", "why": "he asked for it", "secret": "a-secret-of-his"});
    master.call("erase:user", erased).result();
    let bad = json!({"token": "bad-custom-token"});
    assert_eq!(
        Client::anonymous(server)
            .call("sso:custom_token:login", bad)
            .code(),
        107
    );
    [
        ada.user.take().unwrap(),
        other["user_id"].as_str().unwrap().to_owned(),
    ]
}

/// What [`act`] leaves: event, user, details.
fn expected([ada, other]: &[String; 2]) -> Vec<(String, String, Json)> {
    let oauth = json!({"service": "oauth/p"});
    let none = json!({});
    [
        ("signup", ada.as_str(), none.clone()),
        ("login_success", ada, none.clone()),
        ("login_failure", ada, none.clone()),
        ("login_failure", "", none.clone()),
        ("change_password_failure", ada, none.clone()),
        ("change_password", ada, none.clone()),
        ("disable_user", ada, json!({"message": "no"})),
        ("enable_user", ada, none.clone()),
        ("set_default_roles", "", json!({"roles": []})),
        ("set_admin_roles", "", json!({"roles": ["Admin"]})),
        (
            "change_roles",
            "_god",
            json!({"type": "assign", "user_ids": [ada], "roles": ["Admin"]}),
        ),
        (
            "change_roles",
            ada,
            json!({"type": "revoke", "user_ids": ["y"], "roles": ["x"]}),
        ),
        ("logout", ada, none.clone()),
        ("reset_password", ada, none),
        (
            "link_account",
            ada,
            json!({"service": "oauth/p", "principal": "al"}),
        ),
        ("login_success", ada, oauth.clone()),
        ("unlink_account", ada, oauth.clone()),
        ("login_failure", "", oauth.clone()),
        ("signup", other, oauth),
        (
            "administration",
            "",
            administration("role:import", 200, json!({"dry_run": true})),
        ),
        (
            "import_roles",
            "",
            json!({"roles": [{"name": "Root", "is_admin": true, "by_default": false}]}),
        ),
        (
            "administration",
            "",
            administration("role:import", 200, json!({"dry_run": false})),
        ),
        (
            "import_users",
            "",
            json!({"user_ids": ["eve"], "roles": ["Root"]}),
        ),
        (
            "administration",
            "",
            administration(
                "schema:access",
                200,
                json!({"type": "note", "create_roles": ["Root"]}),
            ),
        ),
        (
            "administration",
            "",
            administration(
                "auth:export",
                200,
                json!({"ids": ["eve"], "password_hashes": true}),
            ),
        ),
        (
            "administration",
            "_god",
            administration(
                "erase:record",
                400,
                json!({"stream": "note/nobody", "why": "he asked for it"}),
            ),
        ),
        (
            "administration",
            "_god",
            administration(
                "erase:user",
                200,
                json!({"user": "eve", "why": "he asked for it"}),
            ),
        ),
        ("login_failure", "", json!({"service": "custom_token"})),
    ]
    .map(|(event, user, data)| (event.to_owned(), user.to_owned(), data))
    .to_vec()
}

fn administration(action: &str, status: u16, asked: Json) -> Json {
    json!({"action": action, "asked": asked, "status": status})
}

/// Parses the entries among lines.
fn entries(lines: &str) -> Vec<Json> {
    let parsed = lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    parsed
        .filter(|entry: &Json| entry["msg"] == "audit_trail")
        .collect()
}

fn summary(entry: &Json) -> (String, String, Json) {
    let text = |name: &str| entry[name].as_str().unwrap().to_owned();
    (text("event"), text("auth_id"), entry["data"].clone())
}

#[test]
fn every_event_is_written_to_the_file_and_to_the_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let url = format!("file://{}", file.display());
    let mut server = TestServer::with(&[
        ("USER_AUDIT_ENABLED", "YES"),
        ("USER_AUDIT_TRAIL_HANDLER_URL", &url),
        ("CUSTOM_TOKEN_SECRET", SECRET),
    ]);
    let users = act(&server);
    let headers = [
        ("X-Skygear-API-Key", API_KEY),
        ("X-Forwarded-For", "8.8.8.8"),
        ("X-Forwarded-For", "10.1.2.3, 10.0.0.1"),
        ("X-Real-IP", "10.1.2.3"),
        ("Forwarded", "for=10.1.2.3"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let body = json!({"auth_data": {"username": "nobody"}, "password": "wrong-secret"});
    let url = format!("{}/auth/login", server.base_url);
    send("POST", &url, &headers, Some(body.to_string().into_bytes())).unwrap();
    server.terminate();

    let written = entries(&std::fs::read_to_string(&file).unwrap());
    let mut expected_entries = expected(&users);
    expected_entries.push(("login_failure".to_owned(), String::new(), json!({})));
    let found: Vec<_> = written.iter().map(summary).collect();
    assert_eq!(found, expected_entries);
    let last = written.last().unwrap();
    assert_eq!(last["http_x_forwarded_for"], "8.8.8.8, 10.1.2.3, 10.0.0.1");
    assert_eq!(last["http_x_real_ip"], "10.1.2.3");
    assert_eq!(last["http_forwarded"], "for=10.1.2.3");
    assert_eq!(last["level"], "info");
    assert!(last["time"].as_str().unwrap().ends_with('Z'));
    let peer = last["tcp_remote_addr"].as_str().unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");

    for entry in &written {
        assert_eq!(entry["request"].as_str().unwrap().len(), 36, "{entry}");
    }
    let by = |event: &str| {
        let entry = written.iter().find(|entry| entry["event"] == event);
        entry.unwrap()["actor"].clone()
    };
    let client = json!({"key": "client", "origin": "api"});
    let as_ada = json!({"user": users[0], "key": "client", "origin": "api"});
    assert_eq!(by("login_success"), client);
    assert_eq!(by("change_password_failure"), as_ada);
    let god = json!({"user": "_god", "key": "master", "origin": "api"});
    assert_eq!(by("disable_user"), god);
    let master = json!({"key": "master", "origin": "api"});
    assert_eq!(by("reset_password"), master);

    assert_eq!(entries(&server.output()), written);
    let text = std::fs::read_to_string(&file).unwrap();
    let secrets = [
        "secret-of-the-test",
        "wrong-secret",
        MASTER_KEY,
        API_KEY,
        SECRET,
        "a-secret-of-his",
    ];
    for secret in secrets.iter().chain(&["bad-custom-token"]) {
        assert!(!text.contains(secret), "{secret}");
    }
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_the_setting_there_is_no_trail() {
    let mut server = TestServer::with(&[("CUSTOM_TOKEN_SECRET", SECRET)]);
    act(&server);
    server.terminate();
    assert_eq!(entries(&server.output()), Vec::<Json>::new());
}

#[test]
fn fluentd_gets_every_event_and_one_that_does_not_read_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("fluentd://{}", listener.local_addr().unwrap());
    let server = TestServer::with(&[
        ("USER_AUDIT_ENABLED", "YES"),
        ("USER_AUDIT_TRAIL_HANDLER_URL", &url),
        ("CUSTOM_TOKEN_SECRET", SECRET),
    ]);
    // Nothing has accepted the connection yet.
    let users = act(&server);
    let (mut connection, _) = listener.accept().unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut messages = rmp_serde::Deserializer::new(&mut connection);
    let expected_entries = expected(&users);
    let found: Vec<_> = expected_entries
        .iter()
        .map(|_| {
            let message: (String, i64, Json) =
                serde::Deserialize::deserialize(&mut messages).unwrap();
            assert_eq!(message.0, "skygear.audit");
            assert!(message.1 > 1_600_000_000);
            summary(&message.2)
        })
        .collect();
    assert_eq!(found, expected_entries);
    let state = eventually("the state is shown", || {
        let state = state(&server)?;
        (state["num_written"] == json!(expected_entries.len())).then_some(state)
    });
    assert_eq!(state["num_dropped"], 0);
}

fn health(server: &TestServer) -> Json {
    let headers = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let url = format!("{}/_/health", server.base_url);
    send("GET", &url, &headers, None).unwrap().json()
}

/// Returns the trail's state from the server's health.
fn state(server: &TestServer) -> Option<Json> {
    find(&health(server), "num_written").cloned()
}

#[test]
fn what_fluentd_never_took_is_not_written_and_the_log_says_so_at_the_end() {
    // Nothing listens there.
    let mut server = TestServer::with(&[
        ("USER_AUDIT_ENABLED", "YES"),
        ("USER_AUDIT_TRAIL_HANDLER_URL", "fluentd://127.0.0.1:1"),
    ]);
    Client::signed_up(&server, "ada");
    eventually("the entry is on the standard error", || {
        (entries(&server.output()).len() == 1).then_some(())
    });
    let health = eventually("the trouble is shown", || {
        let health = health(&server);
        (health["status"] == "degraded").then_some(health)
    });
    let reason = health["reasons"][0].as_str().unwrap();
    assert!(
        reason.starts_with("the audit trail cannot be written: "),
        "{reason}"
    );
    let state = state(&server).unwrap();
    assert_eq!(
        (&state["num_written"], &state["num_dropped"]),
        (&json!(0), &json!(0))
    );
    assert!(server.terminate().success());
    let output = server.output();
    let said = output
        .lines()
        .find(|line| line.contains("audit trail have been lost"));
    let said = said.expect("the loss is told");
    assert!(
        said.contains("ERROR") && said.contains("dropped=1"),
        "{said}"
    );
}

/// Finds the object with a member of that name.
fn find<'a>(json: &'a Json, name: &str) -> Option<&'a Json> {
    let object = json.as_object()?;
    if object.contains_key(name) {
        return Some(json);
    }
    object.values().find_map(|inner| find(inner, name))
}
