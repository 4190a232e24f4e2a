//! Configuration: one typed tree, from defaults, a file, the environment and flags.
//!
//! Settings have v1's names where v1 has them. Each is declared once, in [`Config::read`], with its
//! default. All mistakes are reported at once. The environment is a parameter, so tests need none.

mod assets;
mod audit;
mod backups;
mod database;
mod for_plugins;
mod http;
mod keys;
mod live;
mod logging;
mod plugins;
mod pubsub;
mod push;
mod secret;
mod source;
mod timers;
mod tokens;
mod unknown;
mod user_audit;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use skytrail_actors::accounts::policy::PasswordPolicy;
use skytrail_actors::log::LagBound;
use skytrail_schema::auth_keys::AuthKeys;
use skytrail_schema::id::TypeName;

pub use assets::{ASSET_FOLDER, AssetStore, Assets, S3Settings};
pub use audit::{Audit, AuditTarget};
pub use backups::{BackupPlace, Backups};
pub use database::Database;
pub use http::{Http, Limits, local_client_address};
pub use keys::{KEY_FILE, KeyOrigin, Keys};
pub use live::Live;
pub use logging::{Log, Logger};
pub use plugins::PluginTransport;
pub use pubsub::PubSub;
pub use push::{ApnsAuth, ApnsSettings, FcmSettings, Push, ServiceAccount, WebPushSettings};
pub use secret::Secret;
pub use source::{Mistake, Origin, Setting, Sources};
pub use timers::Timers;
pub use tokens::{TokenPlace, Tokens};

use source::Reader;

/// The record store's file in the data folder.
pub const STORE_FILE: &str = "records.sqlite";

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the data is stored. `DATA_DIR`, default `data`.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub http: Http,
    /// The app.
    pub app: App,
    /// Access tokens.
    pub tokens: Tokens,
    /// The secret of custom tokens, which enables login with them. `CUSTOM_TOKEN_SECRET`.
    pub custom_token_secret: Option<Secret>,
    /// The audit trail.
    pub audit: Audit,
    /// Files.
    pub assets: Assets,
    /// Backups.
    pub backups: Backups,
    /// The plugins, in configured order.
    pub plugins: Vec<Plugin>,
    /// Settings that apply to all plugins.
    pub plugin: PluginLimits,
    /// The database that plugins are given, which is not the server's. `PLUGIN_DATABASE_URL`.
    pub plugin_database: Option<Secret>,
    /// The address of an empty database that the server provides for plugins of v1 if they are
    /// given no other. `PLUGIN_NULL_DATABASE`, default `127.0.0.1:0`; `off` for none.
    pub null_database: Option<SocketAddr>,
    /// The push services.
    pub push: Push,
    /// Live queries.
    pub live: Live,
    /// Scheduled tasks.
    pub timers: Timers,
    /// Pub/sub.
    pub pubsub: PubSub,
    /// The log and the record store.
    pub storage: Storage,
    /// PostgreSQL, if it holds the record store; otherwise that is a file in `DATA_DIR`.
    pub database: Option<Database>,
    /// Logging.
    pub log: Log,
    /// Names in `.env` that are not settings.
    pub unknown: Vec<Mistake>,
}

/// The app.
#[derive(Clone, Debug)]
pub struct App {
    /// `APP_NAME`, default `myapp`.
    pub name: String,
    /// The client key. `API_KEY`; created and stored if absent.
    pub api_key: Option<Secret>,
    /// The master key. `MASTER_KEY`; created and stored if absent.
    pub master_key: Option<Secret>,
    /// Whether clients may extend record types. `DEV_MODE`, default on, as in v1.
    pub dev_mode: bool,
    /// The keys that identify a user. `AUTH_RECORD_KEYS`, default `username,email`.
    pub auth_record_keys: AuthKeys,
    /// Types whose records' history is visible to their owners. `HISTORY_FOR_OWNERS`, default none.
    pub history_for_owners: BTreeSet<TypeName>,
    /// Whether only verified users may use records. `VERIFY_REQUIRED`, default off.
    pub verify_required: bool,
    /// The rules for passwords. `USER_AUDIT_PW_…`, default none.
    pub password_policy: PasswordPolicy,
}

/// One plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Its name in `PLUGINS`.
    pub name: String,
    /// The transport to it.
    pub transport: PluginTransport,
    /// How long it may take to answer. `<NAME>_TIMEOUT` in seconds, default 30; over `zmq` default
    /// `ZMQ_TIMEOUT`.
    pub timeout: Duration,
}

