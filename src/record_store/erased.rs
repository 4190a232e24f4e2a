//! What the log has erased, and a store may still have: it was not fed meanwhile, or was put back.
//!
//! A store lacks an erasure if it lacks its end. Up to then it may have had the request, but still all
//! that this names. The end comes after the store's files have been rewritten, so a store that has it
//! is whole.

use std::sync::Arc;

use skytrail_actors::erasure::{Holder as _, HolderError};
use skytrail_actors::log::ReadError;
use skytrail_actors::log::journal::Segments;
use skytrail_schema::event::{Commit, ErasureRequest, ErasureScope, EventBody};
use skytrail_schema::positions::Positions;

use super::start::{CATCH_UP_EVENTS, retry_while_unavailable};
use crate::app::StartError;
use crate::projection::index::StorePlace;
use crate::projection::{SqlStore, whole_until};

/// Whether a store that is about to be replaced may have what the log has erased since the store was
/// whole. One of which nobody can say how far it is may have anything.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn may_have_erased(
    place: StorePlace<'_>,
    segments: &Segments,
) -> Result<bool, ReadError> {
    let mut position = whole_until(place).await.unwrap_or(0);
    loop {
        let commits = segments.read(position + 1, CATCH_UP_EVENTS)?;
        let Some(last) = commits.last() else {
            return Ok(false);
        };
        position = last.last_position();
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        // An erasure without an end still removes copies.
        if events.any(|event| matches!(event.body, EventBody::ErasureFinished(_))) {
            return Ok(true);
        }
    }
}

/// What was erased while nobody fed a store.
pub(crate) struct ErasedMeanwhile<'a> {
    segments: &'a Segments,
    /// The store may have what erasures took that ended after this position. A new store has only
    /// what the log still has.
    since: u64,
    /// Whether the store keeps this position.
    is_kept: bool,
    positions: Positions,
    scopes: Vec<ErasureScope>,
}

impl<'a> ErasedMeanwhile<'a> {
    /// Begins with a store that was found at a position. If it was found without erasures before, and
    /// has not been rewritten since, these are among them.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(crate) async fn begin(
        store: &SqlStore,
        segments: &'a Segments,
        found_at: u64,
    ) -> Result<Self, StartError> {
        let kept = retry_while_unavailable(async || store.behind_since().await).await?;
        let since = kept.map_or(found_at, |kept| kept.min(found_at));
        let mut erased = Self {
            segments,
            since,
            is_kept: kept.is_some(),
            positions: Positions::default(),
            scopes: Vec::new(),
        };
        let mut position = since;
        while position < found_at {
            let commits = erased.read(position + 1, CATCH_UP_EVENTS)?;
            let Some(last) = commits.last() else { break };
            position = last.last_position();
            erased.add(&commits)?;
        }
        Ok(erased)
    }

    /// Returns the position after which an erasure that the store lacks has ended.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Records what these commits erase, before they are applied. The store keeps where it was: from
    /// their application on, its checkpoint does not show that it lacks an erasure.
    ///
    /// # Errors
    /// The store failed, or the log cannot be read.
    pub(crate) async fn note(
        &mut self,
        store: &SqlStore,
        commits: &[Arc<Commit>],
    ) -> Result<(), StartError> {
        let erases_something = self.add(commits)?;
        if erases_something && self.since > 0 && !self.is_kept {
            let since = self.since;
            retry_while_unavailable(async || store.note_behind(since).await).await?;
            self.is_kept = true;
        }
        Ok(())
    }

    /// Adds what these commits erase; returns whether it is anything.
    fn add(&mut self, commits: &[Arc<Commit>]) -> Result<bool, StartError> {
        let num_known = self.scopes.len();
        for event in commits.iter().flat_map(|commit| &commit.events) {
            match &event.body {
                EventBody::ErasureRequested(request) => self.add_request(request),
                // The store was found with the request.
                EventBody::ErasureFinished(end) if end.request <= self.since => {
                    let commits = self.read(end.request, 1)?;
                    let events = commits.iter().flat_map(|commit| &commit.events);
                    for event in events.filter(|event| event.position == end.request) {
                        if let EventBody::ErasureRequested(request) = &event.body {
                            self.add_request(request);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(self.scopes.len() > num_known)
    }

    fn add_request(&mut self, request: &ErasureRequest) {
        self.positions = self.positions.union(&request.positions);
        self.scopes.push(request.scope.clone());
    }

    fn read(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, StartError> {
        let read = self.segments.read(from, max_events);
        read.map_err(|error| StartError::Store(error.to_string()))
    }

    /// Hides it in the store, since it may have been applied.
    pub(crate) async fn hide_in(&self, store: &SqlStore) -> Result<(), HolderError> {
        if self.scopes.is_empty() {
            return Ok(());
        }
        store.hide_erased(&self.scopes, &self.positions).await
    }

    /// Removes it from the store for good, since it may have been applied before. `told` is called
    /// when this has to wait for others.
    pub(crate) async fn forget_in(
        &self,
        store: &SqlStore,
        mut told: impl FnMut(&str),
    ) -> Result<(), HolderError> {
        if self.scopes.is_empty() {
            return Ok(());
        }
        store.forget_beside(&self.scopes).await?;
        loop {
            match store.forget(&self.positions).await {
                Err(HolderError::StillSeen(reason)) => told(&reason),
                done => return done,
            }
        }
    }
}
