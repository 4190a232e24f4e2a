//! Settings for files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::http::local_client_address;
use super::source::Reader;

/// The default folder for files within the data folder. A restored data folder always has them
/// there, wherever they were before.
pub const ASSET_FOLDER: &str = "asset";

/// Files.
#[derive(Clone, Debug)]
pub struct Assets {
    /// Where their bytes are stored. `ASSET_STORE`: `fs` (default) or `s3`.
    pub store: AssetStore,
    /// Whether everyone who knows an address may fetch the file. `ASSET_STORE_PUBLIC`, default no.
    pub is_public: bool,
    /// The secret that signs addresses. `ASSET_STORE_SECRET`; created and stored if absent.
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
        /// Whether the path is the default one; then the folder is part of the data folder.
        is_default: bool,
        /// The prefix of addresses. `ASSET_STORE_URL_PREFIX`, default `/files` on this server.
        url_prefix: Option<String>,
    },
    /// A bucket of S3, or of a service that speaks its protocol.
    S3(S3Settings),
}

/// The location of a bucket, and its credentials.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// `ASSET_STORE_BUCKET`.
    pub bucket: String,
    /// `ASSET_STORE_REGION`, default `us-east-1`.
    pub region: String,
    /// `ASSET_STORE_ACCESS_KEY`.
    pub access_key: String,
    /// `ASSET_STORE_SECRET_KEY`.
    pub secret_key: Secret,
    /// The prefix of public addresses. `ASSET_STORE_S3_URL_PREFIX`, default the bucket's own.
    pub url_prefix: Option<String>,
    /// A service other than Amazon's. `ASSET_STORE_S3_ENDPOINT`.
    pub endpoint: Option<String>,
}

/// Reads the settings for files.
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
        "fs" | "s3" => {}
        "cloud" => reader.refuse(
            "ASSET_STORE",
            "cloud",
            "fs or s3 (the hosted service no longer exists)",
        ),
        other => reader.refuse("ASSET_STORE", other, "fs or s3"),
    }
    let is_default = reader.optional("ASSET_STORE_PATH").is_none();
    let path = reader.text("ASSET_STORE_PATH", &format!("{data_dir}/{ASSET_FOLDER}"));
    reader.text("ASSET_STORE_URL_PREFIX", &own_prefix(listen));
    let s3 = read_s3(reader, kind == "s3");
    if kind == "s3" {
        return AssetStore::S3(s3);
    }
    AssetStore::Folder {
        path: path.into(),
        is_default,
        url_prefix: prefix(reader, "ASSET_STORE_URL_PREFIX"),
    }
}

fn read_s3(reader: &mut Reader<'_>, is_needed: bool) -> S3Settings {
    let bucket = reader.text("ASSET_STORE_BUCKET", "");
    let access_key = reader.text("ASSET_STORE_ACCESS_KEY", "");
    let secret_key = reader.secret("ASSET_STORE_SECRET_KEY");
    let needed = [
        ("ASSET_STORE_BUCKET", bucket.is_empty()),
        ("ASSET_STORE_ACCESS_KEY", access_key.is_empty()),
        ("ASSET_STORE_SECRET_KEY", secret_key.is_none()),
    ];
    for (name, _) in needed
        .iter()
        .filter(|(_, is_missing)| is_needed && *is_missing)
    {
        reader.refuse(name, "", "a value, because ASSET_STORE is s3");
    }
    let region = reader.text("ASSET_STORE_REGION", "us-east-1");
    for name in ["ASSET_STORE_S3_URL_PREFIX", "ASSET_STORE_S3_ENDPOINT"] {
        let url = reader.text(name, "");
        let is_url = url.starts_with("http://") || url.starts_with("https://");
        if !url.is_empty() && !is_url {
            reader.refuse(
                name,
                &url,
                "an address that begins with http:// or https://",
            );
        }
    }
    S3Settings {
        bucket,
        region,
        access_key,
        secret_key: secret_key.unwrap_or_else(|| Secret::new("")),
        url_prefix: prefix(reader, "ASSET_STORE_S3_URL_PREFIX"),
        endpoint: prefix(reader, "ASSET_STORE_S3_ENDPOINT"),
    }
}

/// Returns a configured address, without a trailing slash.
fn prefix(reader: &mut Reader<'_>, name: &str) -> Option<String> {
    let prefix = reader.optional(name)?;
    Some(prefix.trim_end_matches('/').to_owned())
}

/// Returns the address of this server's files for a client on the same machine, which is the best
/// guess.
pub(super) fn own_prefix(listen: SocketAddr) -> String {
    format!("http://{}/files", local_client_address(listen))
}
