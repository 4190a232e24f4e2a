//! The sled store behind the journal: one tree, one value per commit.
//!
//! Key: big-endian first position. Value: the commit's bytes. sled's own flush
//! is no power-loss barrier and a damaged page can hang a reader, so nothing is
//! acknowledged on its word, and readers give it a deadline (see `follower`).

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::journal::RawCommit;

/// sled could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SledError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled folder: {0}")]
    Io(#[from] std::io::Error),
    #[error("sled did not open: {0}")]
    NotOpened(&'static str),
    #[error("sled does not open")]
    Hanging,
}

impl SledError {
    /// Whether sled only lacks space.
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => {
                error.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }

    /// Whether sled goes on with something that does not end.
    pub(super) fn is_hanging(&self) -> bool {
        matches!(self, Self::Hanging)
    }
}

pub(super) struct SledStore {
    db: sled::Db,
}

/// How long sled may take to open before it counts as damaged.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);

impl SledStore {
    /// Opens the store in a folder. Half-written snapshots, which this version of sled would take
    /// for whole ones, are removed before; a panic or a hang while opening is an error.
    pub(super) fn open(folder: &Path, cache_bytes: u64) -> Result<Self, SledError> {
        std::fs::create_dir_all(folder)?;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "generating")
            {
                std::fs::remove_file(path)?;
            }
        }
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(500))
            .mode(sled::Mode::LowSpace);
        let (sender, receiver) = std::sync::mpsc::channel();
        let opener = std::thread::Builder::new().name("sled-open".to_owned());
        opener.spawn(move || {
            let _ = sender.send(config.open());
        })?;
        match receiver.recv_timeout(OPEN_DEADLINE) {
            Ok(opened) => Ok(Self { db: opened? }),
            Err(RecvTimeoutError::Disconnected) => Err(SledError::NotOpened("it panicked")),
            Err(RecvTimeoutError::Timeout) => Err(SledError::Hanging),
        }
    }

    /// Returns the last commit, `None` when there is none.
    pub(super) fn last(&self) -> Result<Option<RawCommit>, SledError> {
        Ok(self
            .db
            .last()?
            .and_then(|(key, value)| to_raw(&key, &value)))
    }

    /// Adds commits, all or none.
    pub(super) fn put(&self, commits: &[RawCommit]) -> Result<(), SledError> {
        let mut batch = sled::Batch::default();
        for (position, bytes) in commits {
            batch.insert(&position.to_be_bytes(), bytes.as_slice());
        }
        Ok(self.db.apply_batch(batch)?)
    }

    /// Reads commits from the one that may hold `from` on, at most `max_commits`.
    pub(super) fn read(&self, from: u64, max_commits: usize) -> Result<Vec<RawCommit>, SledError> {
        let start = match self.db.get_lt((from + 1).to_be_bytes())? {
            Some((key, _)) => key,
            None => sled::IVec::from(&from.to_be_bytes()),
        };
        let mut found = Vec::new();
        for entry in self.db.range(start..).take(max_commits) {
            let (key, value) = entry?;
            found.extend(to_raw(&key, &value));
        }
        Ok(found)
    }

    /// Reads for each of these positions the last commit that begins there or before.
    pub(super) fn read_each(&self, positions: &[u64]) -> Result<Vec<RawCommit>, SledError> {
        let mut found = Vec::with_capacity(positions.len());
        for position in positions {
            let entry = self.db.get_lt((position + 1).to_be_bytes())?;
            found.extend(entry.and_then(|(key, value)| to_raw(&key, &value)));
        }
        Ok(found)
    }

    /// Writes everything out, as far as sled does that.
    pub(super) fn flush(&self) -> Result<(), SledError> {
        self.db.flush()?;
        Ok(())
    }
}

fn to_raw(key: &[u8], value: &[u8]) -> Option<RawCommit> {
    Some((u64::from_be_bytes(key.try_into().ok()?), value.to_vec()))
}
