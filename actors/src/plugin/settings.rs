//! What the configuration tells the plugin actors.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

/// How the server and a plugin are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// Its workers connect to the server.
    #[default]
    WebSocket,
    /// The server sends it HTTP requests.
    Http,
    /// The server runs a program for each request.
    Exec,
    /// Its workers connect to a `ZeroMQ` socket of the server.
    Zmq,
}

/// A plugin that is expected to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginEntry {
    /// Its name, as written in `PLUGINS`.
    pub name: Arc<str>,
    /// How it is reached.
    pub transport: TransportKind,
    /// How long one of its requests may take.
    pub timeout: Duration,
}

impl PluginEntry {
    /// Returns a plugin with the default limit.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            transport: TransportKind::WebSocket,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// The pause after the first try to initialise a plugin that the server reaches. It doubles with
/// each try, up to [`PluginsSettings::longest_pause`].
pub const FIRST_PAUSE: Duration = Duration::from_secs(2);

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits and policies; the defaults are the protocol's. Never printed, because the configuration
/// that plugins are told contains keys.
#[derive(Clone)]
pub struct PluginsSettings {
    /// The plugins, in the order in which they start, hook and hear of events.
    pub plugins: Vec<PluginEntry>,
    /// The names of the server's own actions.
    pub actions: Vec<&'static str>,
    /// Whether plugins with any other name may connect, for development. The server does not wait
    /// for them.
    pub allow_unlisted: bool,
    /// Whether clients see plugins' tracebacks, and plugins are tried again sooner.
    pub dev_mode: bool,
    /// The server's version, for people.
    pub server: String,
    /// The configuration that lifecycle events carry: the object under `config`.
    pub config: Arc<Json>,
    /// How many requests can be queued per plugin.
    pub max_queue: usize,
    /// How many bytes of requests can be queued per plugin.
    pub max_queue_bytes: usize,
    /// How long a request waits while no worker is connected.
    pub rejoin_wait: Duration,
    /// The silence after which a `ping` is sent; three times as long ends the connection.
    pub heartbeat: Duration,
    /// How long a session waits for its worker to come back; zero ends it at once.
    pub resume: Duration,
    /// How many unacknowledged messages are kept for a worker.
    pub max_unacknowledged: usize,
    /// How many bytes of unacknowledged messages are kept.
    pub max_unacknowledged_bytes: usize,
    /// How long a draining worker may take.
    pub drain: Duration,
    /// The largest message, in both directions.
    pub max_message: usize,
    /// How many calls a worker may have in flight.
    pub max_calls: usize,
    /// How deeply calls may be nested.
    pub max_depth: u32,
    /// How long a call may take at most, and the default when the worker does not say.
    pub call_timeout: Duration,
    /// How long a new connection may take to say `hello`.
    pub hello_timeout: Duration,
    /// How long a worker may take to answer `init`.
    pub init_timeout: Duration,
    /// How long after its limit an unanswered request makes its slot count as stuck.
    pub stuck_after: Duration,
    /// How many bytes can wait to be written to one worker before it gets no more requests.
    pub send_buffer: usize,
    /// How many workers a plugin may have.
    pub max_workers: usize,
    /// How long the newest generation is remembered after it was last seen.
    pub generation_memory: Duration,
}

impl Default for PluginsSettings {
    fn default() -> Self {
        Self {
            plugins: Vec::new(),
            actions: Vec::new(),
            allow_unlisted: false,
            dev_mode: false,
            server: env!("CARGO_PKG_VERSION").to_owned(),
            config: Arc::new(json!({})),
            max_queue: 1000,
            max_queue_bytes: 64 * 1024 * 1024,
            rejoin_wait: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            resume: Duration::from_secs(15),
            max_unacknowledged: 1000,
            max_unacknowledged_bytes: 8 * 1024 * 1024,
            drain: Duration::from_secs(30),
            max_message: 8 * 1024 * 1024,
            max_calls: 64,
            max_depth: 10,
            call_timeout: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(10),
            init_timeout: Duration::from_secs(30),
            stuck_after: Duration::from_secs(30),
            send_buffer: 8 * 1024 * 1024,
            max_workers: 100,
            generation_memory: Duration::from_secs(3600),
        }
    }
}

impl PluginsSettings {
    /// Returns how long a request to a plugin may take.
    pub fn timeout_of(&self, plugin: &str) -> Duration {
        let entry = self.plugins.iter().find(|entry| &*entry.name == plugin);
        entry.map_or(DEFAULT_TIMEOUT, |entry| entry.timeout)
    }

    /// Returns how a plugin is reached; a plugin that is not listed can only connect by itself.
    pub fn transport_of(&self, plugin: &str) -> TransportKind {
        let entry = self.plugins.iter().find(|entry| &*entry.name == plugin);
        entry.map_or(TransportKind::WebSocket, |entry| entry.transport)
    }

    /// Returns the longest pause between two tries to initialise a plugin.
    pub fn longest_pause(&self) -> Duration {
        // A developer waits for the next try.
        Duration::from_secs(if self.dev_mode { 5 } else { 30 })
    }

    /// Returns the maximum number of connections.
    pub fn max_connections(&self) -> usize {
        let unlisted = usize::from(self.allow_unlisted);
        self.max_workers * (self.plugins.len() + unlisted).max(1)
    }
}
