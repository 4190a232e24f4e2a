//! The actions that a worker has asked for and that are not answered yet. Pure.

use std::collections::HashMap;
use std::sync::Arc;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Calls {
    by_id: HashMap<Arc<str>, CallState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallState {
    /// The worker waits.
    Awaited,
    /// The worker cancelled; it has received its reply, but the action is still running.
    Cancelled,
}

impl Calls {
    /// Records a call; returns false if its id is in use.
    pub(super) fn insert(&mut self, id: &Arc<str>) -> bool {
        if self.by_id.contains_key(id) {
            return false;
        }
        self.by_id.insert(Arc::clone(id), CallState::Awaited);
        true
    }

    /// Cancels a call; returns whether the worker must now be told.
    pub(super) fn cancel(&mut self, id: &str) -> bool {
        let state = self.by_id.get_mut(id);
        state.is_some_and(|state| {
            std::mem::replace(state, CallState::Cancelled) == CallState::Awaited
        })
    }

    /// Ends a call; returns whether the worker waits for the reply.
    pub(super) fn finish(&mut self, id: &str) -> bool {
        self.by_id.remove(id) == Some(CallState::Awaited)
    }

    /// Counts the running actions, including cancelled ones.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether no action is running.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
