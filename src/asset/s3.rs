//! Files in an S3 bucket, each an object under its name.
//!
//! Uploads are sent there in parts as they arrive. Clients fetch private files from the bucket,
//! with a signed address; this server also passes on public ones.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::signer::{Method, Signer as _};
use object_store::{
    Attribute, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMultipartOptions,
    WriteMultipart,
};
use skytrail_actors::asset::AssetUrls;
use skytrail_actors::spawn::spawn_named;
use skytrail_schema::id::AssetName;
use tokio::time::timeout;

use super::address::{VALIDITY, escape_path};
use super::bucket::{Timeouts, bucket};
use super::is_shown;
use super::store::{ByteRange, Content, FileError, FileStore, Upload};
use crate::config::S3Settings;

/// How many parts of an upload are in flight at once, each of 5 MiB.
const PARTS_AT_ONCE: usize = 2;
/// How long the start waits for the bucket.
const LOOK: Duration = Duration::from_secs(10);

/// See the module's overview.
pub struct S3 {
    bucket: Arc<AmazonS3>,
}

impl S3 {
    /// Opens a bucket.
    ///
    /// # Errors
    /// The settings are invalid, or the service says that the bucket does not exist. A service that
    /// does not answer, or does not tell, only causes a warning.
    pub async fn open(settings: &S3Settings) -> Result<Self, FileError> {
        let bucket = bucket(settings, Timeouts::FOR_FILES);
        let store = Self {
            bucket: Arc::new(bucket.map_err(failed)?),
        };
        store.look().await?;
        Ok(store)
    }

    async fn look(&self) -> Result<(), FileError> {
        let mut objects = self.bucket.list(None);
        let error = match timeout(LOOK, objects.next()).await {
            Ok(None | Some(Ok(_))) => return Ok(()),
            Ok(Some(Err(error))) => error,
            Err(_) => {
                tracing::warn!("the bucket of files did not answer in time");
                return Ok(());
            }
        };
        let text = error.to_string();
        if matches!(error, object_store::Error::NotFound { .. }) || text.contains("NoSuchBucket") {
            return Err(FileError::Failed("there is no such bucket".to_owned()));
        }
        tracing::warn!(error = text, "the bucket of files could not be checked");
        Ok(())
    }
}

fn path(name: &str) -> Result<Path, FileError> {
    Path::parse(name).map_err(|error| FileError::Failed(error.to_string()))
}

fn failed(error: object_store::Error) -> FileError {
    FileError::Unavailable(error.to_string())
}

fn not_read(error: object_store::Error) -> FileError {
    match error {
        object_store::Error::NotFound { .. } => FileError::Missing,
        other => failed(other),
    }
}

#[async_trait]
impl FileStore for S3 {
    async fn begin(
        &self,
        name: &AssetName,
        content_type: &str,
    ) -> Result<Box<dyn Upload>, FileError> {
        let mut options = PutMultipartOptions::default();
        if !is_shown(content_type) {
            let attribute = Attribute::ContentDisposition;
            options.attributes.insert(attribute, "attachment".into());
        }
        let content_type = content_type.to_owned();
        options
            .attributes
            .insert(Attribute::ContentType, content_type.into());
        let path = path(name.as_str())?;
        let upload = self.bucket.put_multipart_opts(&path, options).await;
        let upload = WriteMultipart::new(upload.map_err(failed)?);
        Ok(Box::new(S3Upload(Some(upload))))
    }

    async fn remove(&self, name: &AssetName) -> Result<(), FileError> {
        let path = path(name.as_str())?;
        self.bucket.delete(&path).await.map_err(not_read)
    }

    async fn open(&self, name: &AssetName, range: Option<ByteRange>) -> Result<Content, FileError> {
        let path = path(name.as_str())?;
        let mut options = GetOptions::default();
        if let Some(range) = range {
            let about = self.bucket.head(&path).await.map_err(not_read)?;
            let part = range.within(about.size)?;
            options.range = Some(GetRange::Bounded(part));
            options.if_match = about.e_tag;
        }
        let got = self.bucket.get_opts(&path, options).await;
        let got = got.map_err(not_read)?;
        let (size, range) = (got.meta.size, got.range.clone());
        let bytes = got.into_stream().map(|chunk| chunk.map_err(failed));
        Ok(Content {
            size,
            range,
            bytes: Box::pin(bytes),
        })
    }
}

/// An upload; if it is dropped before it is finished, its parts are discarded.
struct S3Upload(Option<WriteMultipart>);

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FileError> {
        if let Some(upload) = &mut self.0 {
            upload
                .wait_for_capacity(PARTS_AT_ONCE)
                .await
                .map_err(failed)?;
            upload.put(bytes);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), FileError> {
        match self.0.take() {
            // It discards the parts if that fails.
            Some(upload) => upload.finish().await.map(drop).map_err(failed),
            None => Ok(()),
        }
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        if let Some(upload) = self.0.take() {
            spawn_named("abandon an upload", async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "parts of a broken upload stay in the bucket");
                }
            });
        }
    }
}

/// The addresses of files in a bucket.
pub struct S3Urls {
    bucket: Arc<AmazonS3>,
    /// The prefix of public addresses; private ones are signed.
    public: Option<PublicPrefix>,
}

/// The prefix of public addresses, and whether names are escaped after it.
struct PublicPrefix {
    prefix: String,
    is_own: bool,
}

impl S3Urls {
    /// Builds addresses from the bucket and its settings.
    pub fn new(store: &S3, settings: &S3Settings, is_public: bool) -> Self {
        let S3Settings { bucket, region, .. } = settings;
        let bucket_url = || match &settings.endpoint {
            Some(endpoint) => format!("{endpoint}/{bucket}"),
            None => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        };
        let prefix = || PublicPrefix {
            prefix: settings.url_prefix.clone().unwrap_or_else(bucket_url),
            is_own: settings.url_prefix.is_none(),
        };
        Self {
            bucket: Arc::clone(&store.bucket),
            public: is_public.then(prefix),
        }
    }
}

impl AssetUrls for S3Urls {
    fn url_of(&self, name: &str) -> Option<String> {
        match &self.public {
            Some(PublicPrefix {
                prefix,
                is_own: true,
            }) => Some(format!("{prefix}/{}", escape_path(name))),
            // As in v1: whatever is behind a configured prefix may need names unescaped.
            Some(PublicPrefix { prefix, .. }) => Some(format!("{prefix}/{name}")),
            None => {
                let path = path(name).ok()?;
                let signed = self.bucket.signed_url(Method::GET, &path, VALIDITY);
                // The keys are in the settings, so this never has to wait.
                Some(signed.now_or_never()?.ok()?.to_string())
            }
        }
    }
}
