//! The log as writers and readers see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use skytrail_schema::codec::{self, Sealing};
use skytrail_schema::event::{Commit, EventFilter, NewCommit, Stream};
use skytrail_schema::id::UserId;
use tokio::sync::{mpsc, oneshot, watch};

use super::EmbeddedLog;
use crate::log::committer::{Order, Request};
use crate::log::disk::{is_full, is_out_of_descriptors};
use crate::log::indexer::holder;
use crate::log::{
    AppendError, ConflictKey, Decision, EventLog, ReadError, Searched, random_salt, read_piece,
};

/// At most this many positions are looked up at once, wherever they are.
const MAX_READ_AT_ONCE: usize = 256;

/// The most events in memory that one search looks at.
const MAX_SEARCHED: usize = 1 << 14;

impl EmbeddedLog {
    /// Returns the keys to seal a commit's events with; subjects without a key get one.
    async fn sealing(&self, commit: &NewCommit) -> Result<Sealing, AppendError> {
        let events = commit.events.iter();
        let subjects = events.filter_map(|event| codec::subject(event, &commit.actor));
        let subjects: BTreeSet<UserId> = subjects.collect();
        let keyring = match &self.keyring {
            Some(keyring) if !subjects.is_empty() => Arc::clone(keyring),
            _ => return Ok(Sealing::new()),
        };
        loop {
            if let Some(found) = keyring.find(&subjects).map_err(|error| no_key(&error))? {
                return Ok(found);
            }
            let (keyring, subjects) = (Arc::clone(&keyring), subjects.clone());
            let made = tokio::task::spawn_blocking(move || keyring.make(&subjects)).await;
            let made = made.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            made.map_err(|error| no_key(&error))?;
        }
    }

    /// Reads the commits that hold these ascending positions, each once.
    async fn read_holders(&self, positions: &[u64]) -> Result<Vec<Arc<Commit>>, ReadError> {
        if let Some(indexer) = &self.indexer
            && let Some(read) = indexer.read_each(positions).await
        {
            return Ok(read);
        }
        let (segments, positions) = (Arc::clone(&self.segments), positions.to_vec());
        let read = tokio::task::spawn_blocking(move || segments.read_each(&positions)).await;
        read.map_err(|error| ReadError::Io(error.to_string()))?
    }

    /// Loads commits from memory or from the files, maybe beyond the head.
    async fn load(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        if let Some(commits) = self.recent.read(from, max_events) {
            return Ok(commits);
        }
        if let Some(indexer) = &self.indexer
            && let Some(commits) = indexer.read(from, max_events).await
        {
            return Ok(self.shown(commits));
        }
        let segments = Arc::clone(&self.segments);
        let read = tokio::task::spawn_blocking(move || segments.read(from, max_events));
        let read = read.await;
        let read = read.map_err(|error| ReadError::Io(error.to_string()))?;
        read.map(|commits| self.shown(commits))
    }

    /// Searches in memory; `None` when the commit that holds `from` is not there.
    fn search_recent(
        &self,
        from: u64,
        until: u64,
        filter: &EventFilter,
    ) -> Option<Searched<Arc<Commit>>> {
        let head = self.head();
        let span = until.min(head).checked_sub(from)?.saturating_add(1);
        let max_events = usize::try_from(span).map_or(MAX_SEARCHED, |it| it.min(MAX_SEARCHED));
        let mut found = self.recent.read(from, max_events)?;
        found.retain(|commit| commit.last_position() <= head);
        let until = found.last()?.last_position();
        let is_match = |it: &Commit| it.events.iter().any(|event| filter.matches(it, event));
        found.retain(|commit| is_match(commit));
        Some(Searched { found, until })
    }

    fn shown(&self, commits: Vec<Arc<Commit>>) -> Vec<Arc<Commit>> {
        let shown = commits
            .into_iter()
            .map(|commit| self.erasures.shown(commit));
        shown.collect()
    }

    /// Delays or refuses a write for which there is no room.
    async fn admit(&self) -> Result<(), AppendError> {
        if self.is_disk_full() {
            return Err(AppendError::DiskFull);
        }
        if self.is_store_behind() {
            return Err(AppendError::StoreBehind);
        }
        if let Some(backlog) = &self.backlog {
            backlog.pace().await;
        }
        Ok(())
    }

