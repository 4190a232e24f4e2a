//! Backups in an S3 bucket, or in a service with the same protocol.

use std::io::{self, Read};

use actix_web::web::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, WriteMultipart};
use skytrail_schema::time::Timestamp;
use tokio::runtime::{Builder, Runtime};

use super::repository::{Object, Objects};
use crate::asset;
use crate::config::S3Settings;

/// The part size; a larger object is uploaded in parts.
const PART_BYTES: usize = 8 << 20;
/// The number of parts in flight at once.
const PARTS_AT_ONCE: usize = 2;

/// See the module's overview.
pub(super) struct S3 {
    bucket: AmazonS3,
    prefix: String,
    /// A runtime of its own, so that callers need not be asynchronous.
    runtime: Runtime,
}

impl S3 {
    pub(super) fn open(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self, String> {
        if settings.access_key.is_empty() || settings.secret_key.reveal().is_empty() {
            return Err("BACKUP_S3_ACCESS_KEY and BACKUP_S3_SECRET_KEY are not set".to_owned());
        }
        let settings = S3Settings {
            bucket: bucket.to_owned(),
            ..settings.clone()
        };
        let bucket = asset::bucket(&settings, asset::Timeouts::FOR_BACKUPS);
        let bucket = bucket.map_err(|error| error.to_string())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("backup")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            bucket,
            prefix: prefix.to_owned(),
            runtime,
        })
    }

    fn path(&self, name: &str) -> io::Result<Path> {
        let whole = if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.prefix)
        };
        Path::parse(whole.trim_end_matches('/')).map_err(io::Error::other)
    }

    async fn put_in_parts(
        &self,
        path: &Path,
        first: Vec<u8>,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let begun = self.bucket.put_multipart(path).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(begun, PART_BYTES);
        let mut part = first;
        while !part.is_empty() {
            if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                let _ = upload.abort().await;
                return Err(failed(error));
            }
            upload.put(Bytes::from(part));
            part = match take(content) {
                Ok(part) => part,
                Err(error) => {
                    let _ = upload.abort().await;
                    return Err(error);
                }
            };
        }
        upload.finish().await.map(drop).map_err(failed)
    }
}

impl Objects for S3 {
    fn list(&self, prefix: &str) -> io::Result<Vec<Object>> {
        let path = self.path(prefix)?;
        let own = path.as_ref().len() - prefix.trim_end_matches('/').len();
        let listed = self.bucket.list(Some(&path)).try_collect::<Vec<_>>();
        let listed = self.runtime.block_on(listed).map_err(failed)?;
        let object = |about: object_store::ObjectMeta| {
            let name = about.location.as_ref().get(own..)?.to_owned();
            Some(Object {
                name,
                size: about.size,
                modified: Timestamp::from_micros(about.last_modified.timestamp_micros()),
            })
        };
        Ok(listed.into_iter().filter_map(object).collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        let path = self.path(name)?;
        let got = self.runtime.block_on(self.bucket.get(&path));
        Ok(Box::new(Download {
            runtime: &self.runtime,
            bytes: got.map_err(failed)?.into_stream(),
            chunk: Bytes::new(),
        }))
    }

    fn put(&self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let path = self.path(name)?;
        let first = take(content)?;
        if first.len() == PART_BYTES {
            return self
                .runtime
                .block_on(self.put_in_parts(&path, first, content));
        }
        let put = self.bucket.put(&path, Bytes::from(first).into());
        self.runtime.block_on(put).map(drop).map_err(failed)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        match self.runtime.block_on(self.bucket.delete(&path)) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => done.map_err(failed),
        }
    }
}

/// Reads a part; a shorter one is the last.
fn take(content: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    content.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(part)
}

fn failed(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        other => io::Error::other(other),
    }
}

struct Download<'a> {
    runtime: &'a Runtime,
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.bytes.next()) {
                Some(chunk) => self.chunk = chunk.map_err(failed)?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        part.copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}
