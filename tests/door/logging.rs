//! The log: one line per request, at the requested level, and never a secret.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::raw::RawClient;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::Socket;

fn lines_with(server: &TestServer, message: &str) -> Vec<Json> {
    let output = server.output();
    let parsed = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

#[test]
fn each_request_is_one_line_with_its_fields() {
    let server = TestServer::with(&[("LOG_FORMATTER", "json"), ("LOG_LEVEL_ROUTER", "debug")]);
    let client = Client::signed_up(&server, "logged");
    let answer = client.call("record:fetch", json!({"ids": ["note/1"]}));
    let id = answer.header("X-Skygear-Request-Id").unwrap().to_owned();
    let missed = client.call("no:such", json!({}));
    assert_eq!(missed.status, 404);
    let lines = eventually("the lines are written", || {
        let lines = lines_with(&server, "request");
        (lines.len() >= 3).then_some(lines)
    });
    let of = |id: &str| -> Vec<&Json> {
        lines
            .iter()
            .filter(|line| line["request_id"] == id)
            .collect()
    };
    let own = of(&id);
    assert_eq!(own.len(), 1, "{lines:?}");
    assert_eq!(own[0]["action"], "record:fetch");
    assert_eq!(own[0]["status"], 200);
    assert_eq!(own[0]["level"], "DEBUG");
    assert!(own[0]["duration_ms"].as_f64().unwrap() > 0.0);
    let missed = of(missed.header("X-Skygear-Request-Id").unwrap());
    assert_eq!(
        (&missed[0]["status"], &missed[0]["code"]),
        (&json!(404), &json!(117))
    );
    // The other loggers keep their level.
    let output = server.output();
    let others = output.lines().filter(|line| line.contains("\"DEBUG\""));
    assert!(
        others
            .into_iter()
            .all(|line| line.contains("skytrail::http"))
    );
}

#[test]
fn at_the_default_level_requests_are_no_news() {
    let server = TestServer::with(&[("LOG_FORMATTER", "json")]);
    Client::signed_up(&server, "quiet").save("note/1", json!({}));
    assert!(lines_with(&server, "request").is_empty());
    assert!(lines_with(&server, "request received").is_empty());
    assert_eq!(lines_with(&server, "serving").len(), 1);
}

#[test]
fn bodies_are_shown_up_to_the_limit() {
    let settings = [
        ("LOG_FORMATTER", "json"),
        ("LOG_LEVEL", "debug"),
        ("LOG_ROUTER_BYTE_LIMIT", "40"),
    ];
    let server = TestServer::with(&settings);
    let client = Client::anonymous(&server);
    client.call("record:query", json!({"record_type": "x".repeat(1000)}));
    let line = eventually("the line is written", || {
        lines_with(&server, "request received").into_iter().next()
    });
    let shown = line["body"].as_str().unwrap();
    assert!(shown.starts_with("{\"action\":\"record:query\""), "{shown}");
    assert!(shown.len() < 80 && shown.ends_with(" bytes)"), "{shown}");
}

/// Secrets in every place where a client may put them, at the most verbose level.
#[test]
fn no_secret_is_logged_at_any_level() {
    for formatter in ["text", "json"] {
        let settings = [
            ("LOG_FORMATTER", formatter),
            ("LOG_LEVEL", "trace"),
            ("LOG_ROUTER_BYTE_LIMIT", "0"),
            ("METRICS_KEY", "sesame-metrics"),
        ];
        let server = TestServer::with(&settings);
        tell_secrets(&server);
        let mut client = Client::signed_up(&server, "careful");
        client.call(
            "record:save",
            json!({"records": [{"_id": "note/1", "seen": "plain"}]}),
        );
        let token = client.token.take().unwrap();
        eventually("the last request is logged", || {
            server.output().contains("plain").then_some(())
        });
        let output = server.output();
        let secrets = [
            "sesame",
            API_KEY,
            MASTER_KEY,
            token.as_str(),
            "secret-of-the-test",
        ];
        for secret in secrets {
            let line = output.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret}: {line:?}");
        }
    }
}

/// Every value that must not be logged contains `sesame`.
fn tell_secrets(server: &TestServer) {
    let secret_members = json!({
        "action": "record:query", "record_type": "note", "api_key": API_KEY,
        "access_token": "sesame-1", "password": "sesame-2", "old_password": "sesame-3",
        "new_password": "sesame-4", "token": "sesame-5", "token_response": {"a": "sesame-6"},
        "provider_auth_data": {"b": ["sesame-7"]}, "signature": "sesame-8",
        "auth_data": {"username": "sesame-9", "email": "sesame@example.com"},
        "args": [{"deep": {"Client_Secret": "sesame-10", "refreshToken": "sesame-11"}}],
    });
    let plain_body = secret_members.to_string();
    let bodies = [
        plain_body.clone(),
        plain_body.replace("sesame-1\"", "sesame-1"),
        plain_body[..plain_body.len() - 20].to_owned(),
        format!("[{plain_body}]"),
        "api_key=sesame-form&password=sesame-form".to_owned(),
        "sesame-bare".to_owned(),
        String::new(),
    ];
    let types = [
        "application/json",
        "aplication/jsn",
        "text/plain",
        "multipart/form-data",
        "",
    ];
    let query = "api_key=sesame-q&access_token=sesame-q&Signature=sesame-q&code=sesame-q\
                 &api%5Fkey=sesame-q";
    let paths = [
        "/",
        "/record/query",
        "/auth/login",
        "/auth/signup",
        "/no/such",
        "/me",
    ];
    for (number, body) in bodies.iter().enumerate() {
        for path in paths {
            let headers = [
                ("Content-Type", types[number % types.len()]),
                (
                    "X-Skygear-API-Key",
                    if number % 2 == 0 {
                        MASTER_KEY
                    } else {
                        "sesame-key"
                    },
                ),
                ("X-Skygear-Access-Token", "sesame-token"),
                ("Authorization", "Bearer sesame-bearer"),
                ("Cookie", "session=sesame-cookie"),
                ("X-My-Secret", "sesame-header"),
            ];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let url = format!("{}{path}?{query}", server.base_url);
            send("POST", &url, &headers, Some(body.clone().into_bytes())).unwrap();
        }
    }
    for path in [
        "/pubsub",
        "/_/pubsub",
        "/_/plugin",
        "/_/metrics",
        "/_/health",
        "/files/a",
    ] {
        let headers = [
            ("X-Skygear-API-Key".to_owned(), "sesame-key".to_owned()),
            (
                "Authorization".to_owned(),
                "Bearer sesame-metrics".to_owned(),
            ),
        ];
        let url = format!("{}{path}?{query}", server.base_url);
        send("GET", &url, &headers, None).unwrap();
        let _ = Socket::open(server.address(), &format!("{path}?{query}"), &headers);
    }
    // Something that is not even HTTP, and something that ends too early.
    let mut raw = RawClient::connect(server);
    raw.send(b"sesame-no-http\r\n\r\n");
    raw.is_ended(Duration::from_secs(5));
    let mut raw = RawClient::connect(server);
    raw.send_head("/auth/login?password=sesame", &["Content-Length: 500"]);
    raw.send(b"{\"password\": \"sesame-early\"");
}
