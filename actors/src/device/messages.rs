//! What can be asked of the devices.

use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::DeviceId;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use crate::context::RequestContext;

/// Registers a device for the caller, or registers a known one again.
#[derive(Clone, Debug)]
pub struct RegisterDevice {
    /// Who asks.
    pub context: RequestContext,
    /// The device, if it was registered before.
    pub id: Option<DeviceId>,
    /// The push service that reaches it.
    pub kind: DeviceKind,
    /// Its address there; if missing, the one registered last is kept.
    pub token: Option<String>,
    /// The app on it; if missing, the one registered last is kept.
    pub topic: Option<String>,
}

/// Takes a device from its user; the user or the master key can ask for it.
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
    /// The subscriptions; each one replaces an earlier one of the same name.
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
