//! The plugins, and the transport to each.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use skytrail_actors::plugin::{TransportKind, protocol};

use super::Plugin;
use super::source::Reader;
use crate::plugin::zmq::Endpoint;

/// The maximum number of requests in flight to a plugin.
const MAX_WINDOW: u64 = protocol::MAX_WINDOW as u64;
/// The longest time that a plugin may take to answer, in seconds: a hundred years.
const MAX_TIMEOUT: u64 = 3_153_600_000;
/// How many processes of a plugin run at once by default.
const EXEC_WINDOW: u64 = 8;

/// The transport to a plugin. `<NAME>_TRANSPORT`, default `websocket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginTransport {
    /// Its workers connect to `/_/plugin`.
    WebSocket,
    /// The server sends requests to an address, `<NAME>_PATH`.
    Http {
        /// The address.
        url: String,
        /// The maximum number of requests in flight. `<NAME>_WINDOW`, default 1024.
        window: u64,
    },
    /// The server runs a program for each request.
    Exec {
        /// The program. `<NAME>_PATH`, default `py-skygear`.
        program: String,
        /// Its first arguments. `<NAME>_ARGS`, separated by commas.
        args: Vec<String>,
        /// The maximum number of processes at once. `<NAME>_WINDOW`, default 8.
        window: u64,
    },
    /// Its workers connect to a `ZeroMQ` socket.
    Zmq {
        /// The broker's name, unique. `<NAME>_PATH`.
        name: String,
        /// The address that the server listens on. The first of `<NAME>_ARGS`.
        bind: Endpoint,
    },
}

impl PluginTransport {
    /// Returns the kind of transport.
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::WebSocket => TransportKind::WebSocket,
            Self::Http { .. } => TransportKind::Http,
            Self::Exec { .. } => TransportKind::Exec,
            Self::Zmq { .. } => TransportKind::Zmq,
        }
    }
}

/// Reads `PLUGINS` and the settings of each plugin.
pub(super) fn read(reader: &mut Reader<'_>, zmq_timeout: Duration) -> Vec<Plugin> {
    let names = reader.text("PLUGINS", "");
    let mut plugins: Vec<Plugin> = Vec::new();
    let mut brokers = HashSet::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        if plugins.iter().any(|known| known.name == name) {
            reader.refuse("PLUGINS", &names, "each plugin once");
            continue;
        }
        let plugin = read_plugin(reader, name, zmq_timeout, &mut brokers);
        plugins.push(plugin);
    }
    refuse_doubles(reader, &plugins);
    plugins
}

fn read_plugin(
    reader: &mut Reader<'_>,
    name: &str,
    zmq_timeout: Duration,
    brokers: &mut HashSet<String>,
) -> Plugin {
    let transport = read_transport(reader, name, brokers);
    // Settings that the transport does not read are not mistakes either.
    for what in ["PATH", "ARGS", "WINDOW"] {
        setting(reader, name, what);
    }
    let default = match transport {
        PluginTransport::Zmq { .. } => zmq_timeout,
        _ => Duration::from_secs(30),
    };
    let timeout = setting(reader, name, "TIMEOUT");
    // 0 cannot mean "without limit" here: a request that nobody answers must end.
    let seconds = reader.number(&timeout, default.as_secs(), 1..=MAX_TIMEOUT);
    Plugin {
        name: name.to_owned(),
        transport,
        timeout: Duration::from_secs(seconds),
    }
}

/// Returns the name of a plugin's setting, with the plugin's name as written, or in capitals. Names
/// from `skytrail.toml` are always in capitals.
fn setting(reader: &mut Reader<'_>, name: &str, what: &str) -> String {
    let capitals = name.to_uppercase();
    reader.spelled(&format!("{name}_{what}"), &format!("{capitals}_{what}"))
}

fn read_transport(
    reader: &mut Reader<'_>,
    name: &str,
    brokers: &mut HashSet<String>,
) -> PluginTransport {
    let [transport, path, args] =
        ["TRANSPORT", "PATH", "ARGS"].map(|what| setting(reader, name, what));
    let kind = reader.text(&transport, "websocket");
    let split = |args: String| -> Vec<String> {
        let args = args.split(',').filter(|arg| !arg.is_empty());
        args.map(str::to_owned).collect()
    };
    match kind.as_str() {
        "websocket" => PluginTransport::WebSocket,
        "http" => {
            let url = reader.text(&path, "");
            let is_http = url.starts_with("http://") || url.starts_with("https://");
            if !is_http {
                reader.refuse(&path, &url, "the plugin's address, http://…");
            }
            let window = read_window(reader, name, MAX_WINDOW);
            PluginTransport::Http { url, window }
        }
        "exec" => PluginTransport::Exec {
            program: reader.text(&path, "py-skygear"),
            args: split(reader.text(&args, "")),
            window: read_window(reader, name, EXEC_WINDOW),
        },
        "zmq" => {
            let broker = reader.text(&path, "");
            if broker.is_empty() {
                reader.refuse(&path, "", "a name for the plugin's broker");
            } else if !brokers.insert(broker.clone()) {
                reader.refuse(&path, &broker, "a name that no other plugin has");
            }
            let text = reader.text(&args, "");
            let first = split(text.clone()).into_iter().next().unwrap_or_default();
            let Some(bind) = Endpoint::parse(&first) else {
                let expected = "the address to listen on first, such as tcp://127.0.0.1:5555";
                reader.refuse(&args, &text, expected);
                return PluginTransport::WebSocket;
            };
            PluginTransport::Zmq { name: broker, bind }
        }
        other => {
            reader.refuse(&transport, other, "websocket, http, exec or zmq");
            PluginTransport::WebSocket
        }
    }
}

/// Reads the address of the empty database.
pub(super) fn read_null_database(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let text = reader.text("PLUGIN_NULL_DATABASE", "127.0.0.1:0");
    if text == "off" {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        reader.refuse("PLUGIN_NULL_DATABASE", &text, "127.0.0.1:PORT, or off");
    }
    address
}

fn read_window(reader: &mut Reader<'_>, name: &str, default: u64) -> u64 {
    let window = setting(reader, name, "WINDOW");
    reader.number(&window, default, 1..=MAX_WINDOW)
}

/// Refuses two plugins with one address, because they would take each other's workers.
fn refuse_doubles(reader: &mut Reader<'_>, plugins: &[Plugin]) {
    let mut addresses = HashSet::new();
    for plugin in plugins {
        let PluginTransport::Zmq { bind, .. } = &plugin.transport else {
            continue;
        };
        // With port 0, each plugin gets a port of its own.
        let is_any = bind.to_string().ends_with(":0");
        if !is_any && !addresses.insert(bind) {
            let args = setting(reader, &plugin.name, "ARGS");
            reader.refuse(
                &args,
                &bind.to_string(),
                "an address that no other plugin has",
            );
        }
    }
}
