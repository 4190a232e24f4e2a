//! Settings for the HTTP server: where it listens, and what it accepts.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZero;
use std::time::Duration;

use super::Secret;
use super::source::{Reader, without_sign_in};
use crate::http::origins::{NoOrigin, Origins};
use crate::http::remote::Proxies;

/// The HTTP server.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen. `HOST` as `[host]:port`, default `:3000`; else `PORT`. Without a host: all
    /// IPv4 and IPv6 addresses.
    pub listen: SocketAddr,
    /// The allowed origins, as configured. `CORS_HOST`, default `*`.
    pub cors_host: String,
    /// The allowed origins, parsed for comparison.
    pub origins: Origins,
    /// How long an action may take; `None` means without limit. `RESPONSE_TIMEOUT` in seconds,
    /// default 60.
    pub response_timeout: Option<Duration>,
    /// Limits on the content of a request.
    pub limits: Limits,
    /// The number of HTTP threads. `HTTP_WORKERS`, default one per core.
    pub workers: usize,
    /// The maximum number of open connections; more wait to be accepted. `HTTP_MAX_CONNECTIONS`,
    /// default 20,000.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request. `HTTP_HEAD_TIMEOUT` in seconds,
    /// default 10.
    pub head_timeout: Duration,
    /// How long a client may take to send a JSON body. `HTTP_BODY_TIMEOUT` in seconds, default 60.
    pub body_timeout: Duration,
    /// How long a client may go without reading anything of what is sent to it. `HTTP_SEND_TIMEOUT`
    /// in seconds, default 60.
    pub send_timeout: Duration,
    /// How long a connection may stay open without a request. `HTTP_KEEP_ALIVE` in seconds, default
    /// 75.
    pub keep_alive: Duration,
    /// The key that `/_/metrics` accepts in addition to the master key. `METRICS_KEY`, default
    /// none.
    pub metrics_key: Option<Secret>,
    /// Whether sign-up and login are throttled. `AUTH_THROTTLE`, default on.
    pub auth_throttle: bool,
    /// The proxies in front of the server, as addresses and networks. `TRUSTED_PROXIES`, default none.
    pub proxies: Proxies,
    /// For how many days refused attempts to authenticate are recorded. `AUTH_REFUSALS_DAYS`,
    /// default 90; 0 means not at all.
    pub refusals_days: u32,
}

/// Limits on the content of a request. A request above a limit is refused with an error that names
/// the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest JSON body, in bytes. `MAX_BODY_BYTES`, default 10 MiB.
    pub body_bytes: usize,
    /// How deep objects and arrays may be nested. `MAX_JSON_DEPTH`, default 64.
    pub json_depth: usize,
    /// The number of members of objects and items of arrays, at any depth. `MAX_JSON_VALUES`,
    /// default 200,000.
    pub json_values: usize,
    /// The number of items of a list, such as the records of a save or the ids of a fetch.
    /// `MAX_LIST_ITEMS`, default 5,000.
    pub list_items: usize,
    /// The number of records that a query returns. `MAX_PAGE_RECORDS`, default 10,000.
    pub page_records: usize,
    /// The approximate size in memory of the records in an answer. `MAX_PAGE_BYTES`, default 128
    /// MiB.
    pub page_bytes: usize,
    /// The number of comparisons and operators in a predicate. `MAX_PREDICATE_NODES`, default 500.
    pub predicate_nodes: usize,
    /// How deep operators may be nested. `MAX_PREDICATE_DEPTH`, default 32.
    pub predicate_depth: usize,
    /// The number of names in a query's `include`. `MAX_QUERY_INCLUDES`, default 20.
    pub query_includes: usize,
    /// The number of keys by which a query sorts. `MAX_QUERY_SORTS`, default 16.
    pub query_sorts: usize,
    /// The number of devices of a user; one more replaces the one that was registered longest ago.
    /// `MAX_USER_DEVICES`, default 100.
    pub user_devices: usize,
    /// The number of subscriptions of a device. `MAX_DEVICE_SUBSCRIPTIONS`, default 200.
    pub device_subscriptions: usize,
    /// The size of a subscription, as JSON. `MAX_SUBSCRIPTION_BYTES`, default 16 KiB.
    pub subscription_bytes: usize,
    /// The bytes that `include` adds to an answer, as JSON. `MAX_INCLUDED_BYTES`, default 64 MiB.
    pub included_bytes: usize,
    /// The total size of all answers that clients have not read yet. `HTTP_MAX_UNSENT_BYTES`,
    /// default 512 MiB.
    pub unsent_bytes: usize,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Http {
    let port = reader.number("PORT", 3000, 0..=u16::MAX);
    let host = reader.text("HOST", &format!(":{port}"));
    let cors_host = reader.text("CORS_HOST", "*");
    Http {
        listen: read_address(reader, &host),
        origins: read_origins(reader, &cors_host),
        cors_host,
        response_timeout: reader.seconds("RESPONSE_TIMEOUT", 60),
        limits: read_limits(reader),
        workers: reader.number("HTTP_WORKERS", cores(), 1..=512),
        max_connections: reader.number("HTTP_MAX_CONNECTIONS", 20_000, 1..=1_000_000),
        head_timeout: some_seconds(reader, "HTTP_HEAD_TIMEOUT", 10),
        body_timeout: some_seconds(reader, "HTTP_BODY_TIMEOUT", 60),
        send_timeout: some_seconds(reader, "HTTP_SEND_TIMEOUT", 60),
        keep_alive: some_seconds(reader, "HTTP_KEEP_ALIVE", 75),
        metrics_key: reader.header_secret("METRICS_KEY"),
        auth_throttle: reader.boolean("AUTH_THROTTLE", true),
        proxies: read_proxies(reader),
        refusals_days: reader.number("AUTH_REFUSALS_DAYS", 90, 0..=36_500),
    }
}

