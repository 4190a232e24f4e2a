//! The events of single streams.
//!
//! The store's index knows a stream by a hash of its name, which another stream may share: anyone
//! who can choose ids can choose two with the same hash. So the index lists candidates, and only
//! the event itself names its stream. The functions here read the candidates and return only a
//! stream's own events. Where one does not read them, it says what that leaves open.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::vec;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, Stream};

use crate::log::seek::{load_event, load_events};
use crate::record::env::RecordEnv;
use crate::record::past::BATCH_SIZE;

/// At most this many candidates are listed at once when going back.
const MAX_BACK: usize = 64;

/// Reads streams: finds events with the store's index, and reads them from the log.
#[derive(Clone, Copy)]
pub(crate) struct Streams<'a>(&'a RecordEnv);

impl RecordEnv {
    /// Returns a reader for the events of streams, as far as the store has applied the log.
    pub(crate) fn streams(&self) -> Streams<'_> {
        Streams(self)
    }
}

impl<'a> Streams<'a> {
    /// Reads a stream's events within a range, in order.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(crate) async fn read(
        self,
        stream: &Stream,
        range: RangeInclusive<u64>,
    ) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
        self.read_all(&[(stream.clone(), range)]).await
    }

    /// Like [`Streams::read`], for several streams together, each within its own range.
    ///
    /// # Errors
    /// Those of [`Streams::read`].
    pub(crate) async fn read_all(
        self,
        ranges: &[(Stream, RangeInclusive<u64>)],
    ) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
        let mut found = Vec::new();
        let see = |commit, event| found.push((commit, event));
        self.each(ranges, see).await?;
        Ok(found)
    }

    /// Like [`Streams::read_all`], but keeps nothing: calls `see` with one event after the other.
    ///
    /// # Errors
    /// Those of [`Streams::read`].
    pub(crate) async fn each(
        self,
        ranges: &[(Stream, RangeInclusive<u64>)],
        mut see: impl FnMut(Arc<Commit>, Event),
    ) -> Result<(), ApiError> {
        let mut by_stream: HashMap<&Stream, Vec<&RangeInclusive<u64>>> = HashMap::new();
        for (stream, range) in ranges {
            by_stream.entry(stream).or_default().push(range);
        }
        let candidates = self.0.store.list_candidates(ranges).await?;
        for some in candidates.chunks(BATCH_SIZE) {
            for (commit, event) in load_events(&*self.0.log, some).await? {
                let mut its = by_stream.get(&event.stream).into_iter().flatten();
                if its.any(|range| range.contains(&event.position)) {
                    see(commit, event);
                }
            }
        }
        Ok(())
    }

    /// Walks through a stream's events from a position back to its beginning.
    pub(crate) fn back(self, stream: &'a Stream, until: u64) -> BackwardWalk<'a> {
        BackwardWalk {
            env: self.0,
            stream,
            until,
            candidates: Vec::new().into_iter(),
            at_once: 1,
            is_listed: false,
        }
    }

    /// Returns whether a stream has an event within a range.
    ///
    /// # Errors
    /// Those of [`Streams::read`].
    pub(crate) async fn has(
        self,
        stream: &Stream,
        range: RangeInclusive<u64>,
    ) -> Result<bool, ApiError> {
        let candidates = self.candidates(stream, range).await?;
        // Nearly always the first candidate is right.
        for position in candidates.into_iter().rev() {
            if load_event(&*self.0.log, position).await?.1.stream == *stream {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether a stream may have an event within a range, without reading: `false` is
    /// certain.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn may_have(
        self,
        stream: &Stream,
        range: RangeInclusive<u64>,
    ) -> Result<bool, ApiError> {
        Ok(!self.candidates(stream, range).await?.is_empty())
    }

    /// Finds a position before which a stream has no event, without reading; the event there may be
    /// another stream's.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn begins_from(
        self,
        stream: &Stream,
        until: u64,
    ) -> Result<Option<u64>, ApiError> {
        Ok(self.candidates(stream, 1..=until).await?.first().copied())
    }

    /// Finds, without reading, where to begin looking for at most `limit` last events of a stream
    /// up to a position, and how many candidates there are from there on; `None` when the stream
    /// has none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn reach_back(
        self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Option<(u64, usize)>, ApiError> {
        let listed = self.0.store.list_candidates_before(stream, until, limit);
        let listed = listed.await?;
        Ok(listed.last().map(|oldest| (*oldest, listed.len())))
    }

    /// Finds for each stream the last event up to its position that does not build on earlier ones.
    ///
    /// # Errors
    /// Those of [`Streams::read`].
    pub(crate) async fn full_states(
        self,
        at: &[(Stream, u64)],
    ) -> Result<Vec<Option<Event>>, ApiError> {
        let candidates = self.0.store.find_full_states(at).await?;
        let positions = candidates.iter().flatten().copied().collect();
        let events = self.events_at(positions).await?;
        let mut found = Vec::new();
        for ((stream, _), candidate) in at.iter().zip(candidates) {
            let mut event = candidate.and_then(|position| events.get(&position).cloned());
            while let Some(other) = event.as_ref().filter(|event| event.stream != *stream) {
                let at = [(stream.clone(), other.position - 1)];
                let before = self.0.store.find_full_states(&at).await?.pop();
                event = match before.flatten() {
                    Some(position) => Some(load_event(&*self.0.log, position).await?.1),
                    None => None,
                };
            }
            found.push(event);
        }
        Ok(found)
    }

    /// Lists for each stream where records were created under its id, in order, up to a position by
    /// which one was. A single candidate must be right, so its event is not read.
    ///
    /// # Errors
    /// Those of [`Streams::read`].
    pub(crate) async fn creations(
        self,
        streams: &[Stream],
        until: u64,
    ) -> Result<Vec<Vec<(u64, Option<Event>)>>, ApiError> {
        let listed = self.0.store.list_creations(streams, until).await?;
        let unsure = listed.iter().filter(|positions| positions.len() > 1);
        let read = self.events_at(unsure.flatten().copied().collect()).await?;
        let found = streams.iter().zip(listed).map(|(stream, positions)| {
            let its = positions.into_iter().filter_map(|position| {
                let event = read.get(&position).cloned();
                let is_its = event.as_ref().is_none_or(|event| event.stream == *stream);
                is_its.then_some((position, event))
            });
            its.collect()
        });
        Ok(found.collect())
    }

    async fn candidates(
        self,
        stream: &Stream,
        range: RangeInclusive<u64>,
    ) -> Result<Vec<u64>, ApiError> {
        let ranges = [(stream.clone(), range)];
        Ok(self.0.store.list_candidates(&ranges).await?)
    }

    async fn events_at(self, mut positions: Vec<u64>) -> Result<HashMap<u64, Event>, ApiError> {
        positions.sort_unstable();
        positions.dedup();
        let mut events = HashMap::new();
        for some in positions.chunks(BATCH_SIZE) {
            let read = load_events(&*self.0.log, some).await?.into_iter();
            events.extend(read.map(|(_, event)| (event.position, event)));
        }
        Ok(events)
    }
}

/// A walk back through a stream.
pub(crate) struct BackwardWalk<'a> {
    env: &'a RecordEnv,
    stream: &'a Stream,
    until: u64,
    candidates: vec::IntoIter<u64>,
    /// How many candidates to list next. Nearly always the first one is enough, so a walk begins
    /// with few.
    at_once: usize,
    /// Whether all candidates have been listed.
    is_listed: bool,
}

impl BackwardWalk<'_> {
    /// Reads the next event on the way back; `None` after the first event of the stream.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<(Arc<Commit>, Event)>, ApiError> {
        loop {
            for position in self.candidates.by_ref() {
                self.until = position - 1;
                let (commit, event) = load_event(&*self.env.log, position).await?;
                if event.stream == *self.stream {
                    return Ok(Some((commit, event)));
                }
            }
            if self.is_listed {
                return Ok(None);
            }
            let store = &self.env.store;
            let listed = store.list_candidates_before(self.stream, self.until, self.at_once);
            let listed = listed.await?;
            self.is_listed = listed.len() < self.at_once;
            self.at_once = (self.at_once * 2).min(MAX_BACK);
            self.candidates = listed.into_iter();
        }
    }
}
