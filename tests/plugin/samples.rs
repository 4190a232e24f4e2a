//! The samples on v1's published runtimes, unmodified: every point that they have, called by
//! clients and observed from outside.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::http::ready;
use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::program::{Program, python, repository, set_up};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer, lasting_address};

/// A running sample, and a server that has it as a plugin.
pub struct Sample {
    pub server: TestServer,
    /// Whether one process answers all requests, and can report what it has seen.
    pub remembers: bool,
    /// Whether it takes and returns binary data.
    pub takes_bytes: bool,
    _programs: Vec<Program>,
}

impl Sample {
    pub fn new(server: TestServer, programs: Vec<Program>) -> Self {
        Self {
            server,
            remembers: true,
            takes_bytes: true,
            _programs: programs,
        }
    }

    fn python_over_http() -> Self {
        let (here, place, database) = (lasting_address(), lasting_address(), lasting_address());
        let database_url = format!("postgresql://plugin:none@{database}/none");
        let plugin = Program::start(
            runtime(&here, &database_url)
                .args(["--http", "--http-addr", &place, "--serve-static-assets"])
                .arg("demo_plugin.py"),
        );
        let url = format!("http://{place}");
        let server = TestServer::with(&[
            ("HOST", &here),
            ("PLUGINS", "DEMO"),
            ("DEMO_TRANSPORT", "http"),
            ("DEMO_PATH", &url),
            ("PLUGIN_NULL_DATABASE", &database),
        ]);
        Self::new(server, vec![plugin])
    }

    fn python_over_exec() -> Self {
        let here = lasting_address();
        let arguments = format!(
            "demo_plugin.py,--masterkey,{MASTER_KEY},--skygear-endpoint,http://{here},\
             --appname,myapp,--serve-static-assets"
        );
        let server = TestServer::with(&[
            ("HOST", &here),
            ("PLUGINS", "DEMO"),
            ("DEMO_TRANSPORT", "exec"),
            (
                "DEMO_PATH",
                set_up(".venv/bin/py-skygear").to_str().unwrap(),
            ),
            ("DEMO_ARGS", &arguments),
        ]);
        // The runtime loads its plugin from the folder that it is started in. Until the file
        // exists, it fails and is tried again.
        let sample = repository("tests/samples");
        let assets = server.folder().join("assets");
        std::fs::create_dir(&assets).unwrap();
        std::fs::copy(sample.join("assets/demo.css"), assets.join("demo.css")).unwrap();
        let plugin = server.folder().join("demo_plugin.py");
        std::fs::copy(sample.join("demo_plugin.py"), plugin).unwrap();
        Self {
            remembers: false,
            ..Self::new(server, Vec::new())
        }
    }

    fn node_over_http() -> Self {
        let (here, place) = (lasting_address(), lasting_address());
        let plugin = Program::start(
            Command::new("node")
                .arg(set_up("tests/node/node_modules/.bin/skygear-node"))
                .arg("index.js")
                .current_dir(repository("tests/node/plugin"))
                .stdin(Stdio::null())
                .env("HTTP", "true")
                .env("HTTP_ADDR", &place)
                .env("APP_NAME", "myapp")
                .env("API_KEY", API_KEY)
                .env("MASTER_KEY", MASTER_KEY)
                .env("SKYGEAR_ENDPOINT", format!("http://{here}")),
        );
        let url = format!("http://{place}");
        let server = TestServer::with(&[
            ("HOST", &here),
            ("PLUGINS", "DEMO"),
            ("DEMO_TRANSPORT", "http"),
            ("DEMO_PATH", &url),
        ]);
        Self {
            takes_bytes: false,
            ..Self::new(server, vec![plugin])
        }
    }
}

/// Returns a command that runs the published Python runtime in the sample's folder.
pub fn runtime(server: &str, database_url: &str) -> Command {
    let mut command = python();
    command
        .arg(set_up(".venv/bin/py-skygear"))
        .current_dir(repository("tests/samples"))
        .env("APP_NAME", "myapp")
        .env("API_KEY", API_KEY)
        .env("MASTER_KEY", MASTER_KEY)
        .env("SKYGEAR_ENDPOINT", format!("http://{server}"))
        .env("DATABASE_URL", database_url);
    command
}

/// Calls every point of a sample.
pub fn exercise(sample: &Sample) {
    let server = &sample.server;
    let anonymous = serving(sample);
    let ada = Client::signed_up(server, "ada");
    lambdas(sample, &anonymous, &ada);
    if sample.remembers {
        // Over exec the runtime cannot call the server.
        calls_back(&ada);
    }
    handlers(sample, &ada);
    hooks(sample, &ada);
    provider(&anonymous);
    if sample.remembers {
        timer_and_events(&anonymous);
    }
}

