//! The chat example, run as its README says: the published SDK in node and a page in browsers, with
//! a plugin in Python.

mod browser;

use std::process::Stdio;

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, bounded, python_plugin, repository, set_up};
use crate::support::server::{API_KEY, TestServer};

fn start_plugin(server: &TestServer) -> Program {
    Program::start(&mut python_plugin(server, "examples/chat/plugin.py"))
}

#[test]
fn two_people_chat_and_their_messages_survive_a_kill() {
    let mut server = TestServer::with(&[("PLUGINS", "CHAT")]);
    let plugin = start_plugin(&server);
    // The script finally gives up by itself.
    let chat = bounded("node")
        .arg(repository("examples/chat/chat.js"))
        .env("NODE_PATH", set_up("tests/node/node_modules"))
        .env("SKYGEAR_ENDPOINT", format!("{}/", server.base_url))
        .env("API_KEY", API_KEY)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&chat.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&chat.stderr);
    assert!(chat.status.success(), "{said}\n{wrong}");
    let expected = [
        "# engines",
        "ada: Does it run yet? (4 words)",
        "ben: It does. Every write is an event. (7 words)",
        "ada: Then I can look back. (5 words)",
        "ben, refused: a message needs a text",
        "3 messages, 16 words",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    plugin.terminate();

    server.kill();
    server.restart();
    let _plugin = start_plugin(&server);
    let master = Client::master(&server);
    let messages = eventually("the plugin is back", || {
        let answer = master.call("record:query", json!({"record_type": "message"}));
        (answer.status == 200).then(|| answer.result())
    });
    assert_eq!(messages.as_array().unwrap().len(), 3);
}
