//! Our own Python package: its unit tests, and a plugin with every extension point, run by the real
//! server and tested by clients.

mod points;
mod process;
mod resume;

use std::process::Command;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python, python_plugin, repository};
use crate::support::server::TestServer;

/// Starts a server that waits for the plugin.
fn server() -> TestServer {
    TestServer::with(&[("PLUGINS", "DEMO")])
}

fn command(server: &TestServer) -> Command {
    let mut command = python_plugin(server, "tests/python_sdk/plugin.py");
    command.env("PLUGIN_NAME", "DEMO");
    command
}

/// Starts the plugin and waits until clients are served.
fn start(server: &TestServer) -> Program {
    let plugin = Program::start(&mut command(server));
    await_ready(server);
    plugin
}

fn await_ready(server: &TestServer) {
    let client = Client::anonymous(server);
    eventually("the plugin is ready", || {
        (client.call("demo:seen", json!({})).status == 200).then_some(())
    });
}

/// Returns what the plugin's process has seen.
fn seen(server: &TestServer) -> Json {
    let client = Client::anonymous(server);
    client.call("demo:seen", json!({})).result()
}

/// Calls a lambda with a list of arguments.
fn lambda(client: &Client, name: &str, args: Json) -> Json {
    client.call(name, json!({"args": args})).result()
}

#[test]
fn the_packages_own_tests_pass() {
    let folder = repository("sdks/python");
    let mut tests = python();
    tests.args(["-m", "unittest", "discover", "-s", ".", "-t", "."]);
    let done = tests.current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    // A folder without tests succeeds, too.
    let count = said.lines().find_map(|line| line.strip_prefix("Ran "));
    let count = count.and_then(|rest| rest.split(' ').next());
    assert!(count.unwrap().parse::<u32>().unwrap() > 50, "{said}");
}
