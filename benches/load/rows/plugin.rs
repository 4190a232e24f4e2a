//! What do plugins cost: lambdas and handlers next to an answer from memory, hooked saves next to
//! plain ones, and deliveries next to saves without an after-hook?

use std::cell::Cell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compare::{Sums, compare, our_part};
use crate::drive::Job;
use crate::http::{Client, Response};
use crate::plugin::{EXEC_ARG, HOOKED, LAMBDA, NAME, PAGE, TOLD};
use crate::process::Server;
use crate::report::{Aim, Report};
use crate::request::{BareGet, Create, Session};
use crate::rig::{Loaded, Rig};
use crate::rows::DURABLE;
use crate::server::{self, MASTER_KEY};
use crate::stats::percentile;

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// What a hook may add to a save at low load.
const MAX_ADDED_US: f64 = 300.0;
/// What a plugin's answer promises.
const NOTHING: &str = "nothing is stored";

/// How a plugin is reached, and what it is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    WebSocket,
    Http,
    Exec,
    Zmq,
    Python,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
            Self::Exec => "exec",
            Self::Zmq => "zmq",
            Self::Python => "websocket, Python",
        }
    }

    /// A process for each request is so slow that few connections are enough to show it.
    fn connections(self) -> &'static [usize] {
        match self {
            Self::Exec => &CONNECTIONS[..1],
            _ => &CONNECTIONS,
        }
    }
}

/// A server with the plugin, which ends with this.
pub(super) struct Plugged {
    pub(super) loaded: Loaded,
    _worker: Option<Worker>,
    _http: Option<Server>,
}

/// A process that ends with this.
pub(super) struct Worker(Child);

