//! Fences: who loses every race against writes that never pause has them wait.
//!
//! Erasures name all that is to go, so each write meanwhile spoils them. Those who hold something up
//! let pass what belongs to their own request: deletions that they have made, and what the hooks of
//! these write. Since a hook can also write in a request of its own, nobody waits for ever: a fence
//! gives a head start and does not guarantee anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::id::{RecordId, UserId};
use tokio::sync::watch;
use uuid::Uuid;

/// How long a write waits at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is held up. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    /// Decisions in the name of these users.
    pub users: Fence<UserId>,
    /// Saves and deletions of these records.
    pub records: Fence<RecordId>,
}

/// What is held up, each with the requests that do it. Cheap to clone.
#[derive(Debug)]
pub struct Fence<K>(Arc<watch::Sender<BTreeMap<K, Vec<Uuid>>>>);

/// Holds something up until it is dropped.
#[derive(Debug)]
pub struct HeldUp<K: Ord> {
    fence: Fence<K>,
    key: K,
    request: Uuid,
}

impl<K> Clone for Fence<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Fence<K> {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl<K: Ord + Clone> Fence<K> {
    /// Holds up what other requests have not decided yet.
    pub fn hold_up(&self, key: &K, request: Uuid) -> HeldUp<K> {
        self.0
            .send_modify(|held| held.entry(key.clone()).or_default().push(request));
        HeldUp {
            fence: self.clone(),
            key: key.clone(),
            request,
        }
    }

    /// Waits until no other request holds up any of these, or has done so for too long.
    pub async fn pass(&self, keys: &[K], request: Option<Uuid>) {
        let is_free = |held: &BTreeMap<K, Vec<Uuid>>| {
            let mut holders = keys.iter().filter_map(|key| held.get(key));
            holders.all(|holders| request.is_some_and(|own| holders.contains(&own)))
        };
        if self.0.borrow().is_empty() {
            return;
        }
        let mut held = self.0.subscribe();
        let _ = tokio::time::timeout(PATIENCE, held.wait_for(|held| is_free(held))).await;
    }
}

impl<K: Ord> Drop for HeldUp<K> {
    fn drop(&mut self) {
        self.fence.0.send_modify(|held| {
            let Some(holders) = held.get_mut(&self.key) else {
                return;
            };
            if let Some(own) = holders.iter().position(|it| *it == self.request) {
                holders.swap_remove(own);
            }
            if holders.is_empty() {
                held.remove(&self.key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_held_up_passes_afterwards_and_the_holder_at_once() {
        let (fence, [holder, second, other]) = (Fence::default(), [(); 3].map(|()| Uuid::now_v7()));
        let passes = |names: &[&'static str], request| {
            fence.pass(names, Some(request)).now_or_never().is_some()
        };
        let first = fence.hold_up(&"a", holder);
        assert!(passes(&["b"], other) && passes(&["a"], holder));
        assert!(!passes(&["b", "a"], other));
        assert!(fence.pass(&["a"], None).now_or_never().is_none());
        let held = fence.hold_up(&"a", second);
        assert!(passes(&["a"], holder) && passes(&["a"], second));
        let mut waiting = Box::pin(fence.pass(&["a"], Some(other)));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        waiting.await;
        assert!(passes(&["a"], other) && fence.0.borrow().is_empty());
        // Whoever never ends holds up nobody for ever.
        let _ever = fence.hold_up(&"a", holder);
        fence.pass(&["a"], Some(other)).await;
    }
}
