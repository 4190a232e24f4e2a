//! Strings that were cut within a character, as `text.slice(0, 7)` does: the remaining part is
//! replaced, and nothing else of the message is lost.

use serde_json::json;

use crate::plugin::call;
use crate::plugin::worker::Worker;
use crate::support::client::{Client, send};
use crate::support::server::TestServer;
use crate::support::socket::{Incoming, Socket};

/// The strings as they are sent, and as they are read.
const TEXTS: &[(&[u8], &str)] = &[
    (br"hello \ud83d", "hello \u{fffd}"),
    (br"\ude00\ud83d\n", "\u{fffd}\u{fffd}\n"),
    (br"\\ud83d \ud83d\ude00", "\\ud83d \u{1f600}"),
    (b"hello \xf0\x9f", "hello \u{fffd}"),
];

#[test]
fn a_record_with_half_a_character_is_stored_beside_others() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let url = format!("{}/record/save", server.base_url);
    for (sent, read) in TEXTS {
        let records = json!([{"_id": "note/1", "text": "fine"}, {"_id": "note/2", "text": "HERE"}]);
        let body = json!({"api_key": ada.key(), "access_token": ada.token, "records": records});
        let body = body.to_string();
        let (before, after) = body.split_once("HERE").unwrap();
        let body = [before.as_bytes(), sent, after.as_bytes()].concat();
        let saved = send("POST", &url, &[], Some(body)).unwrap().result();
        let texts = [&saved[0]["text"], &saved[1]["text"]];
        assert_eq!(texts, [&json!("fine"), &json!(read)]);
    }
}

#[test]
fn a_plugin_may_answer_and_call_with_half_a_character() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    let asked = call(&Client::anonymous(&server), "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer_with(&request, r#""hello \ud83d""#);
    assert_eq!(asked.join().unwrap().result(), "hello \u{fffd}");
}

#[test]
fn what_is_published_and_heard_may_be_cut() {
    let server = TestServer::start();
    let key = [(
        "X-Skygear-API-Key".to_owned(),
        Client::anonymous(&server).key().to_owned(),
    )];
    let mut socket = Socket::open(server.address(), "/pubsub", &key).unwrap();
    socket.send(r#"{"action": "sub", "channel": "room \ud83d"}"#);
    socket.send(r#"{"action": "pub", "channel": "room \ud83d", "data": 1}"#);
    let heard = socket.receive(std::time::Duration::from_secs(10));
    let Incoming::Text(text) = heard else {
        panic!("{heard:?}");
    };
    assert_eq!(text, "{\"channel\":\"room \u{fffd}\",\"data\":1}");
}
