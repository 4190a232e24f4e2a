//! Blanks and the erasures that account for them: an event without payload is valid only if a later
//! erasure names it.

use skytrail_schema::event::{Commit, EventBody};
use skytrail_schema::positions::Positions;

/// The blanks and the erasures of a log, collected from its beginning on.
#[derive(Debug, Default)]
pub(super) struct Blanks {
    found: Vec<u64>,
    named: Vec<Positions>,
}

impl Blanks {
    pub(super) fn look_at(&mut self, commit: &Commit) {
        for event in &commit.events {
            match &event.body {
                EventBody::Erased(_) => self.found.push(event.position),
                EventBody::ErasureRequested(request) => self.named.push(request.positions.clone()),
                _ => {}
            }
        }
    }

    /// Returns the blanks that no erasure accounts for.
    pub(super) fn unnamed(self) -> Positions {
        let named = self.named();
        let found = self.found.into_iter();
        found
            .filter(|position| !named.contains(*position))
            .collect()
    }

    /// Returns how many blanks there are, or the first one that no erasure accounts for.
    pub(super) fn account(self) -> Result<u64, u64> {
        let named = self.named();
        let mut found = self.found.iter();
        match found.find(|position| !named.contains(**position)) {
            Some(position) => Err(*position),
            None => Ok(self.found.len() as u64),
        }
    }

    fn named(&self) -> Positions {
        let named = self.named.iter();
        named.fold(Positions::default(), |all, more| all.union(more))
    }
}