/// Waits until clients are served, which is slow with one process per event.
fn serving(sample: &Sample) -> Client {
    const TIMEOUT: Duration = Duration::from_secs(180);
    let client = Client::anonymous(&sample.server);
    let begin = Instant::now();
    while !sample.remembers && client.call("schema:fetch", json!({})).status == 503 {
        assert!(begin.elapsed() < TIMEOUT, "not served");
        std::thread::park_timeout(Duration::from_millis(200));
    }
    ready(&sample.server)
}

fn lambda(client: &Client, name: &str, args: Json) -> Answer {
    client.call(name, json!({"args": args}))
}

fn lambdas(sample: &Sample, anonymous: &Client, ada: &Client) {
    let list = lambda(anonymous, "demo:echo", json!(["ä", {"n": 1.5}, null])).result();
    assert_eq!(list["args"], json!(["ä", {"n": 1.5}, null]));
    let object = lambda(ada, "demo:echo", json!({"who": "bob"})).result();
    assert_eq!(object["kwargs"], json!({"who": "bob"}));
    assert_eq!(object["context"]["user_id"], json!(ada.user));
    assert_eq!(object["context"]["request_tag"], "plugin");
    let none = anonymous.call("demo:echo", json!({})).result();
    assert_eq!((&none["args"], &none["kwargs"]), (&json!([]), &json!({})));

    let secret = lambda(ada, "demo:secret", json!([])).result();
    assert_eq!(secret, json!({"user_id": ada.user}));
    assert_eq!(lambda(anonymous, "demo:secret", json!([])).status, 401);

    let error = |mode: &str| {
        let answer = lambda(anonymous, "demo:fail", json!({"mode": mode}));
        (answer.status, answer.json()["error"].clone())
    };
    let (status, bad) = error("skygear");
    assert_eq!((status, &bad["code"]), (400, &json!(108)));
    assert_eq!(bad["message"], "no such thing");
    assert_eq!(bad["info"], json!({"arguments": ["mode"]}));
    let (status, denied) = error("denied");
    assert_eq!((status, &denied["code"]), (403, &json!(102)));
    let (status, plain) = error("plain");
    assert_eq!((status, &plain["code"]), (500, &json!(10000)));
    let message = plain["message"].as_str().unwrap();
    assert!(message.contains("a plain exception"), "{message}");

    let slept = lambda(anonymous, "demo:sleep", json!({"seconds": 1})).result();
    assert_eq!(slept["slept"], 1);
    let seen = lambda(anonymous, "demo:seen", json!([])).result();
    assert_eq!(
        seen["pid"] == slept["pid"],
        sample.remembers,
        "{seen} {slept}"
    );
}

/// The plugin calls an action of the server while it answers.
fn calls_back(ada: &Client) {
    ada.save("diary/1", json!({"text": "mine"}));
    let body = json!({"action": "record:query", "payload": {"record_type": "diary"}});
    let found = lambda(ada, "demo:call", body).result();
    assert_eq!(found["result"][0]["_id"], "diary/1", "{found}");
}

fn handlers(sample: &Sample, ada: &Client) {
    let base = &sample.server.base_url;
    let ask = |method: &str, path: &str, token: Option<&String>, body: Option<Vec<u8>>| {
        let field = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut fields = vec![field(("X-Skygear-API-Key", API_KEY))];
        fields.extend(token.map(|token| field(("X-Skygear-Access-Token", token))));
        send(method, &format!("{base}{path}"), &fields, body).unwrap()
    };
    let hello = ask("GET", "/demo/hello?name=bob", None, None);
    assert_eq!((hello.status, &*hello.bytes), (200, &b"hello bob"[..]));
    assert!(
        hello
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );

    let sent: &[u8] = if sample.takes_bytes {
        b"\x00\xfe\xffbytes"
    } else {
        "text of ä".as_bytes()
    };
    let posted = ask("POST", "/demo/hello", None, Some(sent.to_vec()));
    assert_eq!(posted.status, 201);
    assert_eq!(posted.bytes, [&[0, 255], sent].concat());
    assert_eq!(posted.header("x-demo-path"), Some("/demo/hello"));
    assert_eq!(
        posted.header("content-type"),
        Some("application/octet-stream")
    );

    let tree = ask("POST", "/demo/tree/deep/er?a=1&b=2", None, Some(Vec::new()));
    let below = json!({"path": "/demo/tree/deep/er", "method": "POST", "query": "a=1&b=2"});
    assert_eq!((tree.status, tree.json()), (200, below));
    assert_eq!(ask("GET", "/demo/tree", None, None).status, 301);
    assert_eq!(
        ask("PUT", "/demo/hello", None, Some(Vec::new())).status,
        404
    );

    assert_eq!(ask("GET", "/demo/me", None, None).status, 401);
    let me = ask("GET", "/demo/me", ada.token.as_ref(), None);
    assert_eq!((me.status, me.json()), (200, json!({"user_id": ada.user})));

    let file = std::fs::read(repository("tests/samples/assets/demo.css")).unwrap();
    let asset = ask("GET", "/static/demo/demo.css", None, None);
    assert_eq!((asset.status, asset.bytes), (200, file));
}