/// Settings that apply to all plugins; the names are those of the WebSocket transport's
/// specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// The number of requests that can wait for one plugin. `PLUGIN_QUEUE`, default 1000.
    pub queue: usize,
    /// How long a request waits for a worker to reconnect. `PLUGIN_REJOIN_WAIT` in seconds, default
    /// 5.
    pub rejoin_wait: Duration,
    /// `PLUGIN_HEARTBEAT` in seconds, default 10.
    pub heartbeat: Duration,
    /// How long a worker may take to resume its session. `PLUGIN_RESUME` in seconds, default 15; 0
    /// means that sessions cannot be resumed.
    pub resume: Duration,
    /// `PLUGIN_DRAIN` in seconds, default 30.
    pub drain: Duration,
    /// The largest message. `PLUGIN_MAX_MESSAGE` in bytes, default 8 MiB.
    pub max_message: usize,
    /// The number of calls in flight per worker. `PLUGIN_MAX_CALLS`, default 64.
    pub max_calls: usize,
    /// How deep calls may be nested. `PLUGIN_MAX_DEPTH`, default 10.
    pub max_depth: u32,
    /// The number of attempts after which a delivery is given up. `PLUGIN_MAX_ATTEMPTS`, default
    /// 10.
    pub max_attempts: u32,
    /// Events older than this are no longer delivered. `PLUGIN_MAX_LAG` in hours, default 168.
    pub max_lag: Duration,
    /// Whether plugins that are not in `PLUGINS` may connect. `PLUGIN_ALLOW_UNLISTED`, default off.
    pub allow_unlisted: bool,
    /// How long a request over zmq may take. `ZMQ_TIMEOUT` in seconds, default 30.
    pub zmq_timeout: Duration,
    /// How deep requests over zmq may be nested. A call and the request that it causes count as
    /// two. `ZMQ_MAX_BOUNCE`, default 10.
    pub zmq_max_bounce: u32,
}

/// The log and the record store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// `COMPACT_AT`: the time of the daily compaction of the log, in microseconds after midnight
    /// (UTC); never by default.
    pub compact_at: Option<i64>,
    /// `JOURNAL_SEGMENT_BYTES`, default 64 MiB.
    pub segment_bytes: u64,
    /// The number of decisions that can wait for the journal; more are refused. `LOG_QUEUE`,
    /// default 4096.
    pub log_queue: usize,
    /// `SLED_CACHE_BYTES`, default 16 MiB.
    pub sled_cache_bytes: u64,
    /// Memory for records that were recently written or read. `HEAD_CACHE_BYTES`, default 32 MiB.
    pub head_cache_bytes: usize,
    /// How often the record store's pages are checked against their checksums while the server
    /// runs; `None` means never. `STORE_CHECK_PERIOD` in seconds, default 60.
    pub store_check_period: Option<Duration>,
    /// How much can wait for the record store before writes are refused. `STORE_LAG_EVENTS`,
    /// default 500,000, and `STORE_LAG_BYTES` of memory, default 512 MiB.
    pub store_lag: LagBound,
    /// Space that is reserved for when the disk runs full, at most an eighth of the disk; 0 means
    /// none. `DISK_RESERVE_BYTES`, default 64 MiB.
    pub disk_reserve_bytes: u64,
}

impl Config {
    /// Checks whether the data folder can be accessed. It need not exist yet.
    ///
    /// # Errors
    /// A sentence that names the folder: it is not a folder, or cannot be read.
    pub fn check_data_dir(&self) -> io::Result<()> {
        let why = match std::fs::metadata(self.data_dir.join(KEY_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                "is not a folder".to_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                format!("cannot be read: {error}")
            }
            // Any other problem is reported when the files in it are read.
            _ => return Ok(()),
        };
        let folder = self.data_dir.display();
        Err(io::Error::other(format!("{folder} {why}")))
    }

    /// Returns the same configuration with the address on which the server listens.
    #[must_use]
    pub fn listening_at(&self, address: SocketAddr) -> Self {
        let mut config = self.clone();
        config.http.listen = address;
        config
    }

    /// Returns the prefix of the addresses of files in the folder store; by default they are on
    /// this server, as a client on the same machine sees it.
    pub fn asset_url_prefix(&self) -> String {
        match &self.assets.store {
            AssetStore::Folder {
                url_prefix: Some(prefix),
                ..
            } => prefix.clone(),
            _ => assets::own_prefix(self.http.listen),
        }
    }

