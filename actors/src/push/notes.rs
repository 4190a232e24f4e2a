//! What a queue tells the outbox: several things at once, while it goes on sending.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::outbox::{Outbox, Waiting};
use crate::ops_store::OpsStoreError;

/// What the outbox has to be told.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Pushes that have to wait.
    kept: BTreeMap<Uuid, Waiting>,
    /// How many of them the outbox has not had before.
    num_new: u64,
    /// Pushes that are finished.
    forgotten: Vec<Uuid>,
}

impl Notes {
    /// A push has to wait.
    pub(super) fn keep(&mut self, push: Waiting) {
        self.num_new += 1;
        self.change(push);
    }

    /// A push that is kept has another content.
    pub(super) fn change(&mut self, push: Waiting) {
        self.kept.insert(push.id, push);
    }

    /// A kept push is finished.
    pub(super) fn forget(&mut self, id: Uuid) {
        self.kept.remove(&id);
        self.forgotten.push(id);
    }

    /// Whether the outbox knows everything.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.forgotten.is_empty()
    }

    /// Puts back what was not written, as what was noted earlier.
    pub(super) fn put_back(&mut self, mut earlier: Self) {
        earlier.kept.append(&mut self.kept);
        earlier.kept.retain(|id, _| !self.forgotten.contains(id));
        earlier.num_new += self.num_new;
        earlier.forgotten.append(&mut self.forgotten);
        *self = earlier;
    }
}

/// Writes notes; returns how many were kept and forgotten, or gives the notes back.
pub(super) async fn write(outbox: Arc<dyn Outbox>, notes: Notes) -> Result<(u64, u64), Notes> {
    let written = async {
        if !notes.kept.is_empty() {
            let kept: Vec<Waiting> = notes.kept.values().cloned().collect();
            outbox.keep_pushes(&kept).await?;
        }
        if !notes.forgotten.is_empty() {
            outbox.forget_pushes(&notes.forgotten).await?;
        }
        Ok::<_, OpsStoreError>((notes.num_new, notes.forgotten.len() as u64))
    };
    let written = written.await;
    written.map_err(|error| {
        tracing::warn!(%error, "waiting pushes could not be saved, or sent ones not forgotten");
        notes
    })
}
