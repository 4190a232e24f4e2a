//! What a queue tells the outbox: several things at once, while it goes on sending.

use std::sync::Arc;

use uuid::Uuid;

use super::outbox::{Outbox, Waiting};
use crate::ops_store::OpsStoreError;

/// What the outbox has to be told.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Pushes that have to wait.
    pub(super) kept: Vec<Waiting>,
    /// Pushes that are finished.
    pub(super) forgotten: Vec<Uuid>,
}

impl Notes {
    /// Whether the outbox knows everything.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.forgotten.is_empty()
    }

    /// Puts back, in front, what was not written.
    pub(super) fn put_back(&mut self, mut earlier: Self) {
        earlier.kept.append(&mut self.kept);
        earlier.forgotten.append(&mut self.forgotten);
        *self = earlier;
    }
}

/// Writes notes; returns how many were kept and forgotten, or gives the notes back.
pub(super) async fn write(outbox: Arc<dyn Outbox>, notes: Notes) -> Result<(u64, u64), Notes> {
    let written = async {
        if !notes.kept.is_empty() {
            outbox.keep_pushes(&notes.kept).await?;
        }
        if !notes.forgotten.is_empty() {
            outbox.forget_pushes(&notes.forgotten).await?;
        }
        Ok::<_, OpsStoreError>((notes.kept.len() as u64, notes.forgotten.len() as u64))
    };
    let written = written.await;
    written.map_err(|error| {
        tracing::warn!(%error, "waiting pushes could not be saved, or sent ones not forgotten");
        notes
    })
}
