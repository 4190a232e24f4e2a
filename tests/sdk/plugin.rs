//! The plugin that has the suites' lambdas, hooks, and auth provider.

use serde_json::{Value as Json, json};

use crate::plugin::worker::{Serving, Worker};
use crate::support::server::TestServer;

/// Lambdas that return what they were asked.
const ECHOES: [&str; 8] = [
    "sdk:echo",
    "sdk/with/slashes",
    "sso/acme/link",
    "sso/acme/unlink",
    "sso/provider_profiles",
    "user:forgot-password",
    "user:reset-password",
    "user:verify_request",
];
const OTHERS: [&str; 4] = [
    "sdk:refuse",
    "sdk:nothing",
    "sso/acme/login",
    "user:verify_code",
];

/// Serves a server that waits for plugin `TEST`, until dropped.
pub fn serve(server: &TestServer) -> Serving {
    let mut ops: Vec<Json> = ECHOES
        .iter()
        .chain(&OTHERS)
        .map(|name| json!({"name": name}))
        .collect();
    ops.push(json!({"name": "sdk:for_users", "user_required": true}));
    let points = json!({
        "op": ops,
        "hook": [{"name": "count_words", "type": "hooked", "trigger": "beforeSave", "async": false}],
        "provider": [{"type": "auth", "id": "acme"}],
    });
    Worker::ready(server, &json!({}), &points).serve(answer)
}

fn answer(worker: &mut Worker, request: &Json) {
    if request["type"] != "request" {
        return;
    }
    let param = &request["param"];
    match request["name"].as_str().unwrap_or_default() {
        "sdk:refuse" => worker.refuse(
            request,
            &json!({
                "code": 108,
                "message": "not like this",
                "info": {"arguments": ["this"], "more": {"deep": true}},
            }),
        ),
        "sdk:nothing" | "user:verify_code" => worker.answer(request, &Json::Null),
        // The SDK expects a session one level deeper than an answer's result.
        "sso/acme/login" => worker.answer(
            request,
            &json!({"result": {
                "profile": {"_id": "user/from-acme", "_type": "record", "_access": null},
                "access_token": param["args"]["access_token"],
            }}),
        ),
        "count_words" => count_words(worker, request),
        "acme" => know(worker, request),
        name => {
            let user = &request["context"]["user_id"];
            let seen = json!({"name": name, "args": param["args"], "user_id": user});
            worker.answer(request, &seen);
        }
    }
}

fn count_words(worker: &mut Worker, request: &Json) {
    let text = request["param"]["record"]["text"]
        .as_str()
        .unwrap_or_default();
    if text.is_empty() {
        let info = json!({"arguments": ["text"]});
        let error = json!({"code": 108, "message": "a text is needed", "info": info});
        return worker.refuse(request, &error);
    }
    let words = text.split_whitespace().count();
    worker.answer_record(request, &json!({"words": words}));
}

/// Vouches for everybody but `nobody`.
fn know(worker: &mut Worker, request: &Json) {
    let auth_data = &request["param"]["auth_data"];
    let principal = &auth_data["principal"];
    if principal == "nobody" {
        let error = json!({"code": 105, "message": "a stranger"});
        return worker.refuse(request, &error);
    }
    let known = json!({"principal_id": principal, "auth_data": auth_data});
    worker.answer(request, &known);
}