fn hooks(sample: &Sample, ada: &Client) {
    let save = |id: &str, title: Json| {
        let mut record = json!({"_id": format!("demo_note/{id}")});
        if !title.is_null() {
            record["title"] = title;
        }
        let body = json!({"records": [record]});
        ada.call("record:save", body).result()[0].clone()
    };
    // The record is completed, rewritten, counted, and made public.
    let first = save("a", json!("  spaces  "));
    assert_eq!(
        (&first["title"], &first["revision"]),
        (&json!("spaces"), &json!(1))
    );
    let second = save("a", json!("again"));
    assert_eq!(
        (&second["title"], &second["revision"]),
        (&json!("again"), &json!(2))
    );
    let open = save("open", json!("public"));
    assert_eq!(open["_access"], json!([{"level": "read", "public": true}]));
    // The save is refused, and nothing is stored.
    let untitled = save("b", Json::Null);
    assert_eq!(
        (&untitled["_type"], &untitled["code"]),
        (&json!("error"), &json!(108))
    );
    assert_eq!(untitled["info"]["arguments"], json!(["title"]));
    assert_eq!(save("b", json!("boom"))["code"], 10000);
    // A failure after the save is reported although the record is stored.
    let late = save("late", json!("fail-after"));
    assert_eq!(
        (&late["code"], &late["message"]),
        (&json!(108), &json!("failed after the save"))
    );
    let mut stored: Vec<_> = ada.query("demo_note", json!([]));
    stored.sort_by_key(|record| record["_id"].to_string());
    let ids: Vec<_> = stored
        .iter()
        .map(|it| it["_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["demo_note/a", "demo_note/late", "demo_note/open"]);
    if sample.remembers {
        // The asynchronous hook runs at any time.
        eventually("all after-hooks ran", || {
            let seen = lambda(ada, "demo:seen", json!([])).result();
            // They run in any order.
            let id = seen["after_save_async"].as_str().unwrap_or_default();
            let is_one = ["a", "open", "late"].iter().any(|key| id.ends_with(key));
            (seen["after_save"] == 4 && is_one).then_some(())
        });
    }

    ada.save("demo_note/locked", json!({"title": "x", "locked": true}));
    let delete = |id: &str| {
        let body = json!({"ids": [format!("demo_note/{id}")]});
        ada.call("record:delete", body).result()[0].clone()
    };
    let locked = delete("locked");
    assert_eq!(
        (&locked["code"], &locked["message"]),
        (&json!(102), &json!("the note is locked"))
    );
    assert_eq!(delete("a")["_id"], "demo_note/a");
    assert_eq!(ada.query("demo_note", json!([])).len(), 3);
    if sample.remembers {
        let seen = lambda(ada, "demo:seen", json!([])).result();
        assert_eq!(seen["after_delete"], 1);
    }
}

fn provider(anonymous: &Client) {
    let ask = |action: &str, pin: &str| {
        let data = json!({"name": "carol", "pin": pin});
        let body = json!({"provider": "demo.provider", "provider_auth_data": data});
        anonymous.call(action, body)
    };
    let wrong = ask("auth:login", "0000");
    assert_eq!((wrong.status, wrong.code()), (401, 105));
    let signed_up = ask("auth:signup", "1234").result();
    let signed_in = ask("auth:login", "1234").result();
    assert_eq!(signed_up["user_id"], signed_in["user_id"]);
    assert!(signed_in["access_token"].is_string());
}

fn timer_and_events(anonymous: &Client) {
    let seen = eventually("the timer ticks twice", || {
        let seen = lambda(anonymous, "demo:seen", json!([])).result();
        (seen["ticks"].as_u64() >= Some(2)).then_some(seen)
    });
    let events: Vec<_> = seen["events"].as_array().unwrap().iter().collect();
    assert_eq!(events[..2], ["before-plugins-ready", "after-plugins-ready"]);
    assert_eq!(seen["app_name"], "myapp");
    let seen = eventually("the plugin hears of the record types", || {
        let seen = lambda(anonymous, "demo:seen", json!([])).result();
        let types = seen["record_types"].as_array()?;
        types.contains(&json!("demo_note")).then_some(seen)
    });
    let types = seen["record_types"].as_array().unwrap();
    assert!(types.contains(&json!("diary")), "{types:?}");
}

#[test]
fn the_python_sample_runs_over_http() {
    exercise(&Sample::python_over_http());
}

#[test]
fn the_python_sample_runs_over_exec() {
    exercise(&Sample::python_over_exec());
}

#[test]
fn the_javascript_sample_runs_over_http() {
    exercise(&Sample::node_over_http());
}
