//! How large a request may be, and how long it may take.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{ask, handler, points, serve};
use crate::plugin::server;
use crate::plugin::worker::Worker;
use crate::support::raw::RawClient;

#[test]
fn bodies_are_taken_within_limits_and_only_from_who_may_ask() {
    let settings = [
        ("MAX_BODY_BYTES", "100000"),
        ("PLUGIN_MAX_MESSAGE", "65536"),
        ("HTTP_BODY_TIMEOUT", "5"),
    ];
    let server = server(&settings);
    let guarded = json!({"name": "key", "methods": ["POST"], "key_required": true});
    let points = points(&[handler("a", &["POST"]), guarded]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    // Sent in pieces, and whole when the plugin gets it.
    let mut client = RawClient::connect(&server);
    client.send_head("/a", &["Transfer-Encoding: chunked"]);
    for piece in ["4\r\nbody\r\n", "9\r\n in parts\r\n", "0\r\n\r\n"] {
        client.send(piece.as_bytes());
    }
    let request = serve(&mut worker, "a");
    assert_eq!(request["param"]["body"], STANDARD.encode("body in parts"));
    assert!(
        request["param"]["header"]
            .get("Transfer-Encoding")
            .is_none()
    );
    let timeout = Duration::from_secs(20);
    assert_eq!(client.answer(timeout).unwrap().bytes, b"a");

    let post = |size: usize| {
        let body = vec![b'x'; size];
        ask(&server, ("POST", "/a"), &[], Some(&body))
            .join()
            .unwrap()
    };
    // More than the server accepts, and more than the worker does.
    for size in [100_001, 60_000] {
        let answer = post(size);
        assert_eq!((answer.status, answer.code()), (413, 107), "{size}");
    }
    let mut client = RawClient::connect(&server);
    client.send_head("/a", &["Content-Length: 5"]);
    let answer = client.answer(timeout).unwrap();
    assert_eq!((answer.status, answer.code()), (408, 107));
    // A caller without permission is refused before its body has arrived.
    let mut client = RawClient::connect(&server);
    client.send_head("/key", &["Content-Length: 5"]);
    let answer = client.answer(timeout).unwrap();
    assert_eq!((answer.status, answer.code()), (401, 101));
    worker.expect_nothing(&server);
}

#[test]
fn a_handler_has_no_more_time_than_its_client_and_is_told_when_that_is_gone() {
    let server = server(&[("RESPONSE_TIMEOUT", "7")]);
    let mut hasty = handler("hasty", &["GET"]);
    hasty["timeout_ms"] = json!(300);
    let points = points(&[hasty, handler("slow", &["GET"])]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    for (path, status, code, reason) in [
        ("/hasty", 504, 119, "deadline"),
        ("/slow", 503, 122, "deadline"),
    ] {
        let asked = ask(&server, ("GET", path), &[], None);
        let request = worker.expect("request");
        let cancel = worker.expect("cancel");
        assert_eq!(
            (&cancel["id"], &cancel["reason"]),
            (&request["id"], &json!(reason))
        );
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (status, code));
    }
    let mut client = RawClient::connect(&server);
    client.send(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    worker.expect_request("slow");
    drop(client);
    assert_eq!(worker.expect("cancel")["reason"], "client-gone");
}
