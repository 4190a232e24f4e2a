//! A socket that does not read delays no other, and is told why it is closed.

use serde_json::json;

use super::{TIMEOUT, connect, hear, hub_figure, listen, publication, subscription};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;
use crate::support::socket::{Incoming, Socket};

/// Publishes to a socket that reads and one that does not, until the latter is dropped.
fn overwhelm(server: &TestServer, slow: &mut Socket, size: usize) {
    let mut quick = listen(server, "room");
    slow.send(&subscription("room"));
    slow.send(&publication("room", &json!("probe")));
    assert_eq!(hear(&mut quick), "probe");
    let mut publisher = connect(server);
    let text = "x".repeat(size);
    let mut n = 0;
    while hub_figure(server, "num_dropped") == 0 {
        for _ in 0..16 {
            publisher.send(&publication("room", &json!({"n": n, "text": text})));
            assert_eq!(hear(&mut quick)["n"], n);
            n += 1;
        }
        assert!(n < 100_000, "nobody is dropped");
    }
    // The one that reads continues.
    publisher.send(&publication("room", &json!({"n": "last"})));
    assert_eq!(hear(&mut quick)["n"], "last");
}

/// Reads what had been sent; returns the code and reason of the close frame after it.
fn reason(slow: &mut Socket) -> (u16, String) {
    let mut number = 0;
    while let Incoming::Text(text) = slow.receive(TIMEOUT) {
        if !text.contains("probe") {
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(message["data"]["n"], number, "out of order");
            number += 1;
        }
    }
    slow.close_reason().unwrap()
}

#[test]
fn too_many_bytes_wait() {
    let limits = [
        ("PUBSUB_QUEUE_BYTES", "100000"),
        ("PUBSUB_QUEUE_MESSAGES", "1000000"),
    ];
    let server = TestServer::with(&limits);
    let mut slow = connect(&server);
    overwhelm(&server, &mut slow, 50_000);
    let (code, why) = reason(&mut slow);
    assert_eq!((code, &*why), (1008, "too slow: messages were waiting"));
}

#[test]
fn too_many_messages_wait() {
    let limits = [
        ("PUBSUB_QUEUE_BYTES", "1000000000"),
        ("PUBSUB_QUEUE_MESSAGES", "40"),
    ];
    let server = TestServer::with(&limits);
    let mut slow = connect(&server);
    overwhelm(&server, &mut slow, 20_000);
    assert_eq!(reason(&mut slow).0, 1008);
}

/// A client that never reads again takes up only the kernel's buffers and its queue.
#[test]
fn one_that_never_reads_again_is_forgotten() {
    let limits = [("PUBSUB_QUEUE_BYTES", "100000"), ("HTTP_SEND_TIMEOUT", "1")];
    let server = TestServer::with(&limits);
    let mut slow = connect(&server);
    overwhelm(&server, &mut slow, 50_000);
    eventually("only the health check's connection is left", || {
        let health = Client::master(&server).health();
        (health["door"]["num_connections"].as_u64()? <= 1).then_some(())
    });
}
