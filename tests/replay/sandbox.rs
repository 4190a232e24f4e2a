//! A plugin that is only being tried can change nothing on the server, neither over its connection
//! nor around it.

use std::thread::spawn;

use serde_json::{Value as Json, json};

use crate::plugin::hook;
use crate::plugin::worker::Worker;
use crate::support::client::{Answer, Client, send};
use crate::support::server::{MASTER_KEY, TestServer};

/// A server where two users have a note each.
struct World {
    server: TestServer,
    master: Client,
    ada: Client,
    bob: Client,
}

impl World {
    fn new() -> Self {
        Self::at(TestServer::start())
    }

    fn at(server: TestServer) -> Self {
        let master = Client::master(&server);
        let [ada, bob] = ["ada", "bob"].map(|name| Client::signed_up(&server, name));
        ada.save("note/1", json!({"n": 1}));
        bob.save("note/2", json!({"n": 2}));
        Self {
            server,
            master,
            ada,
            bob,
        }
    }

    fn head(&self) -> Option<u64> {
        let page = self.master.call("log:read", json!({"limit": 1})).json();
        page["info"]["head"].as_u64()
    }

    /// Connects a plugin that is to be tried on notes.
    fn tried(&self) -> Worker {
        let headers = [
            ("X-Skygear-API-Key", MASTER_KEY),
            ("Sec-WebSocket-Protocol", "skygear.plugin.v1"),
        ];
        let mut worker = Worker::open(&self.server, "/_/sandbox/_/plugin", &headers).unwrap();
        worker.send(json!({"type": "hello", "plugin": "TRIED", "worker": "test"}));
        worker.expect("welcome");
        worker.register(&json!({"hook": [hook("note", "beforeSave")]}));
        worker
    }

    /// Posts to the address that `skytrail replay` gives to the plugin.
    fn post(&self, path: &str, body: &Json) -> Answer {
        let url = format!("{}/_/sandbox{path}", self.server.base_url);
        let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
        let body = serde_json::to_vec(body).unwrap();
        send("POST", &url, &[key], Some(body)).unwrap()
    }
}

/// Answers events until the worker is ready.
fn until_ready(worker: &mut Worker) {
    worker.serve_event("before-plugins-ready");
    worker.expect("ready");
    worker.serve_event("after-plugins-ready");
    worker.serve_event("server-ready");
}

/// Asks over a worker's connection; returns status and body.
fn ask(worker: &mut Worker, payload: Json) -> (Json, Json) {
    worker.send(json!({"type": "call", "id": "c", "payload": payload}));
    let reply = worker.expect("reply");
    (reply["status"].clone(), reply["body"].clone())
}

/// Requests that a sandbox answers.
fn reads() -> [Json; 4] {
    [
        json!({"action": "record:query", "record_type": "note"}),
        json!({"action": "record:fetch", "ids": ["note/1"]}),
        json!({"action": "role:get", "users": ["bob"]}),
        json!({"action": "relation:query", "name": "friend", "direction": "outward"}),
    ]
}

#[test]
fn a_read_in_the_name_of_somebody_makes_nobody() {
    let world = World::new();
    let mut worker = world.tried();
    until_ready(&mut worker);
    let user = world.ada.user.clone().unwrap();
    let erased = json!({"user": user, "why": "the law"});
    world.master.call("erase:user", erased).result();
    let before = world.head();
    for read in reads() {
        let mut as_whom = |whom: &str| {
            let mut payload = read.clone();
            payload["_user_id"] = json!(whom);
            ask(&mut worker, payload)
        };
        let (status, body) = as_whom("ghost");
        assert_eq!(status, 200, "{body}");
        let (status, body) = as_whom(&user);
        assert_eq!((status, &body["error"]["code"]), (json!(404), &json!(110)));
        assert_eq!(world.head(), before, "{read}");
    }
}

