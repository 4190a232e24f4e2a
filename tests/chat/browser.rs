//! The chat's page in a real browser, twice; one of the two loses the network for a while.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::start_plugin;
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::program::{repository, set_up};
use crate::support::proxy::Proxy;
use crate::support::server::TestServer;

/// Where the screenshots are kept, to be looked at.
fn screenshots() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chat");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn two_people_chat_in_browsers_and_a_lost_network_loses_nothing() {
    let server = TestServer::with(&[("PLUGINS", "CHAT")]);
    let _plugin = start_plugin(&server);
    let proxy = Proxy::to(server.address());
    eventually("the page is served", || {
        let page = send("GET", &format!("{}/chat/key", server.base_url), &[], None);
        page.ok().filter(|answer| answer.status == 200)
    });
    let profile = tempfile::tempdir().unwrap();
    let mut script = Command::new("node")
        .arg(repository("tests/node/browser/chat.js"))
        .args([&server.base_url, &proxy.base_url()])
        .args([profile.path(), &screenshots()])
        .env("NODE_PATH", set_up("tests/node/node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = script.stdin.take().unwrap();
    let output = script.stdout.take().unwrap();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.as_str() {
            "cut" => proxy.block(),
            "mend" => proxy.unblock(),
            other => panic!("{other}"),
        }
        writeln!(input, "done").unwrap();
    }
    assert!(script.wait().unwrap().success());
    // What was missed was told out of the log, not asked for.
    let live = &Client::master(&server).health()["live"];
    assert!(live["num_replays"].as_u64().unwrap() >= 1, "{live}");
}
