//! Watches whether the store's file is what was written, and handles damage.
//!
//! 1. A pass over all pages compares them with their checksums, a few at a time. It runs once a
//!    period, and immediately when a query has met something odd.
//! 2. Pages that seem wrong are compared again while nobody writes, since a merge may have been
//!    under way.
//! 3. If the file is damaged, a file next to the store says so, reads are refused from then on, and
//!    whoever waits for damage is told. The next start makes the store anew from the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::spawn::spawn_named;
use skytrail_actors::store::StoreError;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::{File, is_damage, sums};
use crate::projection::store::{SqlStore, StoreLocation};

/// This many pages are read at once; in between the disk is free for others.
const PAGES_AT_ONCE: u32 = 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of a file's condition.
pub(in crate::projection) struct Condition {
    /// Created when the file turns out to be damaged, so that the next start makes it anew.
    marker: PathBuf,
    is_damaged: watch::Sender<bool>,
    /// Notified when a query has met something that should not exist.
    suspicion: Notify,
}

/// Returns the file whose presence says that the store at `path` was found damaged.
pub fn damage_marker(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

/// Converts an error for the port.
fn failed(error: sqlx::Error) -> StoreError {
    let text = error.to_string();
    if is_damage(&error) {
        StoreError::Damaged(text)
    } else {
        StoreError::Failed(text)
    }
}

impl Condition {
    pub(in crate::projection) fn new(path: &Path) -> Self {
        Self {
            marker: damage_marker(path),
            is_damaged: watch::Sender::new(false),
            suspicion: Notify::new(),
        }
    }

    /// Fails when the file is known to be damaged, since its answers could be wrong.
    pub(in crate::projection) fn check(&self) -> Result<(), StoreError> {
        if *self.is_damaged.borrow() {
            return Err(StoreError::Damaged("it is about to be rebuilt".into()));
        }
        Ok(())
    }

    /// Converts an error for the port; if it is damage, records it for the next start.
    pub(in crate::projection) fn failed(&self, error: sqlx::Error) -> StoreError {
        let error = failed(error);
        self.note(&error);
        error
    }

    /// Records damage.
    pub(in crate::projection) fn note(&self, error: &StoreError) {
        let StoreError::Damaged(cause) = error else {
            return;
        };
        self.suspicion.notify_one();
        if self.marker.exists() {
            return;
        }
        tracing::error!(
            cause,
            "the record store is damaged; it is rebuilt from the log at the next start"
        );
        if let Err(error) = std::fs::write(&self.marker, cause) {
            tracing::error!(%error, path = %self.marker.display(), "the damage cannot be recorded");
        }
    }

    /// Waits until the file is known to be damaged.
    pub(in crate::projection) async fn damaged(&self) {
        let _ = self
            .is_damaged
            .subscribe()
            .wait_for(|is_damaged| *is_damaged)
            .await;
    }
}

impl SqlStore {
    /// Watches the store's file, if it has one, until the store closes. All of it is checked once a
    /// period; without a period, when a query has met something odd.
    pub fn keep_checking(self: &Arc<Self>, period: Option<Duration>) {
        const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let period = period.unwrap_or(FOR_EVER);
        let store = Arc::clone(self);
        spawn_named("store checker", async move {
            let passes = async {
                while let StoreLocation::File(file) = &store.home {
                    let _ = timeout(period, file.condition.suspicion.notified()).await;
                    match store.look_over(file).await {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            tracing::warn!(%error, "the record store's pages could not be checked");
                        }
                    }
                }
            };
            store.ending.run_until_cancelled(passes).await;
        });
    }

    /// Checks all pages; returns whether they are what was written.
    async fn look_over(&self, file: &File) -> Result<bool, sqlx::Error> {
        let mut first = 1;
        let (path, held) = (&file.path, &file.held);
        while let Some(seeming) = sums::look_over(path, held, first, PAGES_AT_ONCE).await? {
            if !seeming.is_empty() {
                let _nobody_merges = self.writer.lock().await;
                if let Some(damage) = sums::find_damage(path, held, Some(seeming)).await? {
                    file.condition
                        .note(&StoreError::Damaged(damage.to_string()));
                    file.condition.is_damaged.send_replace(true);
                    return Ok(false);
                }
            }
            first += PAGES_AT_ONCE;
            sleep(PAUSE).await;
        }
        Ok(true)
    }

    /// Waits until the store is known to be damaged, or to have lost data.
    pub async fn damaged(&self) {
        match &self.home {
            StoreLocation::File(file) => file.condition.damaged().await,
            StoreLocation::Server(server) => server.behind().await,
        }
    }
}
