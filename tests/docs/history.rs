//! docs/HISTORY.md: its commands print what the page shows, except positions, times and ids.

use regex::Regex;
use serde_json::json;

use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

const PAGE: &str = include_str!("../../docs/HISTORY.md");

/// A command and its output.
struct Example {
    command: Vec<String>,
    expected: String,
}

fn examples() -> Vec<Example> {
    let blocks = PAGE.split("```console\n").skip(1);
    let example = |block: &str| {
        let block = block.split("```").next().unwrap();
        let (command, expected) = block.split_once('\n').unwrap();
        let words = command.strip_prefix("$ skytrail ").unwrap().split(' ');
        Example {
            command: words.map(str::to_owned).collect(),
            expected: expected.to_owned(),
        }
    };
    blocks.map(example).collect()
}

/// Does what the page tells its reader; returns the moment that the page names, and the ids.
fn set_the_scene(server: &TestServer) -> (String, String, String) {
    let (ada, bob) = (
        Client::signed_up(server, "ada"),
        Client::signed_up(server, "bob"),
    );
    let master = Client::master(server);
    let id = bob.user.clone().unwrap();
    let role = json!({"roles": ["editor"], "users": [id]});
    master.call("role:assign", role.clone()).result();
    ada.save("note/0", json!({"title": "Something else"}));
    let editors = json!([{"level": "read", "role": "editor"}]);
    ada.save("note/1", json!({"title": "Draft", "_access": editors}));
    let events = master.call("log:read", json!({"record": "note/1"}));
    let moment = events.result()[0]["time"].as_str().unwrap().to_owned();
    master.call("role:revoke", role).result();
    let everybody = json!([{"level": "read", "public": true}]);
    ada.save("note/1", json!({"title": "Final", "_access": everybody}));
    ada.call("auth:logout", json!({})).result();
    let wrong = json!({"auth_data": {"username": "bob"}, "password": "a-wrong-one"});
    assert_eq!(bob.without_token().call("auth:login", wrong).code(), 105);
    (moment, ada.user.unwrap(), id)
}

/// Replaces what differs from run to run.
fn plain(text: &str) -> String {
    let time = Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").unwrap();
    let text = time.replace_all(text, "TIME");
    let position = Regex::new(r"(?m)^ *\d+(  TIME  )|at position \d+").unwrap();
    let text = position.replace_all(&text, "N$1");
    // Columns are as wide as their content.
    let text = Regex::new(" +").unwrap().replace_all(&text, " ");
    // Users are listed in the order of their ids, which are random.
    let (mut users, mut lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with(" user "));
    users.sort_unstable();
    lines.extend(users);
    lines.join("\n")
}

#[test]
fn every_command_prints_what_the_page_says() {
    let server = TestServer::start();
    let (moment, ada, bob) = set_the_scene(&server);
    let examples = examples();
    assert!(examples.len() > 5);
    let master = Client::master(&server);
    let head = master.health()["log"]["head"].to_string();
    let key = format!("MASTER_KEY={MASTER_KEY}");
    for Example { command, expected } in examples {
        let word = |word: &String| match word.as_str() {
            "2026-11-20T12:00:00Z" => moment.clone(),
            "12" => head.clone(),
            word => word.replace("ada-id", &ada).replace("bob-id", &bob),
        };
        let mut words: Vec<String> = command.iter().map(word).collect();
        words.extend(["--server", &server.base_url, "--set", &key].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = server.skytrail(&words);
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.replace(&ada, "ada-id").replace(&bob, "bob-id");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {complaint}");
        assert_eq!(plain(&said), plain(&expected), "{command:?}");
    }
}
