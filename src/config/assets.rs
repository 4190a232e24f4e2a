//! Settings of files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::source::Reader;

/// Files.
#[derive(Clone, Debug)]
pub struct Assets {
    /// Where their bytes are. `ASSET_STORE`: `fs` (default).
    pub store: AssetStore,
    /// Whether everybody who knows an address may fetch the file. `ASSET_STORE_PUBLIC`, default no.
    pub is_public: bool,
    /// What signs addresses. `ASSET_STORE_SECRET`; made and kept when absent.
    pub secret: Option<Secret>,
    /// The largest file. `ASSET_MAX_BYTES`, default 1 GiB.
    pub max_bytes: u64,
    /// How long an upload may take. `ASSET_UPLOAD_TIMEOUT` in seconds, default an hour.
    pub upload_timeout: Duration,
}

/// A store of files.
#[derive(Clone, Debug)]
pub enum AssetStore {
    /// A folder.
    Folder {
        /// The folder. `ASSET_STORE_PATH`, default `asset` in the data folder.
        path: PathBuf,
        /// What addresses begin with. `ASSET_STORE_URL_PREFIX`, default `/files` on this server.
        url_prefix: Option<String>,
    },
}

/// Reads the settings of files.
pub(super) fn read(reader: &mut Reader<'_>, data_dir: &str, listen: SocketAddr) -> Assets {
    Assets {
        store: read_store(reader, data_dir, listen),
        is_public: reader.boolean("ASSET_STORE_PUBLIC", false),
        secret: reader.secret("ASSET_STORE_SECRET"),
        max_bytes: reader.number("ASSET_MAX_BYTES", 1 << 30, 1..=1 << 50),
        upload_timeout: {
            let seconds = reader.number("ASSET_UPLOAD_TIMEOUT", 3600, 1..=3_153_600_000);
            Duration::from_secs(seconds)
        },
    }
}

fn read_store(reader: &mut Reader<'_>, data_dir: &str, listen: SocketAddr) -> AssetStore {
    let kind = reader.text("ASSET_STORE", "fs");
    match kind.as_str() {
        "fs" => {}
        "cloud" => reader.refuse("ASSET_STORE", "cloud", "fs (the hosted service is gone)"),
        other => reader.refuse("ASSET_STORE", other, "fs"),
    }
    let path = reader.text("ASSET_STORE_PATH", &format!("{data_dir}/asset"));
    reader.text("ASSET_STORE_URL_PREFIX", &own_prefix(listen));
    let prefix = reader.optional("ASSET_STORE_URL_PREFIX");
    AssetStore::Folder {
        path: path.into(),
        url_prefix: prefix.map(|prefix| prefix.trim_end_matches('/').to_owned()),
    }
}

/// Returns where this server's files are for a client on the same machine, which is the best guess.
pub(super) fn own_prefix(listen: SocketAddr) -> String {
    let port = listen.port();
    if listen.ip().is_unspecified() {
        format!("http://localhost:{port}/files")
    } else {
        format!("http://{listen}/files")
    }
}
