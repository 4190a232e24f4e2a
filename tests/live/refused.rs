//! How those are told who may not follow. A browser hides the answer that refuses a connection from
//! its page.

use serde_json::{Value as Json, json};

use super::listener::TIMEOUT;
use crate::support::client::Client;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};
use crate::support::sse::{EventSource, Heard};

const PAGE: &str = "https://app.example";
const EVENTS: (&str, &str) = ("Accept", "text/event-stream");

/// What a refused client gets: an answer's status, or the code of an `error` in a connection that
/// ends.
#[derive(Debug, PartialEq)]
enum Told {
    Status(u16),
    Code(i64),
}

struct World {
    server: TestServer,
    ada: Client,
}

impl World {
    fn new(settings: &[(&str, &str)]) -> Self {
        let server = TestServer::with(&[settings, &[("CORS_HOST", PAGE)]].concat());
        let ada = Client::signed_up(&server, "ada");
        Self { server, ada }
    }

    fn with_bad_token(self) -> Self {
        let ada = self.ada.with_token("bad");
        Self { ada, ..self }
    }

    fn path(&self, path: &str) -> String {
        let token = self.ada.token.as_deref().unwrap();
        format!("{path}?api_key={API_KEY}&access_token={token}")
    }

    fn socket(&self, headers: &[(&str, &str)]) -> Told {
        let owned: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut socket = match Socket::open(self.server.address(), &self.path("/live"), &owned) {
            Ok(socket) => socket,
            Err((status, _)) => return Told::Status(status),
        };
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("{:?}", socket.close_reason());
        };
        let frame: Json = serde_json::from_str(&text).unwrap();
        assert!(matches!(socket.receive(TIMEOUT), Incoming::Closed));
        let (code, reason) = socket.close_reason().unwrap();
        assert_eq!((code, &json!(reason)), (1008, &frame["error"]["message"]));
        assert_eq!((&frame["event"], frame.get("id")), (&json!("error"), None));
        Told::Code(frame["error"]["code"].as_i64().unwrap())
    }

    fn stream(&self, record_type: &str, headers: &[(&str, &str)], body: Option<&str>) -> Told {
        let path = format!("{}&record_type={record_type}", self.path("/live/query"));
        let mut source = EventSource::open(self.server.address(), &path, headers, body).unwrap();
        if source.status != 200 {
            return Told::Status(source.status);
        }
        let Heard::Event(event) = source.next(TIMEOUT) else {
            panic!("{}", source.head);
        };
        assert_eq!(event.event, "error");
        assert!(matches!(source.next(TIMEOUT), Heard::Ended));
        let frame: Json = serde_json::from_str(&event.data).unwrap();
        Told::Code(frame["error"]["code"].as_i64().unwrap())
    }
}

#[test]
fn a_page_is_told_in_its_connection_why_it_may_not_follow() {
    let world = World::new(&[]);
    let lock = json!({"auth_id": world.ada.user, "disabled": true});
    let locked = Client::master(&world.server).call("auth:disable:set", lock);
    locked.result();
    assert_eq!(world.socket(&[("Origin", PAGE)]), Told::Code(127));
    assert_eq!(world.stream("note", &[EVENTS], None), Told::Code(127));
    let world = world.with_bad_token();
    assert_eq!(world.socket(&[("Origin", PAGE)]), Told::Code(104));
    assert_eq!(world.stream("note", &[EVENTS], None), Told::Code(104));
    // A page that ignores it has its browser ask again, but rarely.
    let path = world.path("/live/query");
    let mut source = EventSource::open(world.server.address(), &path, &[EVENTS], None).unwrap();
    assert!(source.rest().starts_with("retry: 60000\n"));
}

#[test]
fn a_client_that_can_read_the_answer_gets_a_status() {
    let world = World::new(&[]).with_bad_token();
    let key = ("X-Skygear-API-Key", API_KEY);
    assert_eq!(world.socket(&[]), Told::Status(401));
    assert_eq!(world.socket(&[("Origin", PAGE), key]), Told::Status(401));
    let refused = Told::Status(401);
    assert_eq!(world.stream("note", &[], None), refused);
    assert_eq!(world.stream("note", &[("Accept", "*/*")], None), refused);
    assert_eq!(world.stream("note", &[EVENTS, key], None), refused);
    assert_eq!(world.stream("note", &[EVENTS], Some("{}")), refused);
    // A page that may not call learns nothing.
    let stranger = ("Origin", "https://evil.example");
    assert_eq!(world.socket(&[stranger]), Told::Status(403));
}

#[test]
fn a_page_tries_again_unless_that_is_useless() {
    let world = World::new(&[("LIVE_MAX_CONNECTIONS", "1")]);
    assert_eq!(world.stream("", &[EVENTS], None), Told::Code(108));
    let _only = Socket::open(world.server.address(), &world.path("/live"), &[]).unwrap();
    assert_eq!(world.socket(&[("Origin", PAGE)]), Told::Status(503));
    assert_eq!(world.stream("note", &[EVENTS], None), Told::Status(503));
}
