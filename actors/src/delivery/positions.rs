//! The port to where plain positions in the log are kept, by name.

use async_trait::async_trait;

use crate::ops_store::OpsStoreError;

/// Keeps how far consumers are that need no more than a position.
#[async_trait]
pub trait Positions: Send + Sync + 'static {
    /// Loads a consumer's position; `None` for one that has none, or whose is not readable.
    ///
    /// # Errors
    /// Nothing is readable.
    async fn load_position(&self, consumer: &str) -> Result<Option<u64>, OpsStoreError>;

    /// Keeps a consumer's position; durable when it answers, also against power loss.
    ///
    /// # Errors
    /// It is not writable; what was kept before is kept still.
    async fn save_position(&self, consumer: &str, position: u64) -> Result<(), OpsStoreError>;
}
