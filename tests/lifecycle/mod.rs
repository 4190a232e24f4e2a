//! Starting, stopping, and looking into the log from the command line.

mod clock;
mod health;
mod limits;
mod owner;
mod unfinished;
mod upgrade;

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::load::Load;
use crate::support::machine::{skipped, strace};
use crate::support::program::Program;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_server_that_is_told_to_end_loses_nothing_and_starts_again() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    for number in 0..20 {
        ada.save(&format!("note/{number}"), json!({"number": number}));
    }
    assert!(server.terminate().success());
    server.restart();
    let again = ada.at(&server);
    assert_eq!(again.query("note", json!(null)).len(), 20);
    let credentials = json!({"auth_data": {"username": "ADA"}, "password": "secret-of-the-test"});
    let session = Client::anonymous(&server)
        .call("auth:login", credentials)
        .result();
    assert!(session["access_token"].is_string(), "{session}");
    assert!(
        !server.output().contains(MASTER_KEY),
        "a configured key is not printed"
    );
}

#[test]
fn a_server_that_still_waits_for_its_database_can_be_told_to_end() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/app", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().current_dir(folder.path());
    command.env("HOST", "127.0.0.1:0");
    command.env("DATABASE_URL", url).env("DATABASE_WAIT", "300");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let starting = Program::start(command.arg("serve"));
    // The server has connected to the store, and gets no answer.
    silent.set_nonblocking(true).unwrap();
    let _asked = eventually("the database is asked", || silent.accept().ok());
    starting.terminate();
}

#[test]
fn without_a_host_every_address_is_served_of_both_versions() {
    let server = TestServer::with(&[("HOST", ":0")]);
    let port = server.address().rsplit(':').next().unwrap();
    let mut hosts = vec!["127.0.0.1", "localhost"];
    if TcpListener::bind("[::1]:0").is_ok() {
        hosts.push("[::1]");
    }
    for host in hosts {
        let url = format!("http://{host}:{port}/_/health");
        let answer = send("GET", &url, &[], None);
        assert_eq!(answer.map(|it| it.status), Ok(200), "{host}");
    }
    // The printed address works from this machine.
    let url = format!("{}/_/health", server.base_url);
    assert_eq!(send("GET", &url, &[], None).unwrap().status, 200);
    assert!(server.base_url.starts_with("http://localhost:"));
}

/// Simulates a system that was built or configured without IPv6.
#[test]
fn where_there_is_no_ipv6_every_address_of_version_4_is_served() {
    let strace = match strace() {
        Ok(strace) => strace,
        Err(why) => return skipped("a system without IPv6", &why),
    };
    let mut server = TestServer::with(&[("HOST", ":0")]);
    server.terminate();
    let first = "inject=bind:error=EADDRNOTAVAIL:when=1";
    let tracer = [
        "-D",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=bind",
        "-e",
        first,
    ];
    server.wrap(&[&[strace.as_str()], &tracer[..]].concat());
    server.restart();
    let port = server.address().rsplit(':').next().unwrap();
    let ask = |host: &str| send("GET", &format!("http://{host}:{port}/_/health"), &[], None);
    assert_eq!(ask("127.0.0.1").map(|it| it.status), Ok(200));
    assert!(ask("[::1]").is_err());
}

/// On a socket of both versions, IPv4 clients look as if they were all from one IPv6 network.
#[test]
fn clients_of_version_4_have_tries_of_their_own_at_a_socket_of_both() {
    if let Err(why) = TcpListener::bind("[::1]:0") {
        return skipped("clients of IPv6", &why.to_string());
    }
    let server = TestServer::with(&[("HOST", ":0"), ("AUTH_THROTTLE", "on")]);
    let port = server.address().rsplit(':').next().unwrap();
    let log_in = |host: &str, number: u32| {
        let url = format!("http://{host}:{port}/auth/login");
        let auth_data = json!({"username": format!("nobody{number}")});
        let body = json!({"api_key": API_KEY, "auth_data": auth_data, "password": "x"});
        let body = Some(body.to_string().into_bytes());
        send("POST", &url, &[], body).unwrap().status
    };
    assert!((0..30).any(|number| log_in("127.0.0.1", number) == 429));
    assert_eq!(log_in("[::1]", 100), 404);
}

#[test]
fn a_start_says_what_everybody_may_do_with_dev_mode() {
    for (dev_mode, is_told) in [("YES", true), ("NO", false)] {
        let server = TestServer::with(&[("DEV_MODE", dev_mode)]);
        let output = server.output();
        let told = output.lines().find(|line| line.contains("DEV_MODE"));
        let says = |line: &str| line.contains("WARN") && line.contains("role:admin");
        assert_eq!(told.is_some_and(says), is_told, "{output}");
    }
}

