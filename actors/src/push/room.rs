//! How many pushes a queue can have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The room of a queue. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    max: usize,
    num_taken: Arc<AtomicUsize>,
}

/// The place of one push, free again when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Room {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            num_taken: Arc::default(),
        }
    }

    /// Returns how many places there are.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Takes places: all of them, or `None` if there are not as many.
    pub(super) fn take(&self, count: usize) -> Option<Vec<Place>> {
        let more = |taken: usize| taken.checked_add(count).filter(|taken| *taken <= self.max);
        let order = Ordering::Relaxed;
        self.num_taken.fetch_update(order, order, more).ok()?;
        Some((0..count).map(|_| self.taken()).collect())
    }

    /// Takes a place even if none is left, for a push that was accepted before. Others find one
    /// when there are fewer than the maximum again.
    pub(super) fn squeeze_in(&self) -> Place {
        self.num_taken.fetch_add(1, Ordering::Relaxed);
        self.taken()
    }

    fn taken(&self) -> Place {
        Place(Arc::clone(&self.num_taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_together_and_given_back() {
        let room = Room::new(3);
        let two = room.take(2).unwrap();
        assert!(room.take(2).is_none());
        let third = room.take(1).unwrap();
        assert!(room.take(1).is_none());
        drop(two);
        assert_eq!(room.take(2).map(|places| places.len()), Some(2));
        drop(third);
        assert!(room.take(4).is_none());
        assert!(room.take(usize::MAX).is_none());
    }

    #[test]
    fn what_is_squeezed_in_keeps_others_out_until_it_is_gone() {
        let room = Room::new(1);
        let mut squeezed = vec![room.squeeze_in(), room.squeeze_in()];
        squeezed.pop();
        assert!(room.take(1).is_none());
        squeezed.pop();
        assert!(room.take(1).is_some());
    }
}
