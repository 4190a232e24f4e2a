//! The port through which actions reach the devices.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceState;
use skytrail_schema::id::{Database, DeviceId, UserId};
use skytrail_schema::subscription::{Subscription, SubscriptionKey};
use skytrail_schema::time::Timestamp;

use super::messages::{DeleteSubscriptions, RegisterDevice, SaveSubscriptions, UnregisterDevice};

/// Registering devices, and what they subscribe to.
///
/// Only its user and the master key can use a device. To others, and if it has no user, it does not
/// seem to exist: nobody learns of a device that is not theirs.
#[async_trait]
pub trait DeviceService: Send + Sync + 'static {
    /// Registers a device and returns its id; other devices with its address are forgotten. If the
    /// device gets another user, its subscriptions end.
    ///
    /// # Errors
    /// 110 for an id that no device has.
    async fn register(&self, command: RegisterDevice) -> Result<DeviceId, ApiError>;

    /// Takes a device from its user; other devices with its address are forgotten.
    ///
    /// # Errors
    /// 110 for an id that none of the caller's devices has.
    async fn unregister(&self, command: UnregisterDevice) -> Result<(), ApiError>;

    /// Finds devices, in the order asked for.
    ///
    /// # Errors
    /// Overload.
    async fn find_devices(&self, ids: &[DeviceId]) -> Result<Vec<Option<DeviceState>>, ApiError>;

    /// Lists all devices of users.
    ///
    /// # Errors
    /// Overload.
    async fn list_devices_of(
        &self,
        users: &[UserId],
    ) -> Result<Vec<(DeviceId, DeviceState)>, ApiError>;

    /// Forgets the devices with an address that were last registered before `before`. Returns how
    /// many there were.
    ///
    /// # Errors
    /// Overload.
    async fn forget_address(&self, token: &str, before: Timestamp) -> Result<usize, ApiError>;

    /// Saves subscriptions; one result each, in request order.
    ///
    /// # Errors
    /// Overload.
    async fn save_subscriptions(
        &self,
        command: SaveSubscriptions,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError>;

    /// Ends subscriptions; one result each, in request order.
    ///
    /// # Errors
    /// Overload.
    async fn delete_subscriptions(
        &self,
        command: DeleteSubscriptions,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError>;

    /// Finds a subscription.
    fn find_subscription(
        &self,
        caller: &Caller,
        device: &DeviceId,
        key: &SubscriptionKey,
    ) -> Option<Arc<Subscription>>;

    /// Lists a device's subscriptions in one database, by name.
    fn list_subscriptions(
        &self,
        caller: &Caller,
        device: &DeviceId,
        database: &Database,
    ) -> Vec<Arc<Subscription>>;
}

/// Returns the error for a subscription that does not exist.
pub fn no_subscription(id: &str) -> ApiError {
    let message = format!("cannot find subscription {id:?}");
    ApiError::new(skytrail_schema::code::Code::ResourceNotFound, message).with_info("id", id.into())
}
