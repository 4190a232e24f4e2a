//! Who may call what: every action and every address of the server, with what each kind of caller
//! gets. An action or address without a row fails the test, and so does any other answer.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use skytrail::http::checks::{Check, of_point};

use super::ops::Who;
use super::world::World;
use crate::plugin::worker::Worker;
use crate::support::client::status_of;
use crate::support::server::{API_KEY, MASTER_KEY};

/// The letters of the table: status, code and message. A dot means that the caller passes the
/// checks; what the action then answers is not tested here.
const LETTERS: &[(char, u16, i64, &str)] = &[
    ('K', 401, 101, "Api key is empty"),
    ('B', 401, 101, "Both api key and access token are empty"),
    (
        'L',
        401,
        101,
        "Authentication is required for this action, please login.",
    ),
    (
        'U',
        401,
        101,
        "User is required for this action, please login.",
    ),
    ('D', 403, 127, "user is disabled"),
    ('A', 401, 102, "no permission to perform this action"),
    ('M', 401, 102, "no permission to this action"),
    // In development mode everyone with a key passes.
    ('V', 403, 102, "Attempt to access dev only end-point"),
    ('O', 403, 102, "no permission to get other users' roles"),
];

/// The columns. Users send the client key too, except the one with only a token.
const CALLERS: [(&str, Who); 8] = [
    ("nobody", Who::Nobody),
    ("client key", Who::Client),
    ("token only", Who::Token(0)),
    ("user", Who::User(0)),
    ("disabled user", Who::User(1)),
    ("administrator", Who::User(2)),
    ("master key", Who::Master),
    ("master key as a user", Who::MasterAs(0)),
];

