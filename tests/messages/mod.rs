//! Pub/sub as sockets see it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listens to a channel; returns when what is published there is heard.
fn listen(server: &TestServer, channel: &str) -> Socket {
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let mut listener = Socket::open(server.address(), "/pubsub", &headers).unwrap();
    listener.send(&json!({"action": "sub", "channel": channel}).to_string());
    listener.send(&publication(channel, &json!("probe")));
    assert_eq!(hear(&mut listener), json!("probe"));
    listener
}

fn hear(listener: &mut Socket) -> Json {
    match listener.receive(PATIENCE) {
        Incoming::Text(text) => serde_json::from_str::<Json>(&text).unwrap()["data"].take(),
        other => panic!("{other:?}"),
    }
}

fn publication(channel: &str, data: &Json) -> String {
    json!({"action": "pub", "channel": channel, "data": data}).to_string()
}

/// Returns the bytes of frames as a client sends them, `is_closed` with its close at the end.
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

/// Opens a socket as bytes, to be closed as no client would.
fn open(server: &TestServer) -> TcpStream {
    let address = server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /pubsub?api_key={API_KEY} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    stream
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
            texts.insert(0, json!({"action": "sub", "channel": "room"}).to_string());
        }
        let mut publisher = open(&server);
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
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://{}/pubsub?api_key={API_KEY}", server.address());
    let (mut socket, _) = client(url, stream).unwrap();
    let subscription = json!({"action": "sub", "channel": "echo"});
    socket
        .send(Message::text(subscription.to_string()))
        .unwrap();
    // Some clients take the first frame after their close for its answer, and are gone.
    for n in 0..100 {
        let said = publication("echo", &json!(n));
        socket.send(Message::text(said)).unwrap();
        let heard = socket.read().unwrap();
        assert!(heard.is_text(), "{heard:?}");
    }
}
