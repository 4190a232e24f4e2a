//! What a client may send, and what it is told when it may not.

use serde_json::json;

use super::{TIMEOUT, connect, hear, listen, publication, subscription};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

/// Returns the text that a socket is sent before it is closed.
fn last_words(socket: &mut Socket) -> String {
    let Incoming::Text(text) = socket.receive(TIMEOUT) else {
        panic!("closed without a word");
    };
    assert!(
        matches!(socket.receive(TIMEOUT), Incoming::Closed),
        "{text}"
    );
    text
}

#[test]
fn what_makes_no_sense_ends_the_socket_with_a_text() {
    let server = TestServer::start();
    let mut listener = listen(&server, "room");
    let no_channel = "Error: channel should not be empty. Closing Connection";
    let no_data = "Error: missing data to publish. Closing Connection";
    for (said, expected) in [
        (r#"{"action":"sub"}"#, no_channel),
        (r#"{"action":"sub","channel":""}"#, no_channel),
        (r#"{"action":"sub","channel":null}"#, no_channel),
        // The channel is checked first.
        (r#"{"action":"dance"}"#, no_channel),
        ("{}", no_channel),
        (r#"{"action":"pub","channel":"room"}"#, no_data),
        (r#"{"action":"pub","channel":"room","data":null}"#, no_data),
    ] {
        let mut socket = connect(&server);
        // What was sent before has taken effect.
        socket.send(&publication("room", &json!(said)));
        socket.send(said);
        assert_eq!(last_words(&mut socket), expected, "{said}");
        assert_eq!(hear(&mut listener), json!(said));
    }
    for said in [
        "not json",
        "",
        "[]",
        r#"["sub","room",1]"#,
        "1",
        "null",
        r#"{"action":1,"channel":"room"}"#,
        r#"{"action":"sub","channel":["room"]}"#,
        r#"{"action":"sub","channel":"room""#,
    ] {
        let mut socket = connect(&server);
        socket.send(said);
        let words = last_words(&mut socket);
        let is_as_v1s = words.starts_with("Error: ") && words.ends_with(" \nClosing Connection");
        assert!(is_as_v1s, "{said}: {words}");
    }
}

#[test]
fn another_action_is_passed_over() {
    let server = TestServer::start();
    let mut socket = connect(&server);
    for action in [json!("dance"), json!(""), json!(null), json!("SUB")] {
        socket.send(&json!({"action": action, "channel": "room"}).to_string());
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("{action} ends the socket");
        };
        assert_eq!(text, "Unknow action");
    }
    // Members that the server does not know are not an error.
    let more = json!({"action": "sub", "channel": "room", "id": 7, "data": {"a": 1}});
    socket.send(&more.to_string());
    socket.send(&subscription("room"));
    socket.send(&json!({"action": "unsub", "channel": "elsewhere"}).to_string());
    socket.send(&publication("room", &json!("once")));
    socket.send(&publication("room", &json!("twice")));
    assert_eq!([hear(&mut socket), hear(&mut socket)], ["once", "twice"]);
}

#[test]
fn what_is_published_arrives_as_it_is() {
    let server = TestServer::start();
    let mut socket = listen(&server, "a \"b\" ключ");
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    for data in [
        "0",
        "false",
        "\"\"",
        "12345678901234567890123456789",
        "1.0e-400",
        r#"{"z":1,"a":2,"a":3}"#,
        r#""\ud83d\ude80 \u0000""#,
        &deep,
    ] {
        socket.send(&format!(
            r#"{{"channel":"a \"b\" ключ","data":{data},"action":"pub"}}"#
        ));
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("{data} is not heard");
        };
        assert_eq!(
            text,
            format!(r#"{{"channel":"a \"b\" ключ","data":{data}}}"#)
        );
    }
}

#[test]
fn a_key_opens_both_hubs_and_the_notices_are_the_servers() {
    let server = TestServer::start();
    let key = |key: &str| [("X-Skygear-API-Key".to_owned(), key.to_owned())];
    for path in ["/pubsub", "/_/pubsub"] {
        for (path, headers) in [
            (path.to_owned(), &[][..]),
            (format!("{path}?api_key="), &[][..]),
            (format!("{path}?api_key=wrong"), &[][..]),
            (path.to_owned(), &key("wrong")[..]),
            // The header takes precedence if there is one.
            (format!("{path}?api_key={API_KEY}"), &key("wrong")[..]),
        ] {
            let Err((status, body)) = Socket::open(server.address(), &path, headers) else {
                panic!("{path} is open");
            };
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(
                status == 401 && body["error"]["code"].is_i64(),
                "{path}: {body}"
            );
        }
        for key in [API_KEY, MASTER_KEY] {
            let path = format!("{path}?access_token=any&api_key={key}");
            assert!(Socket::open(server.address(), &path, &[]).is_ok());
        }
    }
    let path = format!("/_/pubsub?api_key={API_KEY}");
    let mut socket = Socket::open(server.address(), &path, &[]).unwrap();
    socket.send(&subscription("_sub_x"));
    socket.send(&publication("_sub_x", &json!({"seq-num": 1})));
    let words = last_words(&mut socket);
    assert_eq!(
        words,
        "Error: publishing needs the master key here. Closing Connection"
    );
    // Nothing crosses between the hubs.
    let path = format!("/_/pubsub?api_key={MASTER_KEY}");
    let mut internal = Socket::open(server.address(), &path, &[]).unwrap();
    internal.send(&subscription("room"));
    let mut public = listen(&server, "room");
    internal.send(&publication("room", &json!("within")));
    assert_eq!(hear(&mut internal), "within");
    public.send(&publication("room", &json!("without")));
    assert_eq!(hear(&mut public), "without");
}