    /// Returns the file of the record store.
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join(STORE_FILE)
    }

    /// Reads the configuration. Also returns every setting with its effective value, for people.
    ///
    /// # Errors
    /// Every setting that is wrong, with its origin and what is accepted.
    pub fn read(sources: &Sources) -> Result<(Self, Vec<Setting>), Vec<Mistake>> {
        let mut reader = Reader::new(sources);
        let data_dir = reader.text("DATA_DIR", "data");
        let http = http::read(&mut reader);
        let plugin = read_plugin_limits(&mut reader);
        let config = Self {
            assets: assets::read(&mut reader, &data_dir, http.listen),
            backups: backups::read(&mut reader),
            http,
            app: read_app(&mut reader),
            tokens: tokens::read(&mut reader, &data_dir),
            custom_token_secret: reader.secret("CUSTOM_TOKEN_SECRET"),
            audit: audit::read(&mut reader),
            plugin_database: reader.secret("PLUGIN_DATABASE_URL"),
            null_database: plugins::read_null_database(&mut reader),
            plugins: plugins::read(&mut reader, plugin.zmq_timeout),
            plugin,
            push: push::read(&mut reader),
            live: live::read(&mut reader),
            timers: timers::read(&mut reader),
            pubsub: pubsub::read(&mut reader),
            storage: Storage {
                compact_at: read_time(&mut reader, "COMPACT_AT"),
                segment_bytes: reader.number("JOURNAL_SEGMENT_BYTES", 64 << 20, 1 << 20..=4 << 30),
                log_queue: reader.number("LOG_QUEUE", 4096, 1..=1_000_000),
                sled_cache_bytes: reader.number("SLED_CACHE_BYTES", 16 << 20, 1 << 20..=1 << 40),
                head_cache_bytes: reader.number("HEAD_CACHE_BYTES", 32 << 20, 0..=1 << 40),
                store_check_period: reader.seconds("STORE_CHECK_PERIOD", 60),
                store_lag: LagBound {
                    events: reader.number("STORE_LAG_EVENTS", 500_000, 1..=1 << 40),
                    bytes: reader.number("STORE_LAG_BYTES", 512 << 20, 1..=1 << 40),
                },
                disk_reserve_bytes: reader.number("DISK_RESERVE_BYTES", 64 << 20, 0..=1 << 40),
            },
            database: database::read(&mut reader),
            log: logging::read(&mut reader),
            data_dir: PathBuf::from(data_dir),
            unknown: Vec::new(),
        };
        let (settings, unknown) = reader.finish()?;
        Ok((Self { unknown, ..config }, settings))
    }
}

/// Reads a time of day (UTC), as microseconds after midnight; `None` if it is empty.
fn read_time(reader: &mut Reader<'_>, name: &str) -> Option<i64> {
    let text = reader.text(name, "");
    if text.is_empty() {
        return None;
    }
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
        let fits = (0..24).contains(&hour) && (0..60).contains(&minute);
        fits.then_some((hour * 60 + minute) * 60_000_000)
    });
    if parsed.is_none() {
        reader.refuse(name, &text, "a time such as 03:30");
    }
    parsed
}

fn read_app(reader: &mut Reader<'_>) -> App {
    let name = reader.text("APP_NAME", "myapp");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_word) {
        reader.refuse("APP_NAME", &name, "letters, digits and _");
    }
    let api_key = reader.header_secret("API_KEY");
    let master_key = reader.header_secret("MASTER_KEY");
    if let (Some(api), Some(master)) = (&api_key, &master_key)
        && api.matches(master.reveal())
    {
        reader.refuse("MASTER_KEY", "***", "a key that differs from API_KEY");
    }
    // The second spelling is v1's own.
    let spelled = reader.spelled("ACCESS_CONTROL", "ACCESS_CONRTOL");
    reader.choice(&spelled, "role", &["role"]);
    App {
        name,
        api_key,
        master_key,
        dev_mode: reader.boolean("DEV_MODE", true),
        auth_record_keys: read_auth_keys(reader),
        history_for_owners: reader
            .list("HISTORY_FOR_OWNERS")
            .into_iter()
            .map(TypeName::from)
            .collect(),
        verify_required: reader.boolean("VERIFY_REQUIRED", false),
        password_policy: user_audit::read_policy(reader),
    }
}

/// Reads alternatives such as `username,(email,phone)`.
fn read_auth_keys(reader: &mut Reader<'_>) -> AuthKeys {
    let default = AuthKeys::default();
    let text = reader.text("AUTH_RECORD_KEYS", &default.to_string());
    let expected = "keys and groups of keys, each once, such as username,(email,phone)";
    AuthKeys::parse(&text).unwrap_or_else(|| {
        reader.refuse("AUTH_RECORD_KEYS", &text, expected);
        default
    })
}

fn read_plugin_limits(reader: &mut Reader<'_>) -> PluginLimits {
    let seconds = |value: Option<Duration>| value.unwrap_or_default();
    PluginLimits {
        queue: reader.number("PLUGIN_QUEUE", 1000, 1..=1_000_000),
        rejoin_wait: seconds(reader.seconds("PLUGIN_REJOIN_WAIT", 5)),
        heartbeat: seconds(reader.seconds("PLUGIN_HEARTBEAT", 10)).max(Duration::from_secs(1)),
        resume: seconds(reader.seconds("PLUGIN_RESUME", 15)),
        drain: seconds(reader.seconds("PLUGIN_DRAIN", 30)),
        max_message: reader.number("PLUGIN_MAX_MESSAGE", 8 << 20, 1024..=1 << 30),
        max_calls: reader.number("PLUGIN_MAX_CALLS", 64, 1..=65_536),
        max_depth: reader.number("PLUGIN_MAX_DEPTH", 10, 1..=1000),
        max_attempts: reader.number("PLUGIN_MAX_ATTEMPTS", 10, 1..=1000),
        max_lag: Duration::from_secs(3600 * reader.number("PLUGIN_MAX_LAG", 168, 1..=876_000)),
        allow_unlisted: reader.boolean("PLUGIN_ALLOW_UNLISTED", false),
        zmq_timeout: Duration::from_secs(reader.number("ZMQ_TIMEOUT", 30, 1..=86_400)),
        zmq_max_bounce: reader.number("ZMQ_MAX_BOUNCE", 10, 0..=1000),
    }
}

#[cfg(test)]
mod tests;
