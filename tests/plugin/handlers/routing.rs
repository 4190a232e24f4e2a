//! Which plugin or action a path belongs to.

use std::time::Duration;

use serde_json::json;

use super::{ask, assert_unmatched, get, handler, points, serve};
use crate::plugin::worker::Worker;
use crate::plugin::{call, server, two_ready};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::raw::RawClient;
use crate::support::server::TestServer;

#[test]
fn paths_are_matched_by_the_longest_beginning() {
    let server = server(&[]);
    let points = points(&[
        handler("web", &["GET"]),
        handler("web/", &["GET"]),
        handler("/web/deep/", &["POST"]),
        handler("only/", &["GET"]),
        handler("sp ace", &["GET"]),
    ]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    for (method, path, name, told) in [
        ("GET", "/web", "web", "/web"),
        ("GET", "/web/", "web/", "/web/"),
        ("GET", "/web/x/y", "web/", "/web/x/y"),
        ("POST", "/web/deep/x", "/web/deep/", "/web/deep/x"),
        ("GET", "/w%65b/%C3%A4%2Fb%25", "web/", "/web/ä/b%"),
        ("GET", "/only/", "only/", "/only/"),
        ("GET", "/sp%20ace", "sp ace", "/sp ace"),
    ] {
        let asked = ask(&server, (method, path), &[], None);
        let request = serve(&mut worker, name);
        assert_eq!(request["param"]["path"], told);
        assert_eq!(asked.join().unwrap().bytes, name.as_bytes());
    }
    for (path, address) in [
        ("/only", "/only/"),
        ("/only?a=1", "/only/?a=1"),
        ("//web//x", "/web/x"),
        ("/web/x/../../only/./", "/only/"),
        ("/web/%2e%2e/y%20z?a=%20", "/y%20z?a=%20"),
    ] {
        let answer = raw(&server, "GET", path);
        assert_eq!(answer.status, 301, "{path}");
        assert_eq!(answer.header("Location"), Some(address), "{path}");
    }
    for (method, path) in [
        ("POST", "/web"),
        ("GET", "/web/deep/x"),
        ("PUT", "/web/x"),
        ("GET", "/we"),
    ] {
        assert_unmatched(&ask(&server, (method, path), &[], None).join().unwrap());
    }
    // Any path that belongs to no plugin belongs to an action.
    assert_eq!(get(&server, "/").json()["result"]["status"], "OK");
    let fetched = call(
        &Client::anonymous(&server),
        "record:fetch",
        json!({"ids": []}),
    );
    assert_eq!(fetched.join().unwrap().code(), 108);
}

/// Requests a path that a library would normalise.
fn raw(server: &TestServer, method: &str, path: &str) -> Answer {
    let mut client = RawClient::connect(server);
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    client.answer(Duration::from_secs(20)).unwrap()
}

#[test]
fn a_handler_hides_the_action_of_its_path() {
    let server = server(&[]);
    let points = json!({
        "handler": [handler("a/b", &["GET", "POST"]), handler("record:query", &["GET", "POST"])],
        "op": [{"name": "a:b"}],
    });
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let asked = ask(&server, ("POST", "/a/b"), &[], Some(b"{}"));
    serve(&mut worker, "a/b");
    assert_eq!(asked.join().unwrap().bytes, b"a/b");
    // The lambda is still found by the action in the body.
    let asked = ask(&server, ("POST", "/"), &[], Some(br#"{"action": "a:b"}"#));
    let request = worker.expect_request("a:b");
    worker.answer(&request, &json!("lambda"));
    assert_eq!(asked.join().unwrap().result(), "lambda");
    // This also holds for one of the server's own actions.
    let asked = ask(&server, ("POST", "/record/query"), &[], Some(b"{}"));
    serve(&mut worker, "record:query");
    assert_eq!(asked.join().unwrap().bytes, b"record:query");
}

#[test]
fn what_a_handler_does_not_take_is_an_actions() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let test = json!({
        "handler": [
            handler("auth/signup", &["GET"]),
            handler("t/", &["GET"]),
            handler("j/echo/", &["GET", "POST"]),
        ],
        "op": [{"name": "j:echo"}],
    });
    let (mut first, mut second) = two_ready(&server, &test, &json!({"op": [{"name": "t:run"}]}));
    let client = Client::anonymous(&server);
    let account = json!({"auth_data": {"username": "ada"}, "password": "correct horse"});
    let signed_up = client.call("auth:signup", account).result();
    assert!(signed_up["user_id"].is_string(), "{signed_up}");
    for (worker, name) in [(&mut first, "j:echo"), (&mut second, "t:run")] {
        let asked = call(&client, name, json!({}));
        let request = worker.expect_request(name);
        assert_eq!(request["kind"], "op");
        worker.answer(&request, &json!(name));
        assert_eq!(asked.join().unwrap().result(), name);
    }
    // Other requests are redirected to the mount, and an unknown action stays unknown.
    assert_eq!(raw(&server, "GET", "/j/echo").status, 301);
    assert_eq!(raw(&server, "POST", "/t").status, 301);
    assert_unmatched(&client.call("t:walk", json!({})));
    // Clients call actions with POST.
    assert_unmatched(&raw(&server, "PUT", "/auth/signup"));
}

#[test]
fn what_a_handler_hides_is_told_of_once_and_by_name() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let test = json!({"handler": [
        handler("auth/login", &["GET"]),
        handler("record/", &["GET", "POST"]),
        handler("t/", &["POST"]),
    ]});
    let other = json!({"op": [{"name": "t:run"}, {"name": "t:walk"}, {"name": "free"}]});
    let (_first, mut second) = two_ready(&server, &test, &other);
    // Another worker with points that are known already.
    let mut more = Worker::greet(&server, &json!({"plugin": "OTHER"}));
    more.register(&other);
    more.expect("ready");
    second.expect_nothing(&server);
    let output = eventually("both are told of", || {
        let output = server.output();
        (output.matches("hidden=").count() >= 2).then_some(output)
    });
    let told: Vec<_> = output.lines().filter(|it| it.contains("hidden=")).collect();
    let told_of = |path: &str| {
        let of_path = |it: &&&str| it.contains(&format!("path=\"{path}\""));
        let of_path: Vec<_> = told.iter().filter(of_path).collect();
        assert_eq!(of_path.len(), 1, "{path}: {output}");
        assert!(of_path[0].contains("plugin=TEST"), "{of_path:?}");
        (*of_path[0]).to_owned()
    };
    assert!(
        told_of("/t/").contains("hidden=\"t:run, t:walk\""),
        "{told:?}"
    );
    let of_records = told_of("/record/");
    for name in ["record:save", "record:query"] {
        assert!(of_records.contains(name), "{of_records}");
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn heads_are_asked_for_by_name_and_preflights_never_arrive() {
    let server = server(&[("CORS_HOST", "https://app.example")]);
    let points = points(&[
        handler("a", &["GET", "OPTIONS"]),
        handler("b", &["HEAD"]),
        handler("c", &["REPORT"]),
    ]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    assert_eq!(
        ask(&server, ("HEAD", "/a"), &[], None)
            .join()
            .unwrap()
            .status,
        404
    );
    let mut client = RawClient::connect(&server);
    client.send(b"HEAD /b HTTP/1.1\r\nHost: test\r\n\r\n");
    serve(&mut worker, "b");
    // The next answer follows the head immediately: there was no body.
    let asked = std::thread::spawn(move || {
        let mut head = client.head(Duration::from_secs(20)).unwrap();
        client.send(b"REPORT /c HTTP/1.1\r\nHost: test\r\n\r\n");
        head.push_str(&String::from_utf8_lossy(
            &client.answer(Duration::from_secs(20)).unwrap().bytes,
        ));
        head
    });
    serve(&mut worker, "c");
    let heard = asked.join().unwrap();
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert!(heard.contains("content-length: 1"), "{heard}");
    assert!(heard.ends_with("\r\n\r\nc"), "{heard}");

    let preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "PUT"),
    ];
    let answer = ask(&server, ("OPTIONS", "/a"), &preflight, None)
        .join()
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("PUT"));
    assert_eq!(
        answer.header("Access-Control-Allow-Origin"),
        Some("https://app.example")
    );
    worker.expect_nothing(&server);
    // The log tells whoever registered it.
    eventually("the log tells of it once", || {
        let output = server.output();
        let told = output.lines().filter(|line| line.contains("OPTIONS"));
        let told = told.filter(|line| line.contains("path=\"/a\""));
        (told.count() == 1).then_some(())
    });
}