impl Worker {
    /// Starts the plugin's worker at a server.
    pub(super) fn start(endpoint: &str) -> Self {
        let driver = std::env::current_exe().expect("this program");
        let mut command = Command::new(driver);
        command.args(["--worker", endpoint]);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("the worker runs"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    let mut ways = vec![Way::WebSocket, Way::Http, Way::Zmq, Way::Exec];
    match python() {
        Some(_) => ways.push(Way::Python),
        None => println!("load: no rows for Python: tests/run.sh --setup makes what they need"),
    }
    for way in ways {
        let plugged = plug(rig, way).await;
        for connections in way.connections() {
            run_answers(rig, report, &plugged.loaded, (way, *connections)).await;
            run_hooks(rig, report, &plugged.loaded, (way, *connections)).await;
        }
        if way != Way::Exec {
            run_deliveries(rig, report, &plugged.loaded, way).await;
        }
    }
}

async fn run_answers(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    (way, connections): (Way, usize),
) {
    let bare = BareGet { size: PAGE.len() };
    let lambda = Lambda {
        session: &loaded.session,
    };
    let seen = compare(rig, loaded, connections, &lambda, &bare).await;
    let name = format!("lambda ({}), {connections} connections", way.name());
    report.rate(&name, NOTHING, Aim::default(), &seen);
    let seen = compare(rig, loaded, connections, &Page, &bare).await;
    let name = format!("handler ({}), {connections} connections", way.name());
    report.rate(&name, NOTHING, Aim::default(), &seen);
}

/// Hooked saves and plain ones in turns, at one server.
async fn run_hooks(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    (way, connections): (Way, usize),
) {
    let job = |kind| Create {
        kind,
        session: &loaded.session,
        next: &loaded.next,
        batch: 1,
        is_bare: false,
    };
    let (hooked, plain) = (job(HOOKED), job("message"));
    let mut clients = loaded.connect(connections).await;
    let mut sums = Sums::default();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..=rig.options.rounds() {
        let hooked = our_part(rig, loaded, &mut clients, &hooked).await;
        let plain = our_part(rig, loaded, &mut clients, &plain).await;
        if round > 0 {
            with.extend_from_slice(&hooked.outcome.latencies_us);
            without.extend_from_slice(&plain.outcome.latencies_us);
            sums.add(hooked, plain.outcome, plain.cpu);
        }
    }
    let is_aimed_at = way == Way::WebSocket && connections > 1;
    let aim = Aim {
        min_ratio: is_aimed_at.then_some(0.5),
        max_p99_ms: (is_aimed_at && connections == 16).then_some(6.0),
        max_cpu: None,
    };
    let name = format!("hooked create ({}) / plain, {connections}", way.name());
    report.rate(&name, DURABLE, aim, &sums.finish(1));
    if connections == 1 {
        let added =
            f64::from(percentile(&mut with, 0.5)) - f64::from(percentile(&mut without, 0.5));
        let max = (way == Way::WebSocket).then_some(MAX_ADDED_US);
        let name = format!("a hook ({}) adds, median", way.name());
        report.figure(&name, added, max, "µs");
    }
}

/// Saves with an after-hook, until all were delivered, and plain ones in turns.
async fn run_deliveries(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded, way: Way) {
    let job = |kind| Create {
        kind,
        session: &loaded.session,
        next: &loaded.next,
        batch: 1,
        is_bare: false,
    };
    let (told, plain) = (job(TOLD), job("message"));
    let mut clients = loaded.connect(16).await;
    let mut sums = Sums::default();
    for round in 0..=rig.options.rounds() {
        let begun = Instant::now();
        let mut told = our_part(rig, loaded, &mut clients, &told).await;
        await_deliveries(&mut clients[0]).await;
        told.outcome.elapsed = begun.elapsed();
        told.settled = begun.elapsed().as_secs_f64();
        let plain = our_part(rig, loaded, &mut clients, &plain).await;
        if round > 0 {
            sums.add(told, plain.outcome, plain.cpu);
        }
    }
    let name = format!(
        "saved and told to an after-hook ({}) / plain, 16",
        way.name()
    );
    report.rate(&name, DURABLE, Aim::default(), &sums.finish(1));
}

/// Waits until everything was delivered to the plugin.
async fn await_deliveries(client: &mut Client) {
    let body = format!("{{\"action\":\"delivery:list\",\"api_key\":\"{MASTER_KEY}\"}}");
    let request = format!(
        "POST /delivery/list HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    loop {
        let response = client.send(request.as_bytes()).await.expect("an answer");
        let listed: Value = serde_json::from_slice(response.body).expect("JSON");
        let consumer = &listed["result"][0];
        assert_eq!(consumer["dead_letters"], 0, "{listed}");
        if consumer["lag"] == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a server and the plugin over a WebSocket, and waits until clients are served.
pub(super) async fn plug_in(rig: &Rig<'_>) -> Plugged {
    plug(rig, Way::WebSocket).await
}

async fn plug(rig: &Rig<'_>, way: Way) -> Plugged {
    let dir = rig.fresh_dir();
    let driver = std::env::current_exe().expect("this program");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let http = (way == Way::Http).then(|| {
        let mut command = Command::new(&driver);
        Server::start(
            command.arg("--http-plugin"),
            &dir.with_extension("plugin.log"),
        )
    });
    let mut settings = vec![("PLUGINS", NAME.to_owned())];
    if let Some(http) = &http {
        settings.push(("BENCH_TRANSPORT", "http".to_owned()));
        settings.push(("BENCH_PATH", format!("http://{}/", http.addr)));
    }
    if way == Way::Exec {
        settings.push(("BENCH_TRANSPORT", "exec".to_owned()));
        settings.push(("BENCH_PATH", text(&driver)));
        settings.push(("BENCH_ARGS", EXEC_ARG.to_owned()));
    }
    let workers_at = free_address();
    if way == Way::Zmq {
        settings.push(("BENCH_TRANSPORT", "zmq".to_owned()));
        settings.push(("BENCH_PATH", "bench".to_owned()));
        settings.push(("BENCH_ARGS", format!("tcp://{workers_at}")));
    }
    let server = server::start_with(rig, &dir, &settings);
    let endpoint = format!("http://{}", server.addr);
    let worker = match way {
        Way::WebSocket => Some(Worker::start(&endpoint)),
        Way::Python => python().map(|python| {
            let mut command = Command::new(python);
            let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/plugin.py");
            command.args(["-m", "skytrail", plugin, "--endpoint", &endpoint]);
            command.env("MASTER_KEY", MASTER_KEY);
            Worker::spawn(&mut command)
        }),
        Way::Zmq => {
            let mut command = Command::new(&driver);
            command.args(["--zmq-plugin", &workers_at]);
            Some(Worker::spawn(&mut command))
        }
        Way::Http | Way::Exec => None,
    };
    let mut client = Client::connect(server.addr).await.expect("a connection");
    await_ready(&mut client).await;
    let session = server::sign_up(&server).await;
    let loaded = Loaded {
        server,
        session,
        dir,
        next: Cell::new(0),
    };
    // A round ends with a query of plain records.
    let first = Create {
        kind: "message",
        session: &loaded.session,
        next: &loaded.next,
        batch: 1,
        is_bare: false,
    };
    crate::drive::drive_times(&mut [client], &first, 1).await;
    Plugged {
        loaded,
        _worker: worker,
        _http: http,
    }
}

async fn await_ready(client: &mut Client) {
    let request = b"GET /_status/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..600 {
        if client.send(request).await.expect("an answer").status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the plugin is not ready");
}

/// Returns an address where nothing listens.
fn free_address() -> String {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
    taken.local_addr().expect("an address").to_string()
}

fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    python.exists().then_some(python)
}

/// Calls the lambda.
struct Lambda<'a> {
    session: &'a Session,
}

impl Job for Lambda<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        self.session
            .write(into, "/bench/lambda", LAMBDA, "\"args\":[1,\"two\"],");
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && response.body.starts_with(b"{\"result\":{\"args\":[1,")
    }
}

/// Gets the handler's page.
struct Page;

impl Job for Page {
    fn write_request(&self, into: &mut Vec<u8>) {
        into.write_all(b"GET /bench/page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("memory");
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && response.body == PAGE.as_bytes()
    }
}
