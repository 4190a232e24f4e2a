//! Handlers: which requests they get, with what context, and what happens with their answers.

mod callers;
mod limits;
mod routing;

use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::server;
use super::worker::Worker;
use crate::support::client::{Answer, send};
use crate::support::eventually;
use crate::support::server::{API_KEY, TestServer};

/// Sends a request on a thread of its own.
fn ask(
    server: &TestServer,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> JoinHandle<Answer> {
    let url = format!("{}{path}", server.base_url);
    let own = |text: &&str| (*text).to_owned();
    let headers: Vec<_> = headers.iter().map(|(n, v)| (own(n), own(v))).collect();
    let (method, body) = (method.to_owned(), body.map(<[u8]>::to_vec));
    std::thread::spawn(move || send(&method, &url, &headers, body).unwrap())
}

/// Like [`ask`], where no plugin has to answer.
fn get(server: &TestServer, path: &str) -> Answer {
    ask(server, ("GET", path), &[], None).join().unwrap()
}

fn handler(name: &str, methods: &[&str]) -> Json {
    json!({"name": name, "methods": methods})
}

fn points(handlers: &[Json]) -> Json {
    json!({"handler": handlers})
}

fn text(status: u16, body: &str) -> Json {
    json!({"status": status, "header": {"Content-Type": ["text/plain"]},
        "body": STANDARD.encode(body)})
}

/// Lets the plugin answer the next request, which must be for this handler, with the handler's
/// name.
fn serve(worker: &mut Worker, name: &str) -> Json {
    let request = worker.expect_request(name);
    assert_eq!(request["kind"], "handler");
    worker.answer(&request, &text(200, name));
    request
}

fn assert_unmatched(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (404, 117));
    assert_eq!(answer.json()["error"]["message"], "route unmatched");
}

#[test]
fn a_handler_is_told_the_request_and_answers_it() {
    let server = server(&[]);
    let points = points(&[handler("web:open", &["GET", "POST"])]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let bytes: Vec<u8> = (0..=255).collect();
    let headers = [
        ("X-Skygear-API-Key", API_KEY),
        ("x-multi", "a"),
        ("X-Multi", "b"),
        ("Content-Type", "application/octet-stream"),
    ];
    let asked = ask(
        &server,
        ("POST", "/web/open?a=1&b=%20"),
        &headers,
        Some(&bytes),
    );
    let request = worker.expect_request("web:open");
    assert_eq!(request["kind"], "handler");
    let param = &request["param"];
    assert_eq!(
        (&param["status"], &param["method"], &param["path"]),
        (&json!(0), &json!("POST"), &json!("/web/open"))
    );
    assert_eq!(param["query_string"], "a=1&b=%20");
    assert_eq!(param["body"], STANDARD.encode(&bytes));
    let told = &param["header"];
    assert_eq!(told["X-Skygear-Api-Key"], json!([API_KEY]));
    assert_eq!(told["X-Multi"], json!(["a", "b"]));
    assert_eq!(told["Content-Length"], json!(["256"]));
    assert!(told.get("Host").is_none(), "{told}");
    let context = &request["context"];
    assert_eq!(
        (&context["access_key_type"], &context["request_tag"]),
        (&json!("client"), &json!("plugin"))
    );
    assert!(context.get("user_id").is_none());
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    let header = json!({
        "Content-Type": ["image/png"], "Set-Cookie": ["a=1", "b=2"], "Content-Length": ["3"],
        "Connection": ["close"], "Transfer-Encoding": ["chunked"], "Server": ["mine"],
        "X-Skygear-Request-Id": ["mine"],
    });
    let body = STANDARD.encode(&reversed);
    worker.answer(
        &request,
        &json!({"status": 201, "header": header, "body": body}),
    );
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, &answer.bytes), (201, &reversed));
    let all = |name: &str| -> Vec<&str> {
        let fields = answer.headers.iter();
        let fields = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("Content-Type"), ["image/png"]);
    assert_eq!(all("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(all("Content-Length"), ["256"]);
    assert!(all("Connection").is_empty() && all("Transfer-Encoding").is_empty());
    assert_eq!(all("Server"), ["Skygear Server/1.7.3"]);
    let id = context["request_id"].as_str().unwrap();
    assert_eq!(all("X-Skygear-Request-Id"), [id]);
    assert_eq!(all("Access-Control-Allow-Origin"), ["*"]);

    // Without a body and a query, the body is an empty string and `query_string` is absent.
    let asked = ask(&server, ("GET", "/web/open"), &[], None);
    let request = serve(&mut worker, "web:open");
    assert_eq!(request["param"]["body"], "");
    assert!(request["param"].get("query_string").is_none());
    let members: Vec<_> = request["context"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_key_type", "request_id", "request_tag"]);
    assert_eq!(asked.join().unwrap().bytes, b"web:open");
}

#[test]
fn errors_of_handlers_are_errors_of_the_api() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points(&[handler("a", &["GET"])]));
    let mut refused = |react: &dyn Fn(&mut Worker, &Json)| {
        let asked = ask(&server, ("GET", "/a"), &[], None);
        let request = worker.expect_request("a");
        react(&mut worker, &request);
        let answer = asked.join().unwrap();
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        (answer.status, answer.json()["error"].clone())
    };
    let own = json!({"code": 108, "message": "bad", "info": {"a": 1}});
    let (status, error) = refused(&|worker, request| worker.refuse(request, &own));
    let expected =
        json!({"name": "InvalidArgument", "code": 108, "message": "bad", "info": {"a": 1}});
    assert_eq!((status, error), (400, expected));
    for (answer, reason) in [
        (json!(null), "is not an object"),
        (json!("text"), "is not an object"),
        (json!({"body": ""}), "needs a status"),
        (json!({"status": "404"}), "from 200 to 999, not \"404\""),
        (json!({"status": 1000}), "needs a status"),
        (json!({"status": 101}), "needs a status"),
        (
            json!({"status": 200, "header": {"Content-Type": "text/plain"}}),
            "needs a list of strings as \"Content-Type\"",
        ),
        (
            json!({"status": 200, "header": {"a: b": ["c"]}}),
            "header name \"a: b\"",
        ),
        (json!({"status": 200, "body": "%"}), "needs base64"),
    ] {
        let (status, error) = refused(&|worker, request| worker.answer(request, &answer));
        assert_eq!((status, &error["code"]), (500, &json!(10000)), "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(reason), "{message}");
    }
    eventually("the log names the handler and says why", || {
        let output = server.output();
        let mut lines = output.lines();
        let said = ["a handler's answer cannot be read", "TEST", "404"];
        lines.find(|line| said.iter().all(|word| line.contains(word)))?;
        Some(())
    });
    // The worker is unharmed.
    let asked = ask(&server, ("GET", "/a"), &[], None);
    let request = worker.expect_request("a");
    let bodiless = json!({"status": 204, "body": STANDARD.encode("ignored")});
    worker.answer(&request, &bodiless);
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.bytes.len()), (204, 0));
}
