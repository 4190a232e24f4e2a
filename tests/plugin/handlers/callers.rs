//! Who may call handlers, when, and what is recorded of it.

use serde_json::{Value as Json, json};

use super::{ask, get, handler, points, serve};
use crate::plugin::server;
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY};

#[test]
fn keys_and_tokens_come_in_the_head_or_the_query() {
    let server = server(&[]);
    let flagged = |name: &str, key: bool, user: bool| json!({"name": name, "methods": ["POST"], "key_required": key, "user_required": user});
    let points = points(&[
        flagged("open", false, false),
        flagged("key", true, false),
        flagged("user", false, true),
    ]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let (token, user) = (ada.token.clone().unwrap(), ada.user.clone().unwrap());
    let token_field = ("X-Skygear-Access-Token", token.as_str());
    let key_field = ("X-Skygear-API-Key", API_KEY);
    let master_field = ("X-Skygear-API-Key", MASTER_KEY);
    let wrong = ("X-Skygear-API-Key", "wrong");
    let ada_by_token = json!({"user_id": user, "access_key_type": "none"});
    let nobody = json!({"access_key_type": "none"});
    let in_query = format!("?access_token={token}&api_key={API_KEY}");
    let body = json!({"api_key": MASTER_KEY, "_user_id": user}).to_string();

    type Field<'a> = (&'a str, &'a str);
    let served: &[(&str, &str, &[Field<'_>], Json)] = &[
        ("open", "", &[], nobody.clone()),
        // Invalid credentials count as absent.
        ("open", "", &[wrong], nobody.clone()),
        ("open", "?access_token=wrong", &[], nobody),
        ("open", "", &[token_field], ada_by_token.clone()),
        (
            "open",
            "",
            &[master_field],
            json!({"access_key_type": "master"}),
        ),
        ("key", "", &[token_field], ada_by_token.clone()),
        (
            "key",
            "",
            &[key_field],
            json!({"access_key_type": "client"}),
        ),
        (
            "key",
            "?api_key=wrong",
            &[key_field],
            json!({"access_key_type": "client"}),
        ),
        (
            "key",
            "?access_token=",
            &[key_field],
            json!({"access_key_type": "client"}),
        ),
        ("user", "", &[token_field], ada_by_token),
        (
            "user",
            &in_query,
            &[],
            json!({"user_id": user, "access_key_type": "client"}),
        ),
        // Another user cannot be named here.
        (
            "user",
            "",
            &[master_field],
            json!({"user_id": "_god", "access_key_type": "master"}),
        ),
    ];
    for (name, query, headers, expected) in served {
        let path = format!("/{name}{query}");
        let asked = ask(&server, ("POST", &path), headers, Some(body.as_bytes()));
        let request = serve(&mut worker, name);
        let mut context = request["context"].clone();
        let members = context.as_object_mut().unwrap();
        members.remove("request_id");
        assert_eq!(members.remove("request_tag"), Some(json!("plugin")));
        assert_eq!(&context, expected, "{path} {headers:?}");
        asked.join().unwrap();
    }
    let refused: &[(&str, &[Field<'_>], u16, i64)] = &[
        ("/key", &[], 401, 101),
        ("/key", &[wrong], 401, 103),
        ("/key?access_token=wrong", &[], 401, 104),
        ("/user", &[key_field], 401, 101),
        ("/user", &[], 401, 101),
    ];
    for (path, headers, status, code) in refused {
        let asked = ask(&server, ("POST", path), headers, Some(body.as_bytes()));
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (*status, *code), "{path}");
    }
    // A locked-out user does not count as a user.
    let lock = json!({"auth_id": user, "disabled": true});
    Client::master(&server)
        .call("auth:disable:set", lock)
        .result();
    let asked = ask(&server, ("POST", "/user"), &[token_field], None);
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.code()), (403, 127));
}

#[test]
fn handlers_wait_for_all_plugins_and_a_lost_one_fails_alone() {
    let server = server(&[("PLUGINS", "TEST,OTHER"), ("PLUGIN_REJOIN_WAIT", "1")]);
    let mut worker = Worker::greet(&server, &json!({}));
    // A path that belongs to no plugin yet may be that of one that has not connected.
    let answer = get(&server, "/a");
    assert_eq!((answer.status, answer.code()), (503, 118));
    worker.register(&points(&[handler("a", &["GET"])]));
    let answer = get(&server, "/a");
    assert_eq!((answer.status, answer.code()), (503, 118));
    let mut other = Worker::greet(&server, &json!({"plugin": "OTHER"}));
    other.register(&points(&[handler("b", &["GET"])]));
    let event = worker.expect_request("before-plugins-ready");
    for path in ["/a", "/b?_from_plugin=true", "/_status/healthz"] {
        let answer = get(&server, path);
        assert_eq!((answer.status, answer.code()), (503, 121), "{path}");
    }
    worker.answer(&event, &Json::Null);
    other.serve_event("before-plugins-ready");
    worker.expect("ready");
    other.expect("ready");
    worker.serve_event("after-plugins-ready");
    other.serve_event("after-plugins-ready");
    worker.serve_event("server-ready");
    other.serve_event("server-ready");
    other.die();
    eventually("it is missed", || {
        let plugin = Client::master(&server).health()["plugins"]["plugins"][1].take();
        plugin["workers"].as_array()?.is_empty().then_some(())
    });
    let answer = get(&server, "/b");
    assert_eq!((answer.status, answer.code()), (503, 118));
    assert_eq!(answer.json()["error"]["info"]["reason"], "no-worker");
    let asked = ask(&server, ("GET", "/a"), &[], None);
    serve(&mut worker, "a");
    assert_eq!(asked.join().unwrap().status, 200);
}

#[test]
fn handlers_are_counted_as_one_and_no_secret_of_theirs_is_logged() {
    let server = server(&[("LOG_FORMATTER", "json"), ("LOG_LEVEL", "debug")]);
    let points = points(&[handler("one/", &["POST"]), handler("two", &["POST"])]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let token = ada.token.clone().unwrap();
    let query = format!("/one/x?access_token={token}&api_key={API_KEY}&shown=yes");
    let referer = format!("http://here/?t={token}");
    let headers = [("Referer", referer.as_str()), ("Cookie", "sesame")];
    let asked = ask(&server, ("POST", &query), &headers, Some(b"sesame-body"));
    serve(&mut worker, "one/");
    asked.join().unwrap();
    let asked = ask(&server, ("POST", "/two"), &[], None);
    serve(&mut worker, "two");
    asked.join().unwrap();
    let metrics = crate::door::scrape(&server);
    let count = |label: &str| {
        let sample = format!(r#"action="{label}""#);
        metrics
            .lines()
            .filter(|line| line.contains(&sample))
            .count()
    };
    assert!(count("handler") > 0, "{metrics}");
    assert_eq!(count("one/") + count("two"), 0);
    let output = eventually("the requests are logged", || {
        let output = server.output();
        let num_lines = output
            .lines()
            .filter(|line| line.contains("\"two\""))
            .count();
        (num_lines > 0).then_some(output)
    });
    assert!(output.contains("shown=yes"), "{output}");
    assert!(output.contains("\"one/\""), "{output}");
    for secret in [token.as_str(), API_KEY, "sesame"] {
        let line = output.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
}
