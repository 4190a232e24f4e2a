//! The port through which push reaches the devices.

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceState;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;

/// Finding devices, and forgetting those that their push service no longer knows.
#[async_trait]
pub trait DeviceDirectory: Send + Sync + 'static {
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
}
