//! Erasure of files.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_actors::erasure::{FileRemover, HolderError};
use skytrail_schema::id::AssetName;

use super::{FileError, FileStore};

/// Removes files from a store.
pub struct Remover(
    /// The store.
    pub Arc<dyn FileStore>,
);

#[async_trait]
impl FileRemover for Remover {
    async fn remove(&self, names: &[AssetName]) -> Result<(), HolderError> {
        let mut removed = Ok(());
        for name in names {
            match self.0.remove(name).await {
                Ok(()) | Err(FileError::Missing) => {}
                // The others are removed all the same.
                Err(error) => removed = Err(HolderError::Failed(error.to_string())),
            }
        }
        removed
    }
}