/// The checks of section 7 of v1's protocol, by row: nobody, client key, token only, user, disabled
/// user, administrator, master key, master key as a user.
const ROWS: &[(&str, &str)] = &[
    ("", ". . . . . . . ."),
    ("_status:healthz", ". . . . . . . ."),
    ("auth:signup", "K . K . . . . ."),
    ("auth:login", "K . K . . . . ."),
    ("sso:custom_token:login", "K . K . . . . ."),
    ("auth:logout", "B . . . . . . ."),
    ("auth:password", "B L . . D . . ."),
    ("auth:reset_password", "K M K M M M . ."),
    // Not in v1: users of another server.
    ("auth:import", "K M K M M M . ."),
    ("auth:export", "K M K M M M . ."),
    ("auth:disable:set", "B U A A U . . ."),
    ("sso:oauth:login", "K M K M M M . ."),
    ("sso:oauth:signup", "K M K M M M . ."),
    ("sso:oauth:link", "K M K M M M . ."),
    ("sso:oauth:unlink", "K M K M M M . ."),
    ("me", "B L . . D . . ."),
    ("asset:put", "K . K . . . . ."),
    ("device:register", "B L . . D . . ."),
    ("device:unregister", "B L . . D . . ."),
    ("push:device", "K . K . . . . ."),
    ("push:user", "K . K . . . . ."),
    // Not in v1: for browsers.
    ("push:web_key", "K . K . . . . ."),
    // Not in v1: pushes that wait.
    ("push:list", "K M K M M M . ."),
    ("push:withdraw", "K M K M M M . ."),
    ("push:retry", "K M K M M M . ."),
    // Not in v1: who could read what, who changed what, whose request was refused.
    ("audit:changes", "K M K M M M . ."),
    ("audit:readers", "K M K M M M . ."),
    ("audit:refusals", "K M K M M M . ."),
    // Not in v1: changes by SQL that the log could not take.
    ("captured:list", "K M K M M M . ."),
    ("captured:retry", "K M K M M M . ."),
    ("captured:discard", "K M K M M M . ."),
    // Not in v1: for plugins.
    ("delivery:list", "K M K M M M . ."),
    ("delivery:pause", "K M K M M M . ."),
    ("delivery:resume", "K M K M M M . ."),
    ("delivery:rewind", "K M K M M M . ."),
    ("delivery:redeliver", "K M K M M M . ."),
    ("delivery:dead_letters", "K M K M M M . ."),
    ("delivery:resend", "K M K M M M . ."),
    ("delivery:drop", "K M K M M M . ."),
    ("delivery:forget", "K M K M M M . ."),
    ("erase:record", "B U A A U . . ."),
    ("erase:event", "B U A A U . . ."),
    ("erase:field", "B U A A U . . ."),
    ("erase:user", "B U A A U . . ."),
    ("erase:list", "B U A A U . . ."),
    ("log:compact", "K M K M M M . ."),
    ("log:consumer:create", "K M K M M M . ."),
    ("log:consumer:delete", "K M K M M M . ."),
    ("log:read", "K M K M M M . ."),
    ("plugin:list", "K M K M M M . ."),
    ("plugin:calls", "K M K M M M . ."),
    ("plugin:test", "K M K M M M . ."),
    ("plugin:init", "K M K M M M . ."),
    ("plugin:replay", "K M K M M M . ."),
    ("pubsub:publish", "K M K M M M . ."),
    ("task:list", "K M K M M M . ."),
    ("task:run", "K M K M M M . ."),
    ("task:pause", "K M K M M M . ."),
    ("task:resume", "K M K M M M . ."),
    ("record:export", "K M K M M M . ."),
    ("record:import", "K M K M M M . ."),
    ("history:list", "B L A A D . . ."),
    ("history:restore", "B L A A D . . ."),
    ("record:save", "B L . . D . . ."),
    ("record:delete", "B L . . D . . ."),
    // A disabled user is anonymous here, as in v1.
    ("record:fetch", "B . . . . . . ."),
    ("record:query", "B . . . . . . ."),
    // v1 also runs these without a user; see docs/COMPATIBILITY.md.
    ("relation:add", "B L . . D . . ."),
    ("relation:query", "B L . . D . . ."),
    ("relation:remove", "B L . . D . . ."),
    ("relation:delete", "B L . . D . . ."),
    ("role:default", "K V K V V V . ."),
    ("role:admin", "K V K V V V . ."),
    ("role:assign", "B U A A U . . ."),
    ("role:revoke", "B U A A U . . ."),
    // Other users' roles.
    ("role:get", "B L O O L . . ."),
    ("role:export", "K M K M M M . ."),
    ("role:import", "K M K M M M . ."),
    ("schema:create", "K V K V V V . ."),
    ("schema:rename", "K V K V V V . ."),
    ("schema:delete", "K V K V V V . ."),
    ("schema:fetch", "K V K V V V . ."),
    ("schema:access", "K V K V V V . ."),
    ("schema:default_access", "K V K V V V . ."),
    ("schema:temporal", "K V K V V V . ."),
    ("schema:retention", "B U A A U . . ."),
    ("schema:personal", "B U A A U . . ."),
    ("schema:unique", "K V K V V V . ."),
    ("schema:settings", "K V K V V V . ."),
    ("schema:field_access:get", "B U A A U . . ."),
    ("schema:field_access:update", "B U A A U . . ."),
    ("subscription:delete", "B L . . D . . ."),
    ("subscription:fetch", "B L . . D . . ."),
    ("subscription:fetch_all", "B L . . D . . ."),
    ("subscription:save", "B L . . D . . ."),
];

/// Plugins' lambdas, by what they require, as above.
const LAMBDAS: &[(&str, &str)] = &[
    ("open", ". . . . . . . ."),
    ("keyed", "B . . . . . . ."),
    ("own", "B L . . D . . ."),
];

