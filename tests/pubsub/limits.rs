//! How much sockets may use.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;

use super::closing::open;
use super::{TIMEOUT, connect, hear, listen, publication, subscribe, subscription};
use crate::support::eventually;
use crate::support::machine::resident_bytes;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

fn try_connect(server: &TestServer, path: &str) -> Result<Socket, (u16, Vec<u8>)> {
    Socket::open(server.address(), &format!("{path}?api_key={API_KEY}"), &[])
}

#[test]
fn there_are_so_many_sockets() {
    for (setting, status) in [
        ("PUBSUB_MAX_SOCKETS", 503),
        ("PUBSUB_MAX_SOCKETS_PER_ADDRESS", 429),
    ] {
        let server = TestServer::with(&[(setting, "3")]);
        let mut open: Vec<Socket> = ["/pubsub", "/_/pubsub", "/pubsub"]
            .map(|path| try_connect(&server, path).unwrap())
            .into();
        for path in ["/pubsub", "/_/pubsub"] {
            let Err((refused, body)) = try_connect(&server, path) else {
                panic!("a fourth is let in");
            };
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(refused, status, "{body}");
            assert!(body["error"]["info"]["retry_after_ms"].is_u64(), "{body}");
        }
        // The open ones work, and closing one frees its place.
        subscribe(&mut open[0], "room");
        drop(open.pop());
        eventually("the place is free", || try_connect(&server, "/pubsub").ok());
    }
}

#[test]
fn a_socket_hears_so_many_channels() {
    let server = TestServer::with(&[("PUBSUB_MAX_CHANNELS", "2")]);
    let mut socket = connect(&server);
    subscribe(&mut socket, "one");
    subscribe(&mut socket, "two");
    subscribe(&mut socket, "two");
    socket.send(&json!({"action": "unsub", "channel": "one"}).to_string());
    subscribe(&mut socket, "three");
    socket.send(&subscription("four"));
    let Incoming::Text(text) = socket.receive(TIMEOUT) else {
        panic!("no word");
    };
    assert_eq!(
        text,
        "Error: a socket can subscribe to at most 2 channels. Closing Connection"
    );
    assert!(matches!(socket.receive(TIMEOUT), Incoming::Closed));
}

#[test]
fn a_channels_name_has_a_length() {
    let server = TestServer::with(&[("PUBSUB_MAX_CHANNEL_BYTES", "10")]);
    listen(&server, "0123456789");
    for action in ["sub", "unsub", "pub"] {
        let mut socket = connect(&server);
        let long = json!({"action": action, "channel": "0123456789x", "data": 1});
        socket.send(&long.to_string());
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("no word");
        };
        let expected = "Error: the name of a channel can have at most 10 bytes. Closing Connection";
        assert_eq!(text, expected);
        assert!(matches!(socket.receive(TIMEOUT), Incoming::Closed));
    }
}

#[test]
fn a_message_has_a_size() {
    let server = TestServer::with(&[("PUBSUB_MAX_MESSAGE_BYTES", "2000")]);
    let mut listener = listen(&server, "room");
    let frame = |size: usize| publication("room", &json!("x".repeat(size)));
    let most = 2000 - frame(0).len();
    listener.send(&frame(most));
    assert_eq!(hear(&mut listener).as_str().unwrap().len(), most);
    listener.send(&frame(most + 1));
    assert!(matches!(listener.receive(TIMEOUT), Incoming::Closed));
    let (code, why) = listener.close_reason().unwrap();
    assert_eq!(
        (code, &*why),
        (1009, "a message can have at most 2000 bytes")
    );
    // The default is the documented one.
    let server = TestServer::start();
    let mut listener = listen(&server, "room");
    let most = (1 << 20) - frame(0).len();
    listener.send(&frame(most));
    assert_eq!(hear(&mut listener).as_str().unwrap().len(), most);
}

