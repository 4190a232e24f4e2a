//! Settings for access tokens.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::source::Reader;

/// Access tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Where they are stored. `TOKEN_STORE`: `jwt` (default), `fs` or `redis`.
    pub place: TokenPlace,
    /// `TOKEN_STORE_SECRET`; the master key if absent.
    pub secret: Option<Secret>,
    /// How long a token is valid; `None` means for ever. `TOKEN_STORE_EXPIRY` in seconds, default
    /// 0: for ever.
    pub expiry: Option<Duration>,
}

/// Where tokens are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// Nowhere, because they are signed.
    Signed,
    /// As files in a folder. `TOKEN_STORE_PATH`, default `token` in the data folder.
    Folder(PathBuf),
    /// In Redis.
    Redis {
        /// Its address, which can contain a password. `TOKEN_STORE_PATH`.
        url: Secret,
        /// The prefix of keys. `TOKEN_STORE_PREFIX`.
        prefix: String,
    },
}

pub(super) fn read(reader: &mut Reader<'_>, data_dir: &str) -> Tokens {
    let store = reader.choice("TOKEN_STORE", "jwt", &["jwt", "fs", "redis"]);
    let path = reader.text("TOKEN_STORE_PATH", &format!("{data_dir}/token"));
    let prefix = reader.text("TOKEN_STORE_PREFIX", "");
    let place = match store.as_str() {
        "redis" => {
            if let Some(expected) = refuse_redis(&path) {
                reader.refuse("TOKEN_STORE_PATH", "***", expected);
            }
            let url = Secret::new(path);
            TokenPlace::Redis { url, prefix }
        }
        "fs" => TokenPlace::Folder(PathBuf::from(path)),
        _ => TokenPlace::Signed,
    };
    Tokens {
        place,
        secret: reader.secret("TOKEN_STORE_SECRET"),
        expiry: reader.seconds("TOKEN_STORE_EXPIRY", 0),
    }
}

/// Returns what the address of a Redis server should be, if this is not one.
fn refuse_redis(url: &str) -> Option<&'static str> {
    if url.starts_with("rediss://") {
        return Some("an address without TLS (this version speaks to a redis on its own network)");
    }
    let is_address = url.starts_with("redis://") && redis::Client::open(url).is_ok();
    (!is_address).then_some("the address of a redis, such as redis://127.0.0.1:6379/0")
}