/// Addresses other than those of actions: method, path, and the statuses for nobody, a wrong key,
/// the client key and the master key.
const ADDRESSES: &[(&str, &str, [u16; 4])] = &[
    ("GET", "/_/health", [200, 401, 200, 200]),
    ("GET", "/_/metrics", [401, 401, 401, 200]),
    // A download needs a signature, whatever the key. An upload passes the checks, and is then
    // empty.
    ("GET", "/files/{name:.*}", [400, 400, 400, 400]),
    ("PUT", "/files/{name:.*}", [401, 401, 400, 400]),
    ("POST", "/files/{name:.*}", [401, 401, 400, 400]),
    // Passes the checks, and then fails because it is no upgrade.
    ("GET", "/pubsub", [401, 401, 400, 400]),
    ("GET", "/_/pubsub", [401, 401, 400, 400]),
    ("GET", "/_/plugin", [401, 401, 403, 426]),
    ("GET", "/_/sandbox/_/plugin", [401, 401, 403, 426]),
    // Without an upgrade there is no such address.
    ("GET", "/log", [404, 404, 404, 404]),
    ("GET", "/log/follow", [401, 401, 401, 200]),
    ("POST", "/log/follow", [401, 401, 401, 200]),
    ("GET", "/log/search", [401, 401, 401, 200]),
    ("POST", "/log/search", [401, 401, 401, 200]),
    ("GET", "/live", [404, 404, 404, 404]),
    // Passes the checks, and then fails because a record type is missing.
    ("GET", "/live/query", [401, 401, 400, 400]),
    ("POST", "/live/query", [401, 401, 400, 400]),
];

/// The body for an action: enough to reach the action's own errors.
fn body_for(action: &str, world: &World) -> Map<String, Json> {
    let body = match action {
        "role:get" => json!({"users": [world.user(3)]}),
        "role:assign" | "role:revoke" => json!({"users": [world.user(3)], "roles": ["red"]}),
        _ => json!({}),
    };
    body.as_object().unwrap().clone()
}

/// Returns whether this server has an action: rows of future ones already exist.
fn knows(action: &str) -> bool {
    skytrail::action::find(action).is_some()
}

fn letter_of(status: u16, body: &Json) -> char {
    let error = &body["error"];
    let is_it = |(_, expected, code, message): &&(char, u16, i64, &str)| {
        (status, &error["code"], &error["message"]) == (*expected, &json!(code), &json!(message))
    };
    LETTERS
        .iter()
        .find(is_it)
        .map_or('.', |(letter, ..)| *letter)
}

/// Signs the columns' users up: the second is disabled, the third an administrator.
fn furnish(world: &mut World) {
    world.sign_up_plainly(4);
    let settle = |action: &str, body: Json| {
        let settled = world.call(Who::Master, action, body.as_object().unwrap().clone());
        assert_eq!(settled.unwrap().status, 200, "{action}");
    };
    settle(
        "role:assign",
        json!({"users": [world.user(2)], "roles": ["Admin"]}),
    );
    settle(
        "auth:disable:set",
        json!({"auth_id": world.user(1), "disabled": true}),
    );
}

/// Returns whether a disabled user is anonymous to an action or a lambda.
fn makes_anonymous(action: &str) -> bool {
    let listed = skytrail::action::ACTIONS.iter();
    let checks = listed.filter(|it| it.name == action).map(|it| it.checks);
    checks.chain(lambda_checks(action)).any(|checks| {
        let mut checks = checks.iter();
        checks.any(|check| matches!(check, Check::InjectAuth | Check::DropRefused))
    })
}

/// Returns the checks of a lambda of the table.
fn lambda_checks(name: &str) -> Option<&'static [Check]> {
    let is_lambda = LAMBDAS.iter().any(|(row, _)| *row == name);
    is_lambda.then(|| of_point(name == "keyed", name == "own"))
}

/// Returns the columns of a row. Each column of a user stands for two callers: the user, and the
/// master key with only the rights of that user, which is refused where the user is anonymous.
fn columns((action, letters): (&str, &str)) -> Vec<(String, Who, char)> {
    let letters = letters.chars().filter(|letter| *letter != ' ');
    let mut columns = Vec::new();
    for ((caller, who), letter) in CALLERS.iter().zip(letters) {
        columns.push(((*caller).to_owned(), *who, letter));
        if let Who::User(user) = who {
            let is_refused = *caller == "disabled user" && makes_anonymous(action);
            let letter = if is_refused { 'D' } else { letter };
            let caller = format!("master key with the rights of: {caller}");
            columns.push((caller, Who::RightsOf(*user), letter));
        }
    }
    columns
}