#[test]
fn pings_whose_answers_nobody_reads_are_not_kept() {
    let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
    listen(&server, "room");
    let before = resident_bytes(server.pid());
    for path in ["/pubsub", "/_/pubsub"] {
        let mut client = open(&server, path);
        // The server may stop reading, too; that also bounds the memory.
        client
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(10_000);
        let mut sent = 0;
        while sent < 40 << 20 && client.write_all(&pings).is_ok() {
            sent += pings.len();
        }
        let more = resident_bytes(server.pid()).saturating_sub(before);
        assert!(more < 64 << 20, "{path}: {more} bytes more after {sent}");
    }
}

/// The head of a frame with this first byte, and a mask that changes nothing.
fn head(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn a_message_without_end_is_not_kept() {
    let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
    listen(&server, "room");
    let before = resident_bytes(server.pid());
    for path in ["/pubsub", "/_/pubsub", "/live"] {
        let mut client = open(&server, path);
        client
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        client.write_all(&head(0x81, 1 << 40)).unwrap();
        let part = vec![b'x'; 1 << 20];
        // The server reads on for a while after it has closed the socket.
        let num_sent = (0..200).take_while(|_| client.write_all(&part).is_ok());
        let num_sent = num_sent.count();
        let more = resident_bytes(server.pid()).saturating_sub(before);
        assert!(
            more < 32 << 20,
            "{path}: {more} bytes more after {num_sent} MiB"
        );
    }
}

#[test]
fn messages_that_are_too_large_get_the_same_reason_in_one_part_or_several() {
    let server = TestServer::start();
    for (path, max) in [("/pubsub", 1 << 20), ("/live", 1 << 20)] {
        let part = |first: u8, length: usize| {
            let length_told = u64::try_from(length).unwrap();
            [head(first, length_told), vec![b' '; length]].concat()
        };
        let messages = [
            part(0x81, max + 1),
            [part(0x01, max), part(0x80, 1)].concat(),
        ];
        for message in messages {
            let mut client = open(&server, path);
            client.write_all(&message).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            let why = format!("a message can have at most {max} bytes");
            let reason = [&1009_u16.to_be_bytes()[..], why.as_bytes()].concat();
            assert!(
                answer.ends_with(&reason),
                "{path}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}

#[test]
fn a_message_in_countless_frames_is_not_kept() {
    let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
    listen(&server, "room");
    let before = resident_bytes(server.pid());
    let why = b"a message can have at most 8192 frames";
    let reason = [&1009_u16.to_be_bytes()[..], why].concat();
    let first = [0x01, 0x81, 0, 0, 0, 0, b' '];
    let next = [0x00, 0x81, 0, 0, 0, 0, b' '];
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let whole = [0x81, 0x82, 0, 0, 0, 0, b'{', b'}'];
    for path in ["/pubsub", "/_/pubsub", "/live"] {
        for between in [&[][..], &ping, &whole] {
            let mut client = open(&server, path);
            client
                .set_write_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            client.write_all(&first).unwrap();
            let part = [between, &next].concat().repeat(1000);
            // One message of fewer bytes than it can have.
            let num_sent = (0..1000).take_while(|_| client.write_all(&part).is_ok());
            let num_sent = num_sent.count();
            let more = resident_bytes(server.pid()).saturating_sub(before);
            assert!(more < 16 << 20, "{path}: {more} bytes, {num_sent} sent");
        }
        // One that is not still sending when it is told.
        let mut client = open(&server, path);
        let frames = next.repeat(8192);
        client.write_all(&[&first[..], &frames].concat()).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.ends_with(&reason), "{path}: {text}");
    }
}

#[test]
fn a_message_can_come_in_many_frames_between_pings() {
    let server = TestServer::start();
    let mut client = open(&server, "/pubsub");
    let mut listener = listen(&server, "room");
    let text = publication("room", &json!("x".repeat(4000)));
    for _ in 0..2 {
        let last = text.len() - 1;
        let mut frames = Vec::new();
        for (number, byte) in text.bytes().enumerate() {
            let first = match number {
                0 => 0x01,
                it if it == last => 0x80,
                _ => 0x00,
            };
            frames.extend([first, 0x81, 0, 0, 0, 0, byte]);
            frames.extend([0x89, 0x80, 0, 0, 0, 0]);
        }
        client.write_all(&frames).unwrap();
        assert_eq!(hear(&mut listener).as_str().unwrap().len(), 4000);
    }
}
