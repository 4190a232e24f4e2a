//! Pub/sub from the side of sockets.

mod closing;
mod crowd;
mod frames;
mod limits;
mod rest;
mod slow;

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(20);

fn connect(server: &TestServer) -> Socket {
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    Socket::open(server.address(), "/pubsub", &headers).unwrap()
}

/// Listens to a channel; returns once it hears what is published there.
fn listen(server: &TestServer, channel: &str) -> Socket {
    let mut listener = connect(server);
    subscribe(&mut listener, channel);
    listener
}

/// Subscribes; returns once the socket hears what is published.
fn subscribe(listener: &mut Socket, channel: &str) {
    listener.send(&subscription(channel));
    listener.send(&publication(channel, &json!("probe")));
    assert_eq!(hear(listener), json!("probe"));
}

fn hear(listener: &mut Socket) -> Json {
    match listener.receive(TIMEOUT) {
        Incoming::Text(text) => serde_json::from_str::<Json>(&text).unwrap()["data"].take(),
        other => panic!("{other:?}"),
    }
}

fn subscription(channel: &str) -> String {
    json!({"action": "sub", "channel": channel}).to_string()
}

fn publication(channel: &str, data: &Json) -> String {
    json!({"action": "pub", "channel": channel, "data": data}).to_string()
}

/// Returns a figure of the hub of `/pubsub`.
fn hub_figure(server: &TestServer, name: &str) -> u64 {
    Client::master(server).health()["hub"][name]
        .as_u64()
        .unwrap()
}
