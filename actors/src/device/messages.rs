//! What the devices are asked.

use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::DeviceId;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use crate::context::RequestContext;

/// Registers a device for the caller, or what is known of one again.
#[derive(Clone, Debug)]
pub struct RegisterDevice {
    /// Who asks.
    pub context: RequestContext,
    /// The device, when it was registered before.
    pub id: Option<DeviceId>,
    /// Whose push service reaches it.
    pub kind: DeviceKind,
    /// Its address there; without one, that of the last time counts.
    pub token: Option<String>,
    /// The app on it; without one, that of the last time counts.
    pub topic: Option<String>,
}

/// Takes a device from its user, who asks, or the master key does.
#[derive(Clone, Debug)]
pub struct UnregisterDevice {
    /// Who asks.
    pub context: RequestContext,
    /// The device.
    pub id: DeviceId,
}

/// Saves subscriptions of a device.
#[derive(Clone, Debug)]
pub struct SaveSubscriptions {
    /// Who asks.
    pub context: RequestContext,
    /// The device.
    pub device: DeviceId,
    /// The subscriptions; one takes the place of an earlier one with its name.
    pub subscriptions: Vec<Subscription>,
}

/// Ends subscriptions of a device.
#[derive(Clone, Debug)]
pub struct DeleteSubscriptions {
    /// Who asks.
    pub context: RequestContext,
    /// The device.
    pub device: DeviceId,
    /// The subscriptions.
    pub keys: Vec<SubscriptionKey>,
}
