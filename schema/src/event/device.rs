//! What happens to devices and to their subscriptions.

use serde::{Deserialize, Serialize};

use crate::id::UserId;
use crate::subscription::Subscription;
use crate::time::Timestamp;

/// The push service that reaches a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// Apple's.
    Ios,
    /// Google's.
    Android,
    /// Baidu's.
    BaiduAndroid,
    /// That of the user's browser.
    Web,
}

impl DeviceKind {
    /// Parses the name that clients use.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ios" => Self::Ios,
            "android" => Self::Android,
            "baidu-android" => Self::BaiduAndroid,
            "web" => Self::Web,
            _ => return None,
        })
    }

    /// Returns the name that clients use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ios => "ios",
            Self::Android => "android",
            Self::BaiduAndroid => "baidu-android",
            Self::Web => "web",
        }
    }
}

/// A device as it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The user of the device; nobody after it was unregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The push service that reaches it.
    pub kind: DeviceKind,
    /// Its address at that service; it grants no access here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The app on the device, for services that distinguish apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// When it was last registered.
    pub registered_at: Timestamp,
}

/// A subscription as it was saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSubscription {
    /// The user of the device at that time. Changes are checked with this user's rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<UserId>,
    /// The subscription.
    pub subscription: Subscription,
}
