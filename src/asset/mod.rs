//! File stores: where the bytes of files are, behind one trait, and the addresses to fetch them.
//!
//! A store only knows bytes by name. The metadata of a file (media type, size) is in the log; the
//! HTTP door decides who may upload or download.

mod address;
mod bucket;
mod erase;
mod folder;
mod s3;
mod store;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::asset::AssetUrls;
use skytrail_actors::clock::Clock;

pub use address::{DownloadGate, FolderUrls, UrlSigner, escape_name, escape_path};
pub(crate) use bucket::{Timeouts, bucket};
pub use erase::Remover;
pub use folder::Folder;
pub(crate) use folder::{ERASED, UPLOADS, mark_of};
pub use s3::{S3, S3Urls};
pub use store::{ByteRange, Content, FileError, FileStore, Upload};
pub use turns::Turns;

use crate::config::{AssetStore, Config, S3Settings, Secret};

/// The store in use, with everything that the HTTP door needs to know about it.
pub struct Files {
    /// The bytes.
    pub store: Arc<dyn FileStore>,
    /// Where they are fetched from.
    pub urls: Arc<dyn AssetUrls>,
    /// Who may fetch them from this server.
    pub gate: DownloadGate,
    /// Limits for uploads.
    pub limits: UploadLimits,
    /// The locks under which uploads to one name end.
    pub turns: Turns,
}

/// Limits for an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// The largest file.
    pub max_bytes: u64,
    /// How long an upload may take.
    pub time: Duration,
}

/// The media type of PDF.
pub(crate) const PDF: &str = "application/pdf";

/// Returns whether browsers display a file when it is opened, instead of saving it: no file may run
/// as a page. They run HTML and XML, and may recognize these even in unusual media types.
pub(crate) fn is_shown(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let is_run = ["html", "xml", "xsl"]
        .iter()
        .any(|it| media_type.contains(it));
    let kinds = [
        "image/",
        "audio/",
        "video/",
        "text/",
        PDF,
        "application/json",
    ];
    !is_run && kinds.iter().any(|it| media_type.starts_with(it))
}

/// The error for a store that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct OpenError {
    /// Which store, or which part of it.
    pub what: String,
    /// The reason.
    #[source]
    pub source: FileError,
}

/// Opens the configured store for reading: nothing is changed, even if another process uses it.
///
/// # Errors
/// The bucket does not exist.
pub async fn open_to_read(config: &Config) -> Result<Arc<dyn FileStore>, OpenError> {
    Ok(match &config.assets.store {
        AssetStore::S3(settings) => Arc::new(open_bucket(settings).await?),
        AssetStore::Folder { path, .. } => Arc::new(Folder::of_others(path.clone())),
    })
}

async fn open_bucket(settings: &S3Settings) -> Result<S3, OpenError> {
    let opened = S3::open(settings).await;
    opened.map_err(|source| OpenError {
        what: format!("files cannot be kept in bucket {}", settings.bucket),
        source,
    })
}

impl Files {
    /// Opens the configured store. `secret` signs addresses of the folder store.
    ///
    /// # Errors
    /// The folder cannot be created or written; the bucket does not exist.
    pub async fn open(
        config: &Config,
        secret: &Secret,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let url_prefix = config.asset_url_prefix();
        let config = &config.assets;
        let limits = UploadLimits {
            max_bytes: config.max_bytes,
            time: config.upload_timeout,
        };
        match &config.store {
            AssetStore::S3(settings) => {
                let store = open_bucket(settings).await?;
                let urls = S3Urls::new(&store, settings, config.is_public);
                Ok(Self {
                    store: Arc::new(store),
                    urls: Arc::new(urls),
                    gate: if config.is_public {
                        DownloadGate::Open
                    } else {
                        DownloadGate::Closed
                    },
                    limits,
                    turns: Turns::default(),
                })
            }
            AssetStore::Folder { path, .. } => {
                let opened = Folder::open(path.clone()).await;
                let store = opened.map_err(|source| OpenError {
                    what: format!("files cannot be kept in {}", path.display()),
                    source,
                })?;
                let signer = (!config.is_public).then(|| UrlSigner::new(secret));
                let signer = signer.transpose().map_err(|source| OpenError {
                    what: "ASSET_STORE_SECRET".to_owned(),
                    source,
                })?;
                let gate = match &signer {
                    Some(signer) => DownloadGate::Signed(signer.clone()),
                    None => DownloadGate::Open,
                };
                Ok(Self {
                    store: Arc::new(store),
                    urls: Arc::new(FolderUrls::new(url_prefix, signer, clock)),
                    gate,
                    limits,
                    turns: Turns::default(),
                })
            }
        }
    }
}
