//! The port to the place where pushes are kept until they are sent.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::sender::Payload;
use crate::ops_store::OpsStoreError;

/// A push that waits. It does not contain the device's address: that is looked up again, so that
/// nothing is sent to an address that was given up meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Identifies the push, for its service, too.
    pub id: Uuid,
    /// The device.
    pub device: DeviceId,
    /// Who used the device when the push was requested. `None` if nobody did, or if that was not
    /// kept: then it is for whoever uses the device.
    pub user: Option<UserId>,
    /// The service that reaches it.
    pub kind: DeviceKind,
    /// The subscription that it is a notice of.
    pub subscription: Option<String>,
    /// What it gets.
    pub payload: Arc<Payload>,
    /// When it was requested.
    pub since: Timestamp,
}

/// Keeps pushes across a stop and a crash.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Keeps pushes, all or none; they are durable when it returns. A push replaces an earlier one
    /// with its id.
    ///
    /// # Errors
    /// It is not writable.
    async fn keep_pushes(&self, pushes: &[Waiting]) -> Result<(), OpsStoreError>;

    /// Forgets pushes that need not be sent any more.
    ///
    /// # Errors
    /// It is not writable.
    async fn forget_pushes(&self, ids: &[Uuid]) -> Result<(), OpsStoreError>;

    /// Loads what is kept, the oldest first. What cannot be read is left out and forgotten.
    ///
    /// # Errors
    /// Nothing is readable.
    async fn load_pushes(&self) -> Result<Vec<Waiting>, OpsStoreError>;
}
