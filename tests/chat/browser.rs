//! The chat's page in a real browser: with several people, with strangers, in trouble and in a
//! crowd.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use super::start_plugin;
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::program::{Program, bounded, repository, set_up};
use crate::support::proxy::Proxy;
use crate::support::server::{TestServer, lasting_address};

/// The folder for the screenshots, which are there to be looked at.
fn screenshots() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chat");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Starts a server and its plugin, and waits until the page is served.
fn start() -> (TestServer, Program) {
    // A page that was loaded before a restart uses the address that it was loaded from.
    let server = TestServer::with(&[("PLUGINS", "CHAT"), ("HOST", &lasting_address())]);
    let plugin = start_plugin(&server);
    eventually("the page is served", || {
        let page = send("GET", &format!("{}/chat/key", server.base_url), &[], None);
        page.ok().filter(|answer| answer.status == 200)
    });
    (server, plugin)
}

/// Runs a script of `tests/node/browser` to its end; `obey` carries out what the script asks for
/// with a line.
fn run(script: &str, arguments: &[OsString], mut obey: impl FnMut(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let mut node = bounded("node")
        .arg(repository(&format!("tests/node/browser/{script}")))
        .arg(folder.path())
        .args(arguments)
        .env("NODE_PATH", set_up("tests/node/node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = node.stdin.take().unwrap();
    let output = node.stdout.take().unwrap();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        obey(&line);
        writeln!(input, "done").unwrap();
    }
    assert!(node.wait().unwrap().success());
}

#[test]
fn two_people_chat_in_browsers_and_a_lost_network_loses_nothing() {
    let (server, _plugin) = start();
    let proxy = Proxy::to(server.address());
    let addresses = [server.base_url.clone().into(), proxy.base_url().into()];
    let arguments = [&addresses[..], &[screenshots().into()]].concat();
    run("chat.js", &arguments, |line| match line {
        "cut" => proxy.block(),
        "mend" => proxy.unblock(),
        other => panic!("{other}"),
    });
    // Missed events were replayed from the log, not queried.
    let live = &Client::master(&server).health()["live"];
    assert!(live["num_replays"].as_u64().unwrap() >= 1, "{live}");
}

#[test]
fn a_stranger_with_the_key_of_the_page_hears_and_forges_nothing() {
    let (server, _plugin) = start();
    run("strangers.js", &[server.base_url.clone().into()], |line| {
        panic!("{line}")
    });
}

#[test]
fn what_goes_wrong_is_said_and_made_up_for_when_the_server_and_its_plugin_are_back() {
    let (mut server, plugin) = start();
    let mut plugin = Some(plugin);
    let address = server.base_url.clone();
    run("trouble.js", &[address.into()], |line| match line {
        "stop both" => {
            server.kill();
            plugin = None;
        }
        "start the server" => server.restart(),
        "start the plugin" => plugin = Some(start_plugin(&server)),
        other => panic!("{other}"),
    });
}

#[test]
fn many_messages_and_many_rooms_are_all_there() {
    let (server, _plugin) = start();
    run("crowd.js", &[server.base_url.clone().into()], |line| {
        panic!("{line}")
    });
}
