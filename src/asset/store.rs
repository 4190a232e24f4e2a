//! The contract of every file store.

use std::ops::Range;

use actix_web::web::Bytes;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use skytrail_actors::log::disk::{is_full, is_out_of_descriptors};
use skytrail_schema::id::AssetName;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There are no bytes under this name.
    #[error("no such file")]
    Missing,
    /// The range begins past the end.
    #[error("the range begins after the end")]
    OutOfRange {
        /// The size of the whole file.
        size: u64,
    },
    /// There is no space for it, or none left for this user.
    #[error("the disk is full")]
    DiskFull,
    /// It is larger than the system lets a file become.
    #[error("the file is larger than the limit of the server's system (ulimit -f)")]
    TooLarge,
    /// There is no file descriptor left to open it with.
    #[error("no file descriptors are left (ulimit -n)")]
    OutOfDescriptors,
    /// The service or the device does not answer, refuses or fails.
    #[error("{0}")]
    Unavailable(String),
    /// The name or the request does not fit the store.
    #[error("{0}")]
    Failed(String),
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{
            AlreadyExists, FileTooLarge, InvalidFilename, InvalidInput, IsADirectory, NotADirectory,
        };
        if is_full(&error) {
            return Self::DiskFull;
        }
        if is_out_of_descriptors(&error) {
            return Self::OutOfDescriptors;
        }
        match error.kind() {
            FileTooLarge => Self::TooLarge,
            AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory => {
                Self::Failed(error.to_string())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// A part of a file of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// Bytes from a first to a last one, both counted from 0 and inclusive. A last one before the
    /// first counts as the first.
    Between(u64, u64),
    /// Bytes from the given one to the end.
    From(u64),
    /// This many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// Parses `bytes=a-b`, `bytes=a-` and `bytes=-n`. Any other form gives `None` and is ignored.
    pub fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        Some(match (first, last) {
            ("", last) => Self::Last(number(last)?),
            (first, "") => Self::From(number(first)?),
            (first, last) => Self::Between(number(first)?, number(last)?),
        })
    }

    /// Returns the part of a file of `size` bytes.
    ///
    /// # Errors
    /// The part begins past the end, or is empty.
    pub fn within(self, size: u64) -> Result<Range<u64>, FileError> {
        let part = match self {
            Self::Between(first, last) => first..last.max(first).saturating_add(1).min(size),
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        let is_there = part.start < part.end;
        is_there
            .then_some(part)
            .ok_or(FileError::OutOfRange { size })
    }
}

/// A file that is being read.
pub struct Content {
    /// The size of the whole file.
    pub size: u64,
    /// The part of it that is read.
    pub range: Range<u64>,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes, FileError>>,
}

/// A store of files: bytes by name.
#[async_trait]
pub trait FileStore: Send + Sync + 'static {
    /// Begins to store a file. Until the upload is finished readers see the old bytes, afterwards
    /// all of the new ones; of several uploads the last one to finish wins.
    ///
    /// # Errors
    /// The store failed.
    async fn begin(
        &self,
        name: &AssetName,
        content_type: &str,
    ) -> Result<Box<dyn Upload>, FileError>;

    /// Opens a file, or a part of it.
    ///
    /// # Errors
    /// There is no such file or part; the store failed.
    async fn open(&self, name: &AssetName, range: Option<ByteRange>) -> Result<Content, FileError>;

    /// Removes a file permanently. Once this has returned, the file does not reappear after a power
    /// loss.
    ///
    /// # Errors
    /// There is no such file; the store failed.
    async fn remove(&self, name: &AssetName) -> Result<(), FileError>;
}

/// An upload into a store. If it is dropped before it is finished, nothing of it remains.
#[async_trait]
pub trait Upload: Send {
    /// Writes the next bytes; waits while the store is slower than they arrive.
    ///
    /// # Errors
    /// The store failed.
    async fn write(&mut self, bytes: Bytes) -> Result<(), FileError>;

    /// Puts the file in its place. Once this has returned, the file survives a power loss.
    ///
    /// # Errors
    /// The store failed; the old file remains.
    async fn finish(self: Box<Self>) -> Result<(), FileError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_beginning_or_an_end() {
        use ByteRange::{Between, From, Last};
        let cases = [
            ("bytes=0-4", Some(Between(0, 4))),
            ("bytes=6-100", Some(Between(6, 100))),
            ("bytes=5-2", Some(Between(5, 2))),
            ("bytes=5-", Some(From(5))),
            ("bytes=-5", Some(Last(5))),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+0-4", None),
            ("bytes=a-b", None),
            ("lines=0-4", None),
            ("bytes=0-99999999999999999999", None),
        ];
        for (header, expected) in cases {
            assert_eq!(ByteRange::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn ranges_end_with_the_file() {
        use ByteRange::{Between, From, Last};
        let within = |range: ByteRange, size| range.within(size).ok();
        assert_eq!(within(Between(0, 4), 11), Some(0..5));
        assert_eq!(within(Between(6, 100), 11), Some(6..11));
        assert_eq!(within(Between(5, 2), 11), Some(5..6));
        assert_eq!(within(Between(0, u64::MAX), 11), Some(0..11));
        assert_eq!(within(Between(11, 12), 11), None);
        assert_eq!(within(Between(0, 0), 0), None);
        assert_eq!(within(From(6), 11), Some(6..11));
        assert_eq!(within(From(11), 11), None);
        assert_eq!(within(Last(5), 11), Some(6..11));
        assert_eq!(within(Last(12), 11), Some(0..11));
        assert_eq!(within(Last(0), 11), None);
        assert_eq!(within(Last(5), 0), None);
    }
}
