//! The messages and events of live queries in docs/API.md, played over a WebSocket.

use std::time::Duration;

use serde_json::{Deserializer, Value as Json, json};

use super::API;
use super::play::Player;
use crate::support::client::Client;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

/// Returns the values in the page's block of a kind.
fn block(kind: &str) -> Vec<Json> {
    let (_, rest) = API.split_once(&format!("```json {kind}\n")).unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let values = Deserializer::from_str(text).into_iter();
    values.collect::<Result<_, _>>().unwrap()
}

fn heard(socket: &mut Socket) -> Json {
    match socket.receive(Duration::from_secs(60)) {
        Incoming::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_messages_of_a_live_query_are_answered_as_the_page_says() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"stars": 3}));
    let mut player = Player::new(&server);
    let headers = [
        ("X-Skygear-API-Key".to_owned(), API_KEY.to_owned()),
        (
            "X-Skygear-Access-Token".to_owned(),
            ada.token.clone().unwrap(),
        ),
    ];
    let open = || Socket::open(server.address(), "/live", &headers).unwrap();
    let [subscribe, unsubscribe, ping] = block("live:messages").try_into().unwrap();
    let [result, ready, enter, leave] = block("live:events").try_into().unwrap();
    // Where the log stands differs from that on the page.
    let mut expect = |socket: &mut Socket, mut expected: Json| {
        let found = heard(socket);
        for name in ["position", "timeline"] {
            if let (Some(shown), Some(real)) = (expected.get_mut(name), found.get(name)) {
                assert_eq!(shown.is_string(), real.is_string(), "{found}");
                *shown = real.clone();
            }
        }
        let differences = player.differences(&expected, &found);
        assert!(differences.is_empty(), "{expected}: {differences:?}");
        found
    };
    let mut socket = open();
    socket.send(&subscribe.to_string());
    expect(&mut socket, result);
    let ready = expect(&mut socket, ready);
    ada.save("note/2", json!({"stars": 5}));
    expect(&mut socket, enter.clone());
    ada.save("note/1", json!({"stars": 1}));
    let left = expect(&mut socket, leave);
    socket.send(&unsubscribe.to_string());
    expect(&mut socket, json!({"id": "q1", "event": "end"}));
    socket.send(&ping.to_string());
    expect(&mut socket, json!({"event": "pong"}));

    // Whoever comes back hears nothing again, and what has been missed.
    ada.save("note/2", json!({"stars": 0}));
    ada.save("note/2", json!({"stars": 5}));
    let mut again = open();
    let mut message = subscribe;
    message["from"] = left["position"].clone();
    message["timeline"] = ready["timeline"].clone();
    again.send(&message.to_string());
    let missed = heard(&mut again);
    assert_eq!(missed["event"], "leave", "{missed}");
    expect(&mut again, enter);
    assert_eq!(heard(&mut again)["event"], "ready");
}
