//! A plugin that is called over HTTP: it answers as the test says, and records what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value as Json, json};

use crate::support::eventually;

/// What the plugin does with a request.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// Answers with this envelope.
    Json(Json),
    /// Answers with this status and body, whatever the body is.
    Text(u16, String),
    /// Hangs up.
    HangUp,
    /// Sends nothing for as long as the server waits.
    Hang,
}

impl Reaction {
    /// Answers with a result.
    pub fn result(result: Json) -> Self {
        Self::Json(json!({"result": result}))
    }
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The lines of the head.
    pub head: Vec<String>,
    /// The envelope.
    pub envelope: Json,
}

/// Shared by the plugin's threads.
struct Shared {
    react: Box<dyn Fn(&Json) -> Reaction + Send + Sync>,
    posted: Mutex<Vec<Posted>>,
    connections: Mutex<Vec<TcpStream>>,
    num_hung_up_on: Mutex<usize>,
    is_stopping: AtomicBool,
}

/// The plugin; dies when dropped.
pub struct HttpPlugin {
    pub address: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl HttpPlugin {
    /// Starts a plugin that registers `points`; `react` handles everything except events.
    pub fn start(points: Json, react: impl Fn(&Json) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", points, react)
    }

    pub fn start_at(
        address: &str,
        points: Json,
        react: impl Fn(&Json) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        Self::start_raw(address, move |request| {
            match (request["kind"].as_str(), request["name"].as_str()) {
                (Some("event"), Some("init")) => Reaction::result(points.clone()),
                (Some("event"), _) => Reaction::result(Json::Null),
                _ => react(request),
            }
        })
    }

    /// Starts a plugin whose `react` handles events as well.
    pub fn start_raw(
        address: &str,
        react: impl Fn(&Json) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        // Another plugin may only just have left this address.
        let listener = eventually("the plugin listens", || TcpListener::bind(address).ok());
        let shared = Arc::new(Shared {
            react: Box::new(react),
            posted: Mutex::default(),
            connections: Mutex::default(),
            num_hung_up_on: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let address = listener.local_addr().unwrap().to_string();
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &accepting));
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// Returns the address as it is configured in the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns what the plugin was asked, in order.
    pub fn posted(&self) -> Vec<Posted> {
        self.shared.posted.lock().unwrap().clone()
    }

    /// Returns the names of the requests of a kind, in order.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let posted = self.posted();
        let of_kind = posted.iter().filter(|it| it.envelope["kind"] == kind);
        of_kind
            .map(|it| it.envelope["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Returns how many requests were abandoned by the server.
    pub fn num_hung_up_on(&self) -> usize {
        *self.shared.num_hung_up_on.lock().unwrap()
    }

    /// Waits for a request with this name.
    pub fn await_request(&self, name: &str) -> Json {
        eventually("the plugin was asked", || {
            let posted = self.posted();
            let found = posted.iter().find(|it| it.envelope["name"] == name);
            found.map(|it| it.envelope.clone())
        })
    }
}

impl Drop for HttpPlugin {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        for connection in self.shared.connections.lock().unwrap().iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.is_stopping.load(Ordering::SeqCst) {
            return;
        }
        let mut connections = shared.connections.lock().unwrap();
        connections.push(stream.try_clone().unwrap());
        let shared = Arc::clone(shared);
        std::thread::spawn(move || while serve(&stream, &shared).is_some() {});
    }
}

/// Serves one request; `None` at the end of the connection.
fn serve(stream: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        let num_bytes = reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            _ if num_bytes == 0 => return None,
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length?];
    reader.read_exact(&mut body).ok()?;
    let envelope: Json = serde_json::from_slice(&body).unwrap();
    let posted = Posted {
        head,
        envelope: envelope.clone(),
    };
    shared.posted.lock().unwrap().push(posted);
    let (status, text) = match (shared.react)(&envelope) {
        Reaction::Json(json) => (200, json.to_string()),
        Reaction::Text(status, text) => (status, text),
        Reaction::HangUp => {
            let _ = stream.shutdown(Shutdown::Both);
            return None;
        }
        Reaction::Hang => {
            // Nothing more arrives; the read ends when the server hangs up.
            let _ = reader.read(&mut [0]);
            *shared.num_hung_up_on.lock().unwrap() += 1;
            return None;
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    let mut writer = stream;
    writer.write_all(head.as_bytes()).ok()?;
    writer.write_all(text.as_bytes()).ok()
}
