//! HTTP: limits, addresses, and who is sent what.

mod answers;
mod limits;
mod logging;
mod metrics;
mod slow;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::raw::RawClient;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::Socket;

fn ask(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    send(
        method,
        &format!("{}{path}", server.base_url),
        &headers,
        None,
    )
    .unwrap()
}

#[test]
fn browsers_may_ask_from_anywhere() {
    let server = TestServer::start();
    let asked = [
        ("Origin", "http://example.com"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-skygear-api-key"),
    ];
    let answer = ask(&server, "OPTIONS", "/any/path", &asked);
    assert_eq!((answer.status, answer.bytes.len()), (200, 0));
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("POST"));
    assert_eq!(
        answer.header("Access-Control-Allow-Headers"),
        Some("x-skygear-api-key")
    );
    let ids = [answer, ask(&server, "GET", "/", &[])]
        .map(|answer| answer.header("X-Skygear-Request-Id").unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn pages_of_several_origins_may_call_and_each_is_told_of_its_own() {
    let both = "https://app.example, http://127.0.0.1:8080";
    let server = TestServer::with(&[("CORS_HOST", both)]);
    for origin in both.split(", ") {
        assert_eq!(allowed_origin(&server, origin).as_deref(), Some(origin));
    }
    let evil = "https://evil.example";
    assert_eq!(allowed_origin(&server, evil), None);
    let answer = ask(&server, "GET", "/", &[("Origin", evil)]);
    assert_eq!(answer.header("Vary"), Some("Origin"));
}

fn allowed_origin(server: &TestServer, origin: &str) -> Option<String> {
    let answer = ask(server, "GET", "/", &[("Origin", origin)]);
    let allowed = answer.header("Access-Control-Allow-Origin");
    allowed.map(ToOwned::to_owned)
}

const SOCKETS: [&str; 4] = ["/live", "/log", "/pubsub", "/_/pubsub"];

/// Opens a socket as a page would; returns the refusal, if there is one.
fn open_for(server: &TestServer, path: &str, origin: Option<&str>) -> Result<(), (u16, Vec<u8>)> {
    // A page can set no header of a socket.
    let path = format!("{path}?api_key={MASTER_KEY}");
    let origin = origin.map(|origin| ("Origin".to_owned(), origin.to_owned()));
    Socket::open(server.address(), &path, origin.as_slice()).map(drop)
}

/// Pages loaded from files have such origins, and so have the web views of phones. Any page can get
/// such an origin, so it is allowed only where it is configured.
#[test]
fn pages_without_a_host_may_call_where_they_are_named() {
    let bare = ["file://", "null"];
    for named in [vec!["file://"], vec!["null"], bare.to_vec(), vec![]] {
        let setting = [&["https://app.example"], named.as_slice()].concat();
        let server = TestServer::with(&[("CORS_HOST", setting.join(",").as_str())]);
        for origin in bare {
            let is_named = named.contains(&origin);
            let allowed = allowed_origin(&server, origin);
            let expected = match setting.as_slice() {
                // If only one origin is allowed, an answer names it, whoever asks.
                [only] => Some(*only),
                _ => is_named.then_some(origin),
            };
            assert_eq!(allowed.as_deref(), expected, "{setting:?}");
            for path in SOCKETS {
                let refused = open_for(&server, path, Some(origin)).map_err(|(status, _)| status);
                let expected = if is_named { Ok(()) } else { Err(403) };
                assert_eq!(refused, expected, "{setting:?}: {path} of {origin}");
            }
        }
    }
}

/// Browsers let every page open sockets and read from them: only the server can refuse.
#[test]
fn a_page_of_another_origin_opens_no_socket() {
    let both = "https://app.example, http://127.0.0.1:8080";
    for (setting, allowed) in [("https://app.example", 1), (both, 2)] {
        let server = TestServer::with(&[("CORS_HOST", setting)]);
        for path in SOCKETS {
            for origin in ["https://evil.example", "null", "https://app.example:444"] {
                let refused = open_for(&server, path, Some(origin));
                let Err((status, body)) = refused else {
                    panic!("{path} is open to {origin}");
                };
                let error: Value = serde_json::from_slice(&body).unwrap();
                let error = &error["error"];
                assert_eq!((status, &error["code"]), (403, &json!(102)), "{error}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("CORS_HOST"), "{message}");
            }
            // An app on a phone also names an origin, but sends its key as no page can.
            let app = [
                ("Origin", "https://evil.example"),
                ("X-Skygear-API-Key", MASTER_KEY),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert!(Socket::open(server.address(), path, &app).is_ok(), "{path}");
            let own = format!("http://{}", server.address());
            let named = both.split(", ").take(allowed).map(Some);
            for origin in named.chain([None, Some(own.as_str())]) {
                assert_eq!(open_for(&server, path, origin), Ok(()), "{path} {origin:?}");
            }
        }
        // Plugins are refused by a rule of their own.
        let page = [
            ("Origin", "https://app.example"),
            ("X-Skygear-API-Key", MASTER_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let refused = Socket::open(server.address(), "/_/plugin", &page).map(drop);
        assert_eq!(refused.map_err(|(status, _)| status), Err(403));
    }
    let server = TestServer::start();
    for path in SOCKETS {
        let origin = Some("https://evil.example");
        assert_eq!(open_for(&server, path, origin), Ok(()), "{path}");
    }
}

/// Without these headers a browser shows a page nothing of an answer, not even that it was refused.
#[test]
fn every_answer_of_every_route_carries_its_id_and_the_allowed_origin() {
    let server = TestServer::with(&[("CORS_HOST", "https://app.example")]);
    let key = [("X-Skygear-API-Key", API_KEY)];
    let asked = [
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "x-a, x-b"),
    ];
    let cases = [
        ("GET", "/", 200),
        ("GET", "/_/health", 200),
        ("GET", "/_/metrics", 401),
        ("GET", "/nowhere/at-all", 404),
        ("GET", "/schema/access", 400),
        ("GET", "/record//query", 301),
        ("POST", "/record/query", 400),
        ("POST", "/pubsub", 404),
        ("GET", "/pubsub", 400),
        ("GET", "/_/plugin", 403),
        ("GET", "/files/none", 0),
    ];
    for (method, path, status) in cases {
        for headers in [key.to_vec(), [key.as_slice(), &asked].concat()] {
            let answer = ask(&server, method, path, &headers);
            let has = |name: &str| answer.header(name).unwrap_or_default();
            assert!(
                status == 0 || answer.status == status,
                "{method} {path}: {}",
                answer.status
            );
            assert_eq!(
                has("Access-Control-Allow-Origin"),
                "https://app.example",
                "{path}"
            );
            assert_eq!(has("Access-Control-Allow-Credentials"), "true", "{path}");
            let echo = if headers.len() > 1 { "PUT" } else { "" };
            assert_eq!(has("Access-Control-Allow-Methods"), echo, "{path}");
            let echo = if headers.len() > 1 { "x-a, x-b" } else { "" };
            assert_eq!(has("Access-Control-Allow-Headers"), echo, "{path}");
            assert_eq!(has("X-Skygear-Request-Id").len(), 36, "{path}");
            assert_eq!(has("Server"), "Skygear Server/1.7.3", "{path}");
        }
        let answer = ask(&server, "OPTIONS", path, &asked);
        assert_eq!((answer.status, answer.bytes.len()), (200, 0), "{path}");
        assert_eq!(
            answer.header("Access-Control-Allow-Methods"),
            Some("PUT"),
            "{path}"
        );
    }
}

#[test]
fn only_the_master_key_sees_the_parts() {
    let server = TestServer::start();
    for key in ["", API_KEY] {
        let answer = ask(&server, "GET", "/_/health", &[("X-Skygear-API-Key", key)]);
        assert_eq!(answer.json(), json!({"status": "OK"}));
    }
    let wrong = [("X-Skygear-API-Key", "wrong")];
    let answer = ask(&server, "GET", "/_/health", &wrong);
    assert_eq!((answer.status, answer.code()), (401, 103));
    let master = [("X-Skygear-API-Key", MASTER_KEY)];
    let answer = ask(&server, "GET", "/_/health", &master);
    let parts = answer.json();
    assert_eq!(parts["status"], "OK", "{parts}");
    let actors = [
        "log",
        "projector",
        "hub",
        "internal_hub",
        "plugins",
        "accounts",
        "caches",
    ];
    for part in actors.iter().chain(&["door", "indexes", "throttle"]) {
        assert!(parts[part].is_object(), "{part}: {parts}");
    }
    assert!(parts["records"].is_array(), "{parts}");
}

/// Load balancers ask without wanting the body.
#[test]
fn health_answers_a_head_as_a_get_without_its_body() {
    let server = TestServer::start();
    let mut client = RawClient::connect(&server);
    let timeout = Duration::from_secs(20);
    client.send(b"HEAD /_/health HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.head(timeout).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    client.send(b"GET /_/health HTTP/1.1\r\nHost: test\r\n\r\n");
    // The next answer follows the head immediately: there was no body.
    let answer = client.answer(timeout).unwrap();
    assert_eq!(answer.json(), json!({"status": "OK"}));
    let length = format!("content-length: {}\r\n", answer.bytes.len());
    assert!(head.contains(&length), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
}

#[test]
fn publishing_without_a_socket_needs_the_master_key_channels_and_data() {
    let server = TestServer::start();
    let publish = |body| Client::master(&server).call("pubsub:publish", body);
    let answer = publish(json!({"channels": ["room"], "data": {"a": 1}}));
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(publish(json!({"channels": [], "data": 1})).code(), 108);
    assert_eq!(
        publish(json!({"channels": ["room"], "data": null})).code(),
        108
    );
    assert_eq!(publish(json!({"channels": "room", "data": 1})).code(), 107);
    let body = json!({"channels": ["room"], "data": 1});
    let answer = Client::anonymous(&server).call("pubsub:publish", body);
    assert_eq!((answer.status, answer.code()), (401, 102));
}

/// Requests the metrics as the scraper does.
pub fn scrape(server: &TestServer) -> String {
    let headers = [("Authorization", "Bearer master-key-of-the-tests")];
    let answer = ask(server, "GET", "/_/metrics", &headers);
    assert_eq!(answer.status, 200, "{}", answer.json());
    String::from_utf8(answer.bytes).unwrap()
}

/// Returns the value of the first sample that begins like this; there has to be one.
pub fn figure(metrics: &str, sample: &str) -> f64 {
    let found = figure_if_any(metrics, sample);
    found.unwrap_or_else(|| panic!("no {sample} in\n{metrics}"))
}

/// Like [`figure`], for one that appears when there is something to count.
pub fn figure_if_any(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        let rest = line.strip_prefix(sample);
        rest.is_some_and(|rest| rest.starts_with([' ', '{', ',']))
    });
    let value = line
        .and_then(|line| line.rsplit_once(' '))
        .map(|(_, value)| value);
    value.map(|value| value.parse().unwrap())
}