    fn enqueue(
        &self,
        decision: Decision,
        keys: &Sealing,
    ) -> Result<oneshot::Receiver<Result<Arc<Commit>, AppendError>>, AppendError> {
        let encoded = codec::encode_events(Arc::new(decision.commit), keys, random_salt);
        let encoded = encoded.map_err(|error| {
            tracing::error!(%error, "a decision could not be encoded");
            AppendError::Malformed
        })?;
        let size_bytes = encoded.size_bytes();
        if size_bytes > self.max_commit_bytes {
            return Err(AppendError::TooLarge {
                size_bytes,
                max_bytes: self.max_commit_bytes,
            });
        }
        let sender = self.queue.lock().clone().ok_or(AppendError::Closed)?;
        let permit = sender.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => AppendError::Overloaded,
            mpsc::error::TrySendError::Closed(()) => AppendError::Closed,
        })?;
        let queued = self
            .counters
            .queued_bytes
            .fetch_add(size_bytes, Ordering::Relaxed);
        if queued + size_bytes > self.queue_bytes {
            self.counters
                .queued_bytes
                .fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(AppendError::Overloaded);
        }
        let (reply, receiver) = oneshot::channel();
        permit.send(Order::Append(Request {
            encoded,
            read_position: decision.read_position,
            reads: decision.reads,
            writes: decision.writes,
            sequences: decision.sequences,
            reply,
        }));
        Ok(receiver)
    }
}

/// Returns the error for events about a subject that cannot be sealed.
fn no_key(error: &std::io::Error) -> AppendError {
    if is_full(error) {
        return AppendError::DiskFull;
    }
    if is_out_of_descriptors(error) {
        return AppendError::OutOfDescriptors;
    }
    tracing::error!(%error, "the keys of subjects cannot be used");
    AppendError::Closed
}

/// Erasures are accepted even on a full disk: they free space, and the reserve is enough for them.
fn is_of_erasure(decision: &Decision) -> bool {
    let mut events = decision.commit.events.iter();
    events.all(|event| matches!(event.stream, Stream::Erasure(_)))
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn append(&self, mut decision: Decision) -> Result<Arc<Commit>, AppendError> {
        if !is_of_erasure(&decision) {
            self.admit().await?;
        }
        let keys = self.sealing(&decision.commit).await?;
        let subjects = keys.keys().map(ConflictKey::subject);
        decision.writes.extend(subjects);
        let receiver = self.enqueue(decision, &keys)?;
        receiver.await.unwrap_or(Err(AppendError::Closed))
    }

    fn head(&self) -> u64 {
        *self.head.borrow()
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    async fn read(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        let head = self.head();
        if from > head {
            return Ok(Vec::new());
        }
        let mut commits = self.load(from, max_events).await?;
        // The newest group is in the files, and then in memory, before the head says so.
        commits.retain(|commit| commit.last_position() <= head);
        Ok(commits)
    }

    async fn read_each(&self, positions: &[u64]) -> Result<Vec<Arc<Commit>>, ReadError> {
        let mut positions_left = positions.to_vec();
        positions_left.sort_unstable();
        let (num_older, recent) = self.recent.find_holders(&positions_left);
        positions_left.truncate(num_older);
        let mut commits: Vec<Arc<Commit>> = Vec::new();
        let mut positions_left = positions_left.as_slice();
        while !positions_left.is_empty() {
            let (some, rest) = positions_left.split_at(MAX_READ_AT_ONCE.min(positions_left.len()));
            commits.extend(self.read_holders(some).await?);
            let has = commits.last().map_or(0, |commit| commit.last_position());
            let is_new = rest.partition_point(|position| *position <= has);
            positions_left = rest.get(is_new..).unwrap_or_default();
        }
        let mut commits = self.shown(commits);
        commits.extend(recent);
        let found = |position: &u64| {
            let found = holder(&commits, *position).map(Arc::clone);
            found.ok_or_else(|| ReadError::Io(format!("the log ends before position {position}")))
        };
        positions.iter().map(found).collect()
    }

    async fn search(
        &self,
        from: u64,
        until: u64,
        filter: &EventFilter,
    ) -> Result<Searched<Arc<Commit>>, ReadError> {
        if let Some(searched) = self.search_recent(from, until, filter) {
            return Ok(searched);
        }
        let (segments, cloned_filter) = (Arc::clone(&self.segments), filter.clone());
        let searched = tokio::task::spawn_blocking(move || {
            let searched = segments.search(from, until, &cloned_filter)?;
            Ok(Searched {
                found: segments.decode_all(searched.found)?,
                until: searched.until,
            })
        });
        let searched: Result<_, ReadError> = match searched.await {
            Ok(searched) => searched,
            Err(error) => Err(ReadError::Io(error.to_string())),
        };
        match searched {
            Ok(searched) => Ok(Searched {
                found: self.shown(searched.found),
                ..searched
            }),
            // sled may still have what can no longer be read from the journal.
            Err(_) => read_piece(self, from, until).await,
        }
    }
}