fn read_limits(reader: &mut Reader<'_>) -> Limits {
    let mut limit = |name, default, most| reader.number(name, default, 1..=most);
    Limits {
        body_bytes: limit("MAX_BODY_BYTES", 10 << 20, 1 << 30),
        // The parser itself stops at a depth of 128.
        json_depth: limit("MAX_JSON_DEPTH", 64, 120),
        json_values: limit("MAX_JSON_VALUES", 200_000, 100_000_000),
        list_items: limit("MAX_LIST_ITEMS", 5000, 1_000_000),
        page_records: limit("MAX_PAGE_RECORDS", 10_000, 10_000_000),
        page_bytes: limit("MAX_PAGE_BYTES", 128 << 20, 1 << 40),
        unsent_bytes: limit("HTTP_MAX_UNSENT_BYTES", 512 << 20, 1 << 40),
        // SQLite accepts expressions of 1000 levels, and each part of a chain of ORs is one level.
        predicate_nodes: limit("MAX_PREDICATE_NODES", 500, 900),
        predicate_depth: limit("MAX_PREDICATE_DEPTH", 32, 100),
        query_includes: limit("MAX_QUERY_INCLUDES", 20, 1000),
        // SQLite sorts by at most 2000 keys.
        query_sorts: limit("MAX_QUERY_SORTS", 16, 500),
        user_devices: limit("MAX_USER_DEVICES", 100, 1_000_000),
        device_subscriptions: limit("MAX_DEVICE_SUBSCRIPTIONS", 200, 1_000_000),
        subscription_bytes: limit("MAX_SUBSCRIPTION_BYTES", 16 << 10, 1 << 30),
        included_bytes: limit("MAX_INCLUDED_BYTES", 64 << 20, 1 << 40),
    }
}

fn read_proxies(reader: &mut Reader<'_>) -> Proxies {
    let text = reader.text("TRUSTED_PROXIES", "");
    text.parse().unwrap_or_else(|_| {
        let expected = "addresses and networks, such as 10.0.0.0/8,192.0.2.7";
        reader.refuse("TRUSTED_PROXIES", &text, expected);
        Proxies::default()
    })
}

fn read_origins(reader: &mut Reader<'_>, text: &str) -> Origins {
    text.parse().unwrap_or_else(|NoOrigin(wrong)| {
        let wrong = without_sign_in(&wrong);
        let expected = format!(
            "\"*\", or origins as browsers send them, such as \
             https://app.example,http://localhost:8080, file:// or null; {wrong:?} is not one"
        );
        reader.refuse("CORS_HOST", text, &expected);
        Origins::Any
    })
}

/// Reads a number of seconds that cannot be unlimited.
fn some_seconds(reader: &mut Reader<'_>, name: &str, default: u64) -> Duration {
    Duration::from_secs(reader.number(name, default, 1..=86_400))
}

fn read_address(reader: &mut Reader<'_>, host: &str) -> SocketAddr {
    let text = if host.starts_with(':') {
        format!("[::]{host}")
    } else {
        host.to_owned()
    };
    let found = text
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next());
    found.unwrap_or_else(|| {
        reader.refuse(
            "HOST",
            host,
            "an address as [host]:port, such as 127.0.0.1:3000 or :3000",
        );
        SocketAddr::from(([127, 0, 0, 1], 3000))
    })
}

/// Returns the address of a server that listens there, as a client on the same machine sees it.
pub fn local_client_address(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        format!("localhost:{}", listen.port())
    } else {
        listen.to_string()
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
