//! Settings for backups.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::assets::S3Settings;
use super::source::Reader;

/// Backups.
#[derive(Clone, Debug)]
pub struct Backups {
    /// Where they are stored. `BACKUP_TARGET`; without it the server creates none by itself.
    pub place: Option<BackupPlace>,
    /// How often the server creates one. `BACKUP_PERIOD` in seconds, default a day; 0 means never.
    pub period: Option<Duration>,
    /// How many are kept. `BACKUP_KEEP`, default 0, which means all.
    pub keep: usize,
    /// The credentials and location of a bucket: `BACKUP_S3_REGION`, `BACKUP_S3_ACCESS_KEY`,
    /// `BACKUP_S3_SECRET_KEY`, `BACKUP_S3_ENDPOINT`. The bucket's name is in `place`.
    pub s3: S3Settings,
}

/// Where backups are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPlace {
    /// A folder.
    Folder(PathBuf),
    /// A part of a bucket: `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix of object names.
        prefix: String,
    },
}

/// Reads the settings for backups.
pub(super) fn read(reader: &mut Reader<'_>) -> Backups {
    let target = reader.text("BACKUP_TARGET", "");
    let place = BackupPlace::parse(&target);
    if place.is_none() && !target.is_empty() {
        reader.refuse("BACKUP_TARGET", &target, "a folder, or s3://bucket/prefix");
    }
    let period = reader.seconds("BACKUP_PERIOD", 24 * 3600);
    let keep = reader.number("BACKUP_KEEP", 0, 0..=1_000_000);
    let region = reader.text("BACKUP_S3_REGION", "us-east-1");
    let access_key = reader.text("BACKUP_S3_ACCESS_KEY", "");
    let secret_key = reader.secret("BACKUP_S3_SECRET_KEY");
    let endpoint = reader.text("BACKUP_S3_ENDPOINT", "");
    let is_url = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    if !endpoint.is_empty() && !is_url {
        let expected = "an address that begins with http:// or https://";
        reader.refuse("BACKUP_S3_ENDPOINT", &endpoint, expected);
    }
    Backups {
        place,
        period,
        keep,
        s3: S3Settings {
            bucket: String::new(),
            region,
            access_key,
            secret_key: secret_key.unwrap_or_else(|| Secret::new("")),
            url_prefix: None,
            endpoint: (!endpoint.is_empty()).then(|| endpoint.trim_end_matches('/').to_owned()),
        },
    }
}
