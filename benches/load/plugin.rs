//! A plugin for the rows that need one: in Rust, doing as little as it can, over each transport.
//!
//! It has a lambda, a handler, a before-save hook that adds a field, and an after-save hook. The
//! driver starts itself as this plugin, so that the plugin's time is measured in a process of its
//! own.

use std::io::{Read as _, Write as _};

use actix_web::{App, HttpServer, web};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Its name in `PLUGINS`.
pub(crate) const NAME: &str = "BENCH";
/// Its lambda.
pub(crate) const LAMBDA: &str = "bench:lambda";
/// The type whose saves its before-hook changes.
pub(crate) const HOOKED: &str = "hooked";
/// The type whose saves its after-hook hears of.
pub(crate) const TOLD: &str = "told";
/// The answer of its handler.
pub(crate) const PAGE: &str = "a page of a plugin";
/// The argument that makes this program the plugin over `exec`.
pub(crate) const EXEC_ARG: &str = "--exec-plugin";

fn registration() -> Value {
    json!({
        "op": [{"name": LAMBDA}],
        "handler": [{"name": "bench:page", "methods": ["GET"]}],
        "hook": [
            {"name": "count", "type": HOOKED, "trigger": "beforeSave"},
            {"name": "hear", "type": TOLD, "trigger": "afterSave", "async": true},
        ],
    })
}

/// Returns the result of a request.
pub(crate) fn result(request: &mut Value) -> Value {
    match request["kind"].as_str() {
        Some("event") if request["name"] == "init" => registration(),
        Some("op") => json!({"args": request["param"]["args"].take()}),
        // "a page of a plugin" in base64, as bodies are in the envelope.
        Some("handler") => json!({
            "status": 200,
            "header": {"Content-Type": ["text/plain"]},
            "body": "YSBwYWdlIG9mIGEgcGx1Z2lu",
        }),
        Some("hook") if request["name"] == "hear" => Value::Null,
        Some("hook") => {
            let mut record = request["param"]["record"].take();
            record["words"] = json!(5);
            record
        }
        _ => Value::Null,
    }
}

/// Connects to a server as a worker and serves until it is ended.
pub(crate) async fn work(endpoint: &str, master_key: &str) {
    let url = format!("{}/_/plugin", endpoint.replacen("http", "ws", 1));
    let mut request = url.into_client_request().expect("an address");
    let headers = request.headers_mut();
    headers.insert("X-Skygear-API-Key", master_key.parse().expect("a key"));
    let protocol = "skygear.plugin.v1".parse().expect("a protocol");
    headers.insert("Sec-WebSocket-Protocol", protocol);
    let (socket, _) = connect_async(request).await.expect("a connection");
    if let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_nodelay(true).expect("a socket");
    }
    let (mut to_server, mut from_server) = socket.split();
    let hello = json!({"type": "hello", "plugin": NAME, "worker": "bench", "window": 1024});
    let hello = Message::text(hello.to_string());
    to_server.send(hello).await.expect("the server listens");
    let mut seq = 0;
    while let Some(Ok(message)) = from_server.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let mut message: Value = serde_json::from_str(&text).expect("JSON");
        let answer = match message["type"].as_str() {
            Some("request") => {
                seq += 1;
                let id = message["id"].take();
                json!({"type": "response", "seq": seq, "id": id, "result": result(&mut message)})
            }
            Some("ping") => json!({"type": "pong"}),
            _ => continue,
        };
        let answer = Message::text(answer.to_string());
        to_server.send(answer).await.expect("the server listens");
    }
}

/// Serves as a plugin over HTTP, and prints its address.
pub(crate) fn serve_http() -> std::io::Result<()> {
    actix_web::rt::System::new().block_on(async {
        let answer = |mut request: web::Json<Value>| async move {
            web::Json(json!({"result": result(&mut request)}))
        };
        let app = move || {
            let json = web::JsonConfig::default().content_type_required(false);
            App::new()
                .app_data(json)
                .default_service(web::post().to(answer))
        };
        let server = HttpServer::new(app).workers(1).bind("127.0.0.1:0")?;
        for addr in server.addrs() {
            println!("plugin: ready on http://{addr}");
        }
        server.run().await
    })
}

/// Answers one request as a program over `exec` does.
pub(crate) fn run_once(args: &[String]) -> std::io::Result<()> {
    let kind_and_name = args.iter().position(|arg| arg == "--subprocess");
    let after = |more: usize| args.get(kind_and_name? + more).cloned();
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let param: Value = serde_json::from_str(&input).unwrap_or_default();
    let mut request = json!({"kind": after(1), "name": after(2), "param": param});
    let answer = json!({"result": result(&mut request)}).to_string();
    std::io::stdout().write_all(answer.as_bytes())
}
