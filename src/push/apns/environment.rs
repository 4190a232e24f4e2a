//! Whether devices are of the environment that is asked, Apple's `sandbox` or `production`.
//!
//! Apple does not know the tokens of the other environment. So with the wrong setting all devices
//! look like ones that never existed. They are not deleted before Apple has known one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// After this many unknown devices, and no known one, the setting is doubted.
const MANY: u64 = 3;

/// What Apple has answered since the start.
#[derive(Debug, Default)]
pub(super) struct Environment {
    has_known: AtomicBool,
    num_unknown: AtomicU64,
}

impl Environment {
    /// Notes an answer: a token that is no longer in use was of this environment, too.
    pub(super) fn note(&self, status: u16, reason: &str) {
        match (status, reason) {
            (200 | 410, _) => self.has_known.store(true, Ordering::Relaxed),
            (400, "BadDeviceToken") => self.note_unknown(),
            _ => {}
        }
    }

    fn note_unknown(&self) {
        let num_unknown = self.num_unknown.fetch_add(1, Ordering::Relaxed) + 1;
        if num_unknown == MANY && !self.has_known() {
            tracing::error!(
                "APNs knows none of the devices: is APNS_ENV right? Devices are kept until it has \
                 known one"
            );
        }
    }

    /// Whether Apple has known a device.
    pub(super) fn has_known(&self) -> bool {
        self.has_known.load(Ordering::Relaxed)
    }

    /// Whether the setting is probably wrong.
    pub(super) fn is_doubted(&self) -> bool {
        let num_unknown = self.num_unknown.load(Ordering::Relaxed);
        num_unknown >= MANY && !self.has_known()
    }
}