#[test]
fn a_replay_names_nobody_who_was_erased() {
    let world = World::new();
    let mut worker = world.tried();
    until_ready(&mut worker);
    let erased = json!({"user": world.ada.user, "why": "the law"});
    world.master.call("erase:user", erased).result();
    let before = world.head();
    let master = world.master.clone();
    let replay = spawn(move || master.call("plugin:replay", json!({"record_types": ["note"]})));
    for user in [None, world.bob.user.as_deref()] {
        let request = worker.expect_request("note_beforeSave");
        assert_eq!(request["context"]["sandbox"], true);
        assert_eq!(request["context"]["user_id"].as_str(), user);
        worker.answer_record(&request, &json!({}));
    }
    let replayed = replay.join().unwrap().json();
    assert_eq!(replayed["info"]["writes"]["same"], 2, "{replayed}");
    assert_eq!(world.head(), before);
}

/// Some plugins ask the server over HTTP, at the address that they are given.
#[test]
fn over_http_a_sandbox_answers_reads_and_refuses_the_rest() {
    let world = World::new();
    let before = world.head();
    let save = json!({"action": "record:save", "records": [{"_id": "note/3", "n": 3}]});
    let mut unnamed = save.clone();
    unnamed.as_object_mut().unwrap().remove("action");
    for (path, body) in [
        ("/record/save", &save),
        ("/record/save", &unnamed),
        ("/record/save/", &save),
        ("", &save),
        ("/", &save),
        ("/nothing/of/the/kind", &save),
        (
            "/pubsub/publish",
            &json!({"action": "pubsub:publish", "channels": ["c"], "data": {}}),
        ),
        // The path decides, whatever the body says.
        ("/record/save", &json!({"action": "record:query"})),
    ] {
        let answer = world.post(path, body);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], 111, "{path}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("does not run in a sandbox"), "{message}");
        assert_eq!(world.head(), before, "{path}");
    }
    assert_eq!(world.post("/", &json!({})).json()["error"]["code"], 111);
    for path in ["/nothing", "/_", "/_/record/save"] {
        assert_eq!(world.post(path, &json!({})).status, 404, "{path}");
    }
    assert_eq!(world.post("/_/nothing", &save).status, 404);
    for read in reads() {
        let path = read["action"].as_str().unwrap().replace(':', "/");
        let mut body = read.clone();
        body["_user_id"] = json!("ghost");
        for path in ["", &format!("/{path}")] {
            let answer = world.post(path, &body);
            assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        }
    }
    let found = world.post("/record/query", &json!({"record_type": "note"}));
    assert_eq!(found.result().as_array().unwrap().len(), 2);
    assert_eq!(world.head(), before);
}

#[test]
fn nothing_else_below_the_servers_own_paths_takes_the_action_of_a_body() {
    let world = World::new();
    let before = world.head();
    let body = json!({"action": "record:save", "records": [{"_id": "note/3", "n": 3}]});
    for path in ["/_", "/_/", "/_/record/save", "/_/health", "/_/sandboxes"] {
        let url = format!("{}{path}", world.server.base_url);
        let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
        let body = serde_json::to_vec(&body).unwrap();
        let answer = send("POST", &url, &[key], Some(body)).unwrap();
        assert!(answer.status >= 400, "{path}");
        assert_eq!(world.head(), before, "{path}");
    }
}

/// Lambdas belong to plugins that serve, and take precedence over actions of the same name.
#[test]
fn no_lambda_is_run_out_of_a_sandbox() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let points = json!({"op": [{"name": "note:count"}, {"name": "role:get"}]});
    let mut serving = Worker::ready(&server, &json!({}), &points);
    let world = World::at(server);
    let mut tried = world.tried();
    until_ready(&mut tried);
    for action in ["note:count", "role:get"] {
        let body = json!({"action": action, "users": ["bob"]});
        let (status, answer) = ask(&mut tried, body.clone());
        assert_eq!(
            (status, &answer["error"]["code"]),
            (json!(501), &json!(111))
        );
        for path in ["", &format!("/{}", action.replace(':', "/"))] {
            let answer = world.post(path, &body).json();
            assert_eq!(answer["error"]["code"], 111, "{path}: {answer}");
        }
    }
    serving.expect_nothing(&world.server);
}