/// Calls as every kind of caller; returns how the answers differ from the row.
fn hold(world: &World, (action, letters): (&str, &str), is_dev: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (caller, who, expected) in columns((action, letters)) {
        let expected = if expected == 'V' && is_dev {
            '.'
        } else {
            expected
        };
        let reply = world.call(who, action, body_for(action, world)).unwrap();
        let got = letter_of(reply.status, &reply.body);
        let is_unknown = reply.body["error"]["code"] == 117;
        if got != expected || is_unknown {
            wrong.push(format!(
                "{action:?} by {caller}, development mode {is_dev}: {expected:?} became {}",
                reply.body
            ));
        }
    }
    wrong
}

#[test]
fn every_action_is_for_those_whom_the_table_names() {
    let unlisted = skytrail::action::ACTIONS.iter().map(|action| action.name);
    let unlisted: Vec<_> = unlisted
        .filter(|name| !ROWS.iter().any(|(row, _)| row == name))
        .collect();
    assert!(unlisted.is_empty(), "actions without a row: {unlisted:?}");
    let mut wrong = Vec::new();
    for (dev_mode, is_dev) in [("YES", true), ("NO", false)] {
        let mut world = World::with(&[("DEV_MODE", dev_mode)]);
        furnish(&mut world);
        let known = ROWS.iter().filter(|(action, _)| knows(action));
        wrong.extend(known.flat_map(|row| hold(&world, *row, is_dev)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_lambda_is_for_those_whom_the_table_names() {
    let mut world = World::with(&[("PLUGINS", "TEST")]);
    // They never answer: a caller that passes the checks gets a timeout.
    let lambda = |name: &str, key: bool, user: bool| json!({"name": name, "key_required": key, "user_required": user, "timeout_ms": 20});
    let lambdas = [
        lambda("open", false, false),
        lambda("keyed", true, false),
        lambda("own", false, true),
    ];
    let worker = Worker::ready(&world.server, &json!({}), &json!({"op": lambdas}));
    furnish(&mut world);
    let wrong: Vec<_> = LAMBDAS
        .iter()
        .flat_map(|row| hold(&world, *row, true))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(worker);
}

/// Returns every literal path that the program registers.
fn registered() -> BTreeSet<String> {
    let pattern =
        regex::Regex::new(r#"(?:route|resource|hub_route|PATH: &str =)[\s(]*"(/[^"]*)""#).unwrap();
    // The paths in a file are within its scope, if it has one.
    let scope = regex::Regex::new(r#"scope\("(/[^"]*)"\)"#).unwrap();
    let mut folders = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    let mut paths = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let prefix = scope.captures(&text);
            let prefix = prefix.map_or(String::new(), |found| found[1].to_owned());
            let found = pattern.captures_iter(&text);
            paths.extend(found.map(|found| format!("{prefix}{}", &found[1])));
        }
    }
    paths
}

#[test]
fn every_address_is_for_those_whom_the_table_names() {
    let listed: BTreeSet<String> = ADDRESSES
        .iter()
        .map(|(_, path, _)| (*path).to_owned())
        .collect();
    assert_eq!(
        registered(),
        listed,
        "addresses registered, and those that have a row"
    );
    let world = World::with(&[]);
    for (method, path, statuses) in ADDRESSES {
        let keys = ["", "wrong", API_KEY, MASTER_KEY];
        let got = keys.map(|key| {
            let path = path.replace("{name:.*}", "some.txt");
            let url = format!("{}{path}", world.server.base_url);
            let headers = [("X-Skygear-API-Key".to_owned(), key.to_owned())];
            status_of(method, &url, &headers)
        });
        assert_eq!(got, *statuses, "{method} {path}");
    }
}
