//! What couriers work with.

use std::sync::Arc;
use std::time::Duration;

use super::attendance::Attendances;
use super::ledger::Ledger;
use crate::log::Recent;
use crate::record::env::RecordEnv;

/// How deliveries are tried and given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// After so many attempts a delivery is given up.
    pub max_attempts: u32,
    /// Events older than this are skipped.
    pub max_lag: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            max_lag: Duration::from_secs(168 * 3600),
        }
    }
}

/// What every courier works with.
#[derive(Clone)]
pub(super) struct CourierParts {
    /// The plugin.
    pub(super) plugin: Arc<str>,
    pub(super) env: RecordEnv,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) attendances: Arc<Attendances>,
    pub(super) recent: Arc<Recent>,
    pub(super) settings: DeliverySettings,
}