#[test]
fn the_log_can_be_looked_into_while_the_server_writes_it() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "one"}));
    ada.save("note/1", json!({"text": "two"}));
    let shown = printed(&server.skytrail(&["log", "show", "record/note/1"]));
    for expected in ["record.created", "record.changed", "\"one\"", "\"two\""] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let tail = printed(&server.skytrail(&["log", "tail", "-n", "1"]));
    assert!(
        tail.contains("record/note/1 v2") && tail.lines().count() == 1,
        "{tail}"
    );
    assert!(printed(&server.skytrail(&["log", "stat"])).contains("record.created"));
    assert!(printed(&server.skytrail(&["log", "verify"])).contains("as they were written"));
}

#[test]
fn the_store_can_be_compared_with_the_log_while_the_server_writes_both() {
    let server = TestServer::start();
    let master = Client::master(&server);
    Load::prepare(&master);
    Load::default().run(&master, 50, || {
        for _ in 0..10 {
            let compared = printed(&server.skytrail(&["rebuild", "--verify"]));
            assert!(compared.contains("the store equals the log"), "{compared}");
        }
    });
}

#[test]
fn a_damaged_log_is_not_served_and_the_place_is_named() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    for number in 0..50 {
        ada.save(&format!("note/{number}"), json!({"number": number}));
    }
    server.kill();
    let folder = server.data_dir().join("journal");
    let segment = std::fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for command in [&["log", "verify"][..], &["serve"][..]] {
        let output = server.skytrail(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("segment=") && said.contains("offset="),
            "{said}"
        );
    }
}

#[test]
fn a_log_of_a_newer_format_is_not_called_damaged() {
    let mut server = TestServer::start();
    Client::master(&server).save("note/1", json!({"number": 1}));
    server.kill();
    let name = "00000000000000000001.journal";
    let segment = server.data_dir().join("journal").join(name);
    let mut bytes = std::fs::read(&segment).unwrap();
    // The header begins with magic (8) and format (4); the checksum covers its first 68 bytes.
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..68]);
    bytes[68..72].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&segment, bytes).unwrap();
    let backups = server.folder().join("backups");
    let backup = ["backup", backups.to_str().unwrap()];
    for command in [&["log", "verify"][..], &["serve"], &backup] {
        let output = server.skytrail(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let expected = format!("{name} has format=99, this program knows up to 1");
        assert!(said.contains(&expected), "{command:?}: {said}");
        assert!(!said.contains("damaged"), "{command:?}: {said}");
    }
}

#[test]
fn all_mistakes_in_the_settings_are_named_at_once_and_secrets_never() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command
        .env_clear()
        .env("APP_NAME", "no good")
        .env("DEV_MODE", "perhaps");
    let refused = command
        .args(["serve", "--set", "TOKEN_STORE=redis"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    for name in ["APP_NAME", "DEV_MODE", "TOKEN_STORE"] {
        assert!(said.contains(name), "{name} in {said}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("MASTER_KEY", "hush");
    let shown = printed(&command.arg("config").output().unwrap());
    assert!(
        shown.contains("MASTER_KEY=***") && !shown.contains("hush"),
        "{shown}"
    );
}

#[test]
fn passwords_and_tokens_are_nowhere_in_the_data() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "one"}));
    let token = ada.token.clone().unwrap();
    assert!(server.terminate().success());
    let secrets = ["secret-of-the-test", &token, MASTER_KEY];
    let mut folders = vec![server.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for secret in secrets {
                let found = bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} in {}", path.display());
            }
        }
    }
}

#[test]
fn a_slave_has_no_channels() {
    let mut server = TestServer::with(&[("SLAVE", "YES")]);
    let statuses = |server: &TestServer| {
        ["/pubsub", "/_/pubsub"].map(|path| {
            let url = format!("{}{path}", server.base_url);
            let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
            send("GET", &url, &[key], None).unwrap().status
        })
    };
    // Ordinary paths, as in v1: there is no upgrade here.
    assert_eq!(statuses(&server), [404, 404]);
    let publish = |server: &TestServer| {
        let body = json!({"channels": ["room"], "data": {}});
        Client::master(server).call("pubsub:publish", body)
    };
    // Nobody can be listening.
    let refused = publish(&server);
    assert_eq!((refused.status, refused.code()), (501, 111));
    server.set("SLAVE", "NO");
    server.restart();
    // Hubs, which refuse requests that do not upgrade.
    assert_eq!(statuses(&server), [400, 400]);
    assert_eq!(publish(&server).status, 200);
}

#[test]
fn a_variable_that_names_no_time_zone_is_pointed_out() {
    let is_warned = |value: &str, zone: &str| {
        let server = TestServer::with(&[("TZ", value), ("TIMER_ZONE", zone)]);
        let output = server.output();
        let mut lines = output.lines();
        lines.any(|line| line.contains("WARN") && line.contains("TZ names no time zone"))
    };
    assert!(is_warned("JST-9", ""));
    assert!(!is_warned(":/usr/share/zoneinfo/Asia/Tokyo", ""));
    assert!(!is_warned("JST-9", "Asia/Tokyo"));
}
