//! Whose a path is.

use std::time::Duration;

use serde_json::json;

use super::{ask, assert_unmatched, get, handler, points, serve};
use crate::plugin::worker::Worker;
use crate::plugin::{call, server};
use crate::support::client::{Answer, Client};
use crate::support::raw::RawClient;
use crate::support::server::TestServer;

#[test]
fn paths_are_matched_by_the_longest_beginning() {
    let server = server(&[]);
    let points = points(&[
        handler("web", &["GET"]),
        handler("web/", &["GET"]),
        handler("/web/deep/", &["POST"]),
        handler("only/", &["GET"]),
        handler("sp ace", &["GET"]),
    ]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    for (method, path, name, told) in [
        ("GET", "/web", "web", "/web"),
        ("GET", "/web/", "web/", "/web/"),
        ("GET", "/web/x/y", "web/", "/web/x/y"),
        ("POST", "/web/deep/x", "/web/deep/", "/web/deep/x"),
        ("GET", "/w%65b/%C3%A4%2Fb%25", "web/", "/web/ä/b%"),
        ("GET", "/only/", "only/", "/only/"),
        ("GET", "/sp%20ace", "sp ace", "/sp ace"),
    ] {
        let asked = ask(&server, (method, path), &[], None);
        let request = serve(&mut worker, name);
        assert_eq!(request["param"]["path"], told);
        assert_eq!(asked.join().unwrap().bytes, name.as_bytes());
    }
    for (path, address) in [
        ("/only", "/only/"),
        ("/only?a=1", "/only/?a=1"),
        ("//web//x", "/web/x"),
        ("/web/x/../../only/./", "/only/"),
        ("/web/%2e%2e/y%20z?a=%20", "/y%20z?a=%20"),
    ] {
        let answer = raw(&server, "GET", path);
        assert_eq!(answer.status, 301, "{path}");
        assert_eq!(answer.header("Location"), Some(address), "{path}");
    }
    for (method, path) in [
        ("POST", "/web"),
        ("GET", "/web/deep/x"),
        ("PUT", "/web/x"),
        ("GET", "/we"),
    ] {
        assert_unmatched(&ask(&server, (method, path), &[], None).join().unwrap());
    }
    // Whatever is no plugin's is an action's.
    assert_eq!(get(&server, "/").json()["result"]["status"], "OK");
    let fetched = call(
        &Client::anonymous(&server),
        "record:fetch",
        json!({"ids": []}),
    );
    assert_eq!(fetched.join().unwrap().code(), 108);
}

/// Asks with a path that a library would clean.
fn raw(server: &TestServer, method: &str, path: &str) -> Answer {
    let mut client = RawClient::connect(server);
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    client.answer(Duration::from_secs(20)).unwrap()
}

#[test]
fn a_handler_hides_the_action_of_its_path() {
    let server = server(&[]);
    let points = json!({
        "handler": [handler("a/b", &["GET", "POST"]), handler("record:query", &["GET"])],
        "op": [{"name": "a:b"}],
    });
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let asked = ask(&server, ("POST", "/a/b"), &[], Some(b"{}"));
    serve(&mut worker, "a/b");
    assert_eq!(asked.join().unwrap().bytes, b"a/b");
    // By the body's word the lambda is still found.
    let asked = ask(&server, ("POST", "/"), &[], Some(br#"{"action": "a:b"}"#));
    let request = worker.expect_request("a:b");
    worker.answer(&request, &json!("lambda"));
    assert_eq!(asked.join().unwrap().result(), "lambda");
    // Also where no function takes the method.
    let query = json!({"record_type": "note"});
    let client = Client::master(&server);
    assert_unmatched(&client.call("record:query", query));
}

#[test]
fn heads_are_asked_for_by_name_and_preflights_never_arrive() {
    let server = server(&[("CORS_HOST", "https://app.example")]);
    let points = points(&[
        handler("a", &["GET", "OPTIONS"]),
        handler("b", &["HEAD"]),
        handler("c", &["REPORT"]),
    ]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    assert_eq!(
        ask(&server, ("HEAD", "/a"), &[], None)
            .join()
            .unwrap()
            .status,
        404
    );
    let mut client = RawClient::connect(&server);
    client.send(b"HEAD /b HTTP/1.1\r\nHost: test\r\n\r\n");
    serve(&mut worker, "b");
    // The next answer follows the head at once: there was no body.
    let asked = std::thread::spawn(move || {
        let mut head = client.head(Duration::from_secs(20)).unwrap();
        client.send(b"REPORT /c HTTP/1.1\r\nHost: test\r\n\r\n");
        head.push_str(&String::from_utf8_lossy(
            &client.answer(Duration::from_secs(20)).unwrap().bytes,
        ));
        head
    });
    serve(&mut worker, "c");
    let heard = asked.join().unwrap();
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert!(heard.contains("content-length: 1"), "{heard}");
    assert!(heard.ends_with("\r\n\r\nc"), "{heard}");

    let preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "PUT"),
    ];
    let answer = ask(&server, ("OPTIONS", "/a"), &preflight, None)
        .join()
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("PUT"));
    assert_eq!(
        answer.header("Access-Control-Allow-Origin"),
        Some("https://app.example")
    );
    worker.expect_nothing(&server);
}
