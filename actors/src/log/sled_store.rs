//! The sled store that follows the journal: one tree, one value per chunk of commits.
//!
//! Key: big-endian first position. Value: consecutive commits, compressed, or a large one as it is
//! (see `chunk`). sled's own flush does not protect against power loss, and a damaged page can hang
//! a reader. So nothing is acknowledged on its word, and reads have a deadline (see `indexer`).

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::chunk::{Chunk, Damaged, Packer, Unpacker};
use super::journal::RawCommit;

/// Why sled could not be used.
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
    #[error("sled: {0}")]
    Damaged(#[from] Damaged),
    #[error("sled: a key is not a position")]
    ForeignKey,
}

impl SledError {
    /// Returns whether sled only lacks disk space.
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => super::disk::is_full(error),
            _ => false,
        }
    }

    /// Returns whether sled is still busy with something that does not end.
    pub(super) fn is_hanging(&self) -> bool {
        matches!(self, Self::Hanging)
    }
}

pub(super) struct SledStore {
    db: sled::Db,
}

/// How long sled can take to open before it counts as hanging.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);

impl SledStore {
    /// Opens the store in a folder. Half-written snapshots are removed first, because this version
    /// of sled would take them for whole ones. A panic or a hang while opening is an error.
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

    /// Returns the commits of the last chunk; none when the store is empty.
    pub(super) fn last(&self) -> Result<Vec<RawCommit>, SledError> {
        let Some((key, value)) = self.db.last()? else {
            return Ok(Vec::new());
        };
        Ok(unpack(&mut Unpacker::new()?, &key, &value)?.commits())
    }

    /// Writes chunks, all or none; a chunk replaces the one that begins at the same position.
    pub(super) fn put<'a>(
        &self,
        packer: &mut Packer,
        chunks: impl Iterator<Item = &'a [RawCommit]>,
    ) -> Result<(), SledError> {
        let mut batch = sled::Batch::default();
        for chunk in chunks {
            if let Some((position, _)) = chunk.first() {
                batch.insert(&position.to_be_bytes(), packer.pack(chunk)?);
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    /// Reads commits from the one that holds `from` on, until there are `max_events` events.
    pub(super) fn read(&self, from: u64, max_events: u64) -> Result<Vec<RawCommit>, SledError> {
        let mut unpacker = Unpacker::new()?;
        let start = match self.db.get_lt((from + 1).to_be_bytes())? {
            Some((key, _)) => key,
            None => sled::IVec::from(&from.to_be_bytes()),
        };
        let mut found = Vec::new();
        let mut next = from;
        let mut num_left = max_events;
        for entry in self.db.range(start..) {
            let (key, value) = entry?;
            let chunk = unpack(&mut unpacker, &key, &value)?;
            found.extend(chunk.read(next, &mut num_left));
            if num_left == 0 {
                break;
            }
            next = chunk.last_position() + 1;
        }
        Ok(found)
    }

    /// Reads the commits that hold these ascending positions, each once. A chunk is unpacked once
    /// for neighbouring positions.
    pub(super) fn read_each(&self, positions: &[u64]) -> Result<Vec<RawCommit>, SledError> {
        let mut unpacker = Unpacker::new()?;
        let mut found = Vec::new();
        let mut at_hand: Option<Chunk> = None;
        let mut next = 0;
        for position in positions {
            if *position < next {
                continue;
            }
            let mut commit = at_hand.as_ref().and_then(|chunk| chunk.find(*position));
            if commit.is_none()
                && let Some((key, value)) = self.db.get_lt((position + 1).to_be_bytes())?
            {
                let chunk = unpack(&mut unpacker, &key, &value)?;
                commit = chunk.find(*position);
                at_hand = Some(chunk);
            }
            if let Some((commit, end)) = commit {
                found.push(commit);
                next = end + 1;
            }
        }
        Ok(found)
    }

    /// Blocks all writes to sled in this process while `during` runs.
    #[cfg(test)]
    pub(super) fn hold(&self, during: impl Fn()) {
        let held: sled::transaction::TransactionResult<()> = self.db.transaction(|_| {
            during();
            Ok(())
        });
        held.unwrap();
    }

    /// Flushes everything, as far as sled does that.
    pub(super) fn flush(&self) -> Result<(), SledError> {
        self.db.flush()?;
        Ok(())
    }
}

fn unpack(unpacker: &mut Unpacker, key: &[u8], value: &[u8]) -> Result<Chunk, SledError> {
    let position = key.try_into().map_err(|_| SledError::ForeignKey)?;
    Ok(unpacker.unpack(u64::from_be_bytes(position), value)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::chunk::cut;
    use crate::log::written::stored;

    /// Stores consecutive commits: the first `num_plain` of them the way large ones are stored.
    fn filled(folder: &Path, all: &[RawCommit], num_plain: usize) -> SledStore {
        let store = SledStore::open(folder, 1 << 20).unwrap();
        let (plain, packed) = all.split_at(num_plain.min(all.len()));
        for (position, commit) in plain {
            let key = position.to_be_bytes();
            store.db.insert(key, commit.as_slice()).unwrap();
        }
        store.put(&mut Packer::new().unwrap(), cut(packed)).unwrap();
        store
    }

    fn end_of((first, bytes): &RawCommit) -> u64 {
        let last = skytrail_schema::codec::peek(bytes).unwrap().last_position();
        assert!(*first <= last);
        last
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn reading_finds_what_a_walk_finds(
            sizes in prop::collection::vec(prop::collection::vec(0..2000_usize, 1..8), 1..60),
            num_plain in 0..40_usize,
            reads in prop::collection::vec((any::<prop::sample::Index>(), 1..50_u64), 1..40),
        ) {
            let all = stored(1, &sizes);
            let head = end_of(&all[all.len() - 1]);
            let folder = tempfile::tempdir().unwrap();
            let store = filled(folder.path(), &all, num_plain);
            let last = store.last().unwrap();
            prop_assert_eq!(last.as_slice(), &all[all.len() - last.len()..]);

            let mut positions = Vec::new();
            for (index, max_events) in reads {
                let from = index.index(head as usize) as u64 + 1;
                let mut num_left = max_events;
                let expected = all.iter().filter(|it| end_of(it) >= from).take_while(|it| {
                    let is_needed = num_left > 0;
                    num_left = num_left.saturating_sub(end_of(it) - it.0 + 1);
                    is_needed
                });
                let expected: Vec<_> = expected.cloned().collect();
                prop_assert_eq!(store.read(from, max_events).unwrap(), expected);
                positions.extend([from, (from + 1).min(head)]);
            }
            positions.sort_unstable();
            let holds = |it: &&RawCommit| positions.iter().any(|at| (it.0..=end_of(it)).contains(at));
            let expected: Vec<_> = all.iter().filter(holds).cloned().collect();
            prop_assert_eq!(store.read_each(&positions).unwrap(), expected);
        }
    }
}
