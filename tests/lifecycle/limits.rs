//! Limits that the system sets for the process: file descriptors and the size of a file.

use std::time::Duration;

use serde_json::json;

use crate::door::figure;
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::machine::{run, skipped};
use crate::support::raw::RawClient;
use crate::support::server::{MASTER_KEY, TestServer};

/// Starts a server, and sets a limit for its next start; `None` if the machine cannot.
fn stopped_with(settings: &[(&str, &str)], limit: &str) -> Option<TestServer> {
    if let Err(why) = run("prlimit", &["--version"]) {
        skipped("a limit of the system", &why);
        return None;
    }
    let mut server = TestServer::with(settings);
    assert!(server.terminate().success());
    server.wrap(&["prlimit", limit]);
    Some(server)
}

#[test]
fn a_server_without_enough_file_descriptors_says_how_many_it_needs() {
    let settings = [("HTTP_WORKERS", "2"), ("JOURNAL_SEGMENT_BYTES", "1048576")];
    let Some(mut server) = stopped_with(&settings, "--nofile=100:100") else {
        return;
    };
    let said = server.try_restart().expect_err("100 are not enough");
    assert!(said.contains("(ulimit -n) is 100"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let needed = said.split_once("at least ").unwrap().1;
    let needed = needed.split_once(' ').unwrap().0;

    // With that many, connections leave room for new segments of the log.
    server.wrap(&["prlimit", &format!("--nofile={needed}:{needed}")]);
    server.restart();
    for round in 0..3 {
        let waiting: Vec<_> = (0..200).map(|_| RawClient::connect(&server)).collect();
        drop(waiting);
        let record = json!({"_id": format!("note/{round}"), "text": "x".repeat(700_000)});
        let master = Client::master(&server);
        // Until the server has noticed that those have gone, it has no place for another one.
        eventually("it is saved", || {
            let saved = master.try_call("record:save", json!({"records": [record]}));
            saved.ok().filter(|answer| answer.status == 200)
        });
    }
    assert!(server.terminate().success());
    assert!(!server.output().contains("Too many open files"));
}

#[test]
fn connections_beyond_the_file_descriptors_are_counted_and_told() {
    let settings = [("HTTP_WORKERS", "1")];
    let Some(mut server) = stopped_with(&settings, "--nofile=100:100") else {
        return;
    };
    let said = server.try_restart().expect_err("100 are not enough");
    let needed = said.split_once("at least ").unwrap().1;
    let needed = needed.split_once(' ').unwrap().0;
    server.wrap(&["prlimit", &format!("--nofile={needed}:{needed}")]);
    server.restart();
    let output = server.output();
    let low = output
        .lines()
        .find(|line| line.contains("(ulimit -n) is low"));
    assert!(low.unwrap().contains("connections=16"), "{output}");
    let warned = "connections are closed";
    assert!(!output.contains(warned), "{output}");

    let held: Vec<_> = (0..24).map(|_| RawClient::connect(&server)).collect();
    eventually("the log warns", || {
        server.output().contains(warned).then_some(())
    });
    drop(held);
    let key = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let ask = |path: &str| {
        let url = format!("{}{path}", server.base_url);
        eventually("connections are accepted again", || {
            send("GET", &url, &key, None).ok()
        })
    };
    let health = ask("/_/health").json();
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = health["reasons"].to_string();
    assert!(
        reasons.contains("file descriptors (ulimit -n)"),
        "{reasons}"
    );
    let metrics = String::from_utf8(ask("/_/metrics").bytes).unwrap();
    assert!(figure(&metrics, "skytrail_connections_refused_total") >= 1.0);
    // Once, however many there were.
    assert_eq!(server.output().matches(warned).count(), 1);
}

#[test]
fn a_file_that_finds_no_descriptor_is_refused_for_now() {
    if let Err(why) = run("prlimit", &["--version"]) {
        return skipped("a limit of the system", &why);
    }
    let server = TestServer::start();
    let ask = |mut client: RawClient, line: &str, body: &str| {
        let length = body.len();
        client.send(
            format!(
                "{line} HTTP/1.1\r\nHost: test\r\nX-Skygear-API-Key: {MASTER_KEY}\r\n\
                 Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        client.answer(Duration::from_secs(30)).unwrap()
    };
    let stored = ask(RawClient::connect(&server), "PUT /files/first.txt", "first");
    let stored = stored.result();
    let url = stored["$url"].as_str().unwrap();
    let download = format!("GET {}", &url[url.find("/files/").unwrap()..]);
    let limit = |nofile: &str| {
        let nofile = format!("--nofile={nofile}:");
        run("prlimit", &["--pid", &server.pid().to_string(), &nofile]).unwrap();
    };

    // These are connected before: a connection, too, needs a descriptor.
    let requests = [("PUT /files/second.txt", "second"), (&download, "")];
    let requests = requests.map(|(line, body)| {
        let mut client = RawClient::connect(&server);
        client.send(b"OPTIONS / HTTP/1.1\r\nHost: test\r\n\r\n");
        client.answer(Duration::from_secs(30)).unwrap();
        (client, line, body)
    });
    limit("3");
    for (client, line, body) in requests {
        let answer = ask(client, line, body);
        let error = answer.json()["error"].take();
        assert_eq!(
            (answer.status, &error["code"]),
            (503, &json!(10_000)),
            "{error}"
        );
        assert!(answer.header("Retry-After").is_some());
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("can open no more files"), "{message}");
    }
    limit("1024");
    let stored = ask(
        RawClient::connect(&server),
        "PUT /files/second.txt",
        "second",
    );
    assert_eq!(stored.status, 200);
    let read = ask(RawClient::connect(&server), &download, "");
    assert_eq!(read.bytes, b"first");
}

#[test]
fn a_file_above_the_limit_of_its_size_fails_alone() {
    let Some(mut server) = stopped_with(&[], "--fsize=16777216") else {
        return;
    };
    server.restart();
    let headers = [
        ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned()),
        ("Content-Type".to_owned(), "text/plain".to_owned()),
    ];
    let url = format!("{}/files/large.txt", server.base_url);
    let answer = send("PUT", &url, &headers, Some(vec![b'x'; 20 << 20])).unwrap();
    assert_eq!(answer.status, 507, "{}", answer.json());
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("ulimit -f"), "{message}");
    Client::master(&server).save("note/1", json!({"text": "is kept"}));

    // The log itself cannot go on, and says why.
    let text = "x".repeat(1 << 20);
    let master = Client::master(&server);
    let save = |number: u32| {
        let record = json!({"_id": format!("large/{number}"), "text": text});
        master.try_call("record:save", json!({"records": [record]}))
    };
    assert!((0..100).any(|number| save(number).is_err()));
    assert_eq!(server.wait().code(), Some(70));
    let said = server.output();
    assert!(said.contains("File too large"), "{said}");
}
