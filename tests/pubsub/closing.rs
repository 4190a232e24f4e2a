//! A client that publishes and hangs up immediately is heard.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use super::{TIMEOUT, hear, listen, publication, subscription};
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::Incoming;

/// Returns frames as the bytes that a client sends, with its close frame at the end if `is_closed`.
fn frames(texts: &[String], is_closed: bool) -> Vec<u8> {
    let bytes = std::io::Cursor::new(Vec::new());
    let mut writer = WebSocket::from_raw_socket(bytes, Role::Client, None);
    for text in texts {
        writer.write(Message::text(text.as_str())).unwrap();
    }
    if is_closed {
        writer.write(Message::Close(None)).unwrap();
    }
    writer.flush().unwrap();
    writer.into_inner().into_inner()
}

/// Opens a socket as a byte stream, to be closed as no client library would.
pub(super) fn open(server: &TestServer, path: &str) -> TcpStream {
    let address = server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET {path}?api_key={API_KEY} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    stream
}

#[test]
fn a_stop_sends_listeners_away_and_waits_for_none() {
    let mut server = TestServer::start();
    let mut listener = listen(&server, "room");
    assert!(server.terminate().success());
    loop {
        match listener.receive(TIMEOUT) {
            Incoming::Closed => break,
            Incoming::Text(_) => {}
            Incoming::Nothing => panic!("it is not sent away"),
        }
    }
    let (code, why) = listener.close_reason().unwrap();
    assert_eq!((code, why.as_str()), (1001, "the server is stopping"));
    assert!(
        !server.output().contains("not done in time"),
        "{}",
        server.output()
    );
}

#[test]
fn who_publishes_and_hangs_up_at_once_is_heard() {
    let server = TestServer::start();
    let mut listener = listen(&server, "room");
    for round in 0..100 {
        let (is_closed, is_listener) = (round % 2 == 0, round % 3 == 0);
        let said: Vec<Json> = (0..3).map(|n| json!({"round": round, "n": n})).collect();
        let mut texts: Vec<String> = said.iter().map(|data| publication("room", data)).collect();
        if is_listener {
            texts.insert(0, subscription("room"));
        }
        let mut publisher = open(&server, "/pubsub");
        publisher.write_all(&frames(&texts, is_closed)).unwrap();
        publisher.shutdown(Shutdown::Write).unwrap();
        for expected in said {
            assert_eq!(hear(&mut listener), expected, "closed: {is_closed}");
        }
    }
}

#[test]
fn nothing_comes_that_was_not_asked_for() {
    let server = TestServer::start();
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let url = format!("ws://{}/pubsub?api_key={API_KEY}", server.address());
    let (mut socket, _) = client(url, stream).unwrap();
    socket.send(Message::text(subscription("echo"))).unwrap();
    // Some clients take the first frame after their close frame for its answer, and disconnect.
    for n in 0..100 {
        let said = publication("echo", &json!(n));
        socket.send(Message::text(said)).unwrap();
        let heard = socket.read().unwrap();
        assert!(heard.is_text(), "{heard:?}");
    }
}

/// A publisher: how much it publishes, on which channel, and how it leaves.
#[derive(Clone, Debug)]
struct Publisher {
    channel: usize,
    sizes: Vec<usize>,
    leaving: Leaving,
}

#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// As clients do: it waits for the answer to its close frame.
    Politely,
    /// It hangs up right after its close frame.
    Quickly,
    /// It hangs up without one.
    Silently,
}

fn publisher() -> impl Strategy<Value = Publisher> {
    let large = prop_oneof![9 => 0_usize..200, 1 => 10_000_usize..200_000];
    let polite = prop::collection::vec(large, 1..40).prop_map(|sizes| (sizes, Leaving::Politely));
    // With more than this, data that the server has not read when it learns of the end may be lost.
    let leaving = prop_oneof![Just(Leaving::Quickly), Just(Leaving::Silently)];
    let hasty = (prop::collection::vec(0_usize..500, 1..40), leaving);
    (0_usize..3, prop_oneof![polite, hasty]).prop_map(|(channel, (sizes, leaving))| Publisher {
        channel,
        sizes,
        leaving,
    })
}

/// However many publish and leave at once, each message arrives once, and each publisher's messages
/// arrive in order.
#[test]
fn many_publish_and_leave_and_nothing_is_lost_or_out_of_order() {
    let server = TestServer::start();
    let channels = ["one", "two", "three"];
    let listeners = RefCell::new(channels.map(|channel| listen(&server, channel)));
    let mut runner = TestRunner::new(Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    });
    let all = prop::collection::vec(publisher(), 1..16);
    let checked = runner.run(&all, |publishers| {
        std::thread::scope(|scope| {
            for (number, publisher) in publishers.iter().enumerate() {
                let server = &server;
                scope
                    .spawn(move || publish(server, channels[publisher.channel], number, publisher));
            }
        });
        for (at, listener) in listeners.borrow_mut().iter_mut().enumerate() {
            let here = publishers.iter().filter(|it| it.channel == at);
            let expected: usize = here.map(|it| it.sizes.len()).sum();
            let mut next = vec![0; publishers.len()];
            for _ in 0..expected {
                let heard = hear(listener);
                let (from, n) = (index(&heard["from"]), index(&heard["n"]));
                prop_assert_eq!(publishers[from].channel, at);
                prop_assert_eq!(n, next[from], "of publisher {}", from);
                prop_assert_eq!(
                    heard["text"].as_str().unwrap().len(),
                    publishers[from].sizes[n]
                );
                next[from] += 1;
            }
        }
        Ok(())
    });
    checked.unwrap();
}

fn index(value: &Json) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn publish(server: &TestServer, channel: &str, from: usize, publisher: &Publisher) {
    let sizes = publisher.sizes.iter().enumerate();
    let text = |(n, size): (usize, &usize)| {
        publication(
            channel,
            &json!({"from": from, "n": n, "text": "x".repeat(*size)}),
        )
    };
    let texts: Vec<String> = sizes.map(text).collect();
    let mut stream = open(server, "/pubsub");
    let is_closed = !matches!(publisher.leaving, Leaving::Silently);
    stream.write_all(&frames(&texts, is_closed)).unwrap();
    if matches!(publisher.leaving, Leaving::Politely) {
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], 0x88, "not a close frame");
    }
    stream.shutdown(Shutdown::Write).unwrap();
}
