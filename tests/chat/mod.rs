//! The chat example, run as its README says: the published SDK in node, a plugin in Python.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// The example's plugin, ended with the test.
struct Plugin(Child);

impl Plugin {
    fn start(server: &TestServer) -> Self {
        let child = Command::new(set_up(".venv/bin/python"))
            .arg(repository("examples/chat/plugin.py"))
            .env("SKYGEAR_ENDPOINT", &server.base_url)
            .env("MASTER_KEY", MASTER_KEY)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Asks the plugin to end and waits until it has.
    fn terminate(mut self) {
        let pid = self.0.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let status = eventually("the plugin ends", || self.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns something that the set-up makes, or says how to make it.
fn set_up(path: &str) -> PathBuf {
    let path = repository(path);
    assert!(path.exists(), "no {path:?}: run tests/run.sh --setup once");
    path
}

#[test]
fn two_people_chat_and_their_messages_survive_a_kill() {
    let mut server = TestServer::with(&[("PLUGINS", "CHAT")]);
    let plugin = Plugin::start(&server);
    // The script gives up by itself in the end.
    let chat = Command::new("node")
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
    let _plugin = Plugin::start(&server);
    let master = Client::master(&server);
    let messages = eventually("the plugin is back", || {
        let answer = master.call("record:query", json!({"record_type": "message"}));
        (answer.status == 200).then(|| answer.result())
    });
    assert_eq!(messages.as_array().unwrap().len(), 3);
}
