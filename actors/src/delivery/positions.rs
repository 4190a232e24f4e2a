//! The port to the store of plain positions in the log, by name.

use async_trait::async_trait;

use crate::ops_store::OpsStoreError;

/// Saves the positions of consumers that need nothing more than a position.
#[async_trait]
pub trait PositionStore: Send + Sync + 'static {
    /// Loads a consumer's position; `None` if it has none, or an unreadable one.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn load_position(&self, consumer: &str) -> Result<Option<u64>, OpsStoreError>;

    /// Saves a consumer's position, which is durable on return, even against power loss.
    ///
    /// # Errors
    /// The store cannot be written; the previous position is retained.
    async fn save_position(&self, consumer: &str, position: u64) -> Result<(), OpsStoreError>;
}
