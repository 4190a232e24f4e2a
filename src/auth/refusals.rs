//! Refused access: logins and password changes that were refused, and sessions of disabled users,
//! with counts.
//!
//! The log keeps everything for ever, and strangers cause refusals. So refusals are not in the log,
//! but in a table of `ops.sqlite`, and a stranger cannot make anything there grow without bound:
//!
//! 1. A row is an account, a way in, a reason and a minute, with a count. Names of accounts that do
//!    not exist are never stored: some are passwords that were typed into the wrong field. Neither
//!    are addresses; the audit trail has them.
//! 2. Rows are counted in memory and written every few seconds. If too many accounts are tried in
//!    between, the rest is counted without an account.
//! 3. Rows are deleted after `AUTH_REFUSALS_DAYS`, and the oldest ones also when there are too
//!    many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_actors::clock::Clock;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::ops_store::OpsStore;

/// How often the counts are written.
const FLUSH_PERIOD: Duration = Duration::from_secs(5);
/// How many rows can wait to be written; further refusals are counted without an account.
const MAX_WAITING: usize = 4096;
/// How many rows are kept.
const MAX_KEPT: u32 = 200_000;
/// Old rows are deleted once in this many writes.
const TRIM_EVERY: u32 = 64;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// Why access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The password is wrong, or the service that should vouch for the user does not.
    WrongCredentials,
    /// The account does not exist.
    UnknownAccount,
    /// The user is disabled.
    Disabled,
    /// There were too many attempts.
    Throttled,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 4] = [
        Self::WrongCredentials,
        Self::UnknownAccount,
        Self::Disabled,
        Self::Throttled,
    ];

    /// Returns the reason if an error is a refusal.
    fn of(error: &ApiError) -> Option<Self> {
        match error.code {
            _ if error.status() == 429 => Some(Self::Throttled),
            Code::InvalidCredentials => Some(Self::WrongCredentials),
            Code::ResourceNotFound => Some(Self::UnknownAccount),
            Code::UserDisabled => Some(Self::Disabled),
            _ => None,
        }
    }

    /// Returns the name under which it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongCredentials => "wrong_credentials",
            Self::UnknownAccount => "unknown_account",
            Self::Disabled => "disabled",
            Self::Throttled => "throttled",
        }
    }
}

/// Refusals that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The start of the minute.
    pub minute: Timestamp,
    /// The user whose account was tried, if it exists.
    pub user: Option<UserId>,
    /// The way in: `password`, `change_password`, `token`, or a service such as `custom_token`.
    pub way: String,
    /// The reason.
    pub reason: Reason,
}

/// Which refusals to list, the latest first.
#[derive(Clone, Debug, Default)]
pub struct RefusalFilter {
    /// Only of this account.
    pub user: Option<UserId>,
    /// From this minute on.
    pub since: Option<Timestamp>,
    /// Up to and including this minute.
    pub until: Option<Timestamp>,
    /// Only rows before this one.
    pub before: Option<i64>,
    /// How many rows.
    pub limit: u32,
}

/// A row, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The row's number.
    #[serde(skip)]
    pub number: i64,
    /// The minute.
    pub minute: Timestamp,
    /// The user whose account was tried, if it exists.
    pub user: Option<String>,
    /// The way in.
    pub way: String,
    /// The reason.
    pub reason: String,
    /// How many refusals.
    pub count: i64,
}

/// See the module's overview.
pub struct Refusals {
    clock: Arc<dyn Clock>,
    ops_store: Arc<OpsStore>,
    keep_days: u32,
    waiting: Mutex<BTreeMap<Kind, u32>>,
    /// All refusals since the start, even if none are stored.
    totals: Mutex<BTreeMap<Reason, u64>>,
}

impl Refusals {
    /// Builds the counter; if `keep_days` is 0, nothing is stored.
    pub fn new(clock: Arc<dyn Clock>, ops_store: Arc<OpsStore>, keep_days: u32) -> Self {
        Self {
            clock,
            ops_store,
            keep_days,
            waiting: Mutex::default(),
            totals: Mutex::default(),
        }
    }

    /// Returns how many refusals there were since the start, by reason.
    pub fn totals(&self) -> BTreeMap<Reason, u64> {
        self.totals.lock().clone()
    }

    /// Counts an error if it is a refusal. Never waits.
    pub fn note(&self, user: Option<&UserId>, way: &str, error: &ApiError) {
        let Some(reason) = Reason::of(error) else {
            return;
        };
        *self.totals.lock().entry(reason).or_default() += 1;
        if self.keep_days == 0 {
            return;
        }
        let now = self.clock.now().micros();
        let kind = Kind {
            minute: Timestamp::from_micros(now - now.rem_euclid(MINUTE)),
            user: user.cloned(),
            way: way.to_owned(),
            reason,
        };
        count(&mut self.waiting.lock(), kind);
    }

    /// Returns whether an error is a refusal that will be stored, so that its user must be known.
    pub fn is_refusal(&self, error: &ApiError) -> bool {
        self.keep_days > 0 && Reason::of(error).is_some()
    }

    /// Writes the counts every few seconds until the server stops, and then once more.
    pub async fn keep_writing(self: Arc<Self>, ending: CancellationToken) {
        let mut num_written = 0_u32;
        loop {
            let pause = tokio::time::sleep(FLUSH_PERIOD);
            let is_over = ending.run_until_cancelled(pause).await.is_none();
            self.write().await;
            if num_written.is_multiple_of(TRIM_EVERY) {
                self.trim().await;
            }
            num_written = num_written.wrapping_add(1);
            if is_over {
                return;
            }
        }
    }

    /// Lists refusals, including those not written yet.
    ///
    /// # Errors
    /// The ops store cannot be read.
    pub async fn list(&self, filter: &RefusalFilter) -> Result<Vec<Refused>, ApiError> {
        self.write().await;
        let listed = self.ops_store.list_refusals(filter).await;
        listed.map_err(|error| ApiError::unexpected(error.to_string()))
    }

    async fn write(&self) {
        let counted = std::mem::take(&mut *self.waiting.lock());
        if counted.is_empty() {
            return;
        }
        if let Err(error) = self.ops_store.add_refusals(&counted).await {
            tracing::warn!(%error, "refusals could not be written; they are written later");
            let mut waiting = self.waiting.lock();
            for (kind, number) in counted {
                *slot(&mut waiting, kind) += number;
            }
        }
    }

    async fn trim(&self) {
        let days = i64::from(self.keep_days);
        let oldest = self.clock.now().micros().saturating_sub(days * DAY);
        let oldest = Timestamp::from_micros(oldest);
        if let Err(error) = self.ops_store.trim_refusals(oldest, MAX_KEPT).await {
            tracing::warn!(%error, "old refusals could not be deleted");
        }
    }
}

fn count(waiting: &mut BTreeMap<Kind, u32>, kind: Kind) {
    let number = slot(waiting, kind);
    *number = number.saturating_add(1);
}

/// Returns the counter of a kind; if too many are waiting, the one without an account.
fn slot(waiting: &mut BTreeMap<Kind, u32>, mut kind: Kind) -> &mut u32 {
    if waiting.len() >= MAX_WAITING && !waiting.contains_key(&kind) {
        kind.user = None;
    }
    waiting.entry(kind).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(user: u32) -> Kind {
        Kind {
            minute: Timestamp::from_micros(0),
            user: Some(UserId::from(user.to_string())),
            way: "password".to_owned(),
            reason: Reason::Throttled,
        }
    }

    #[test]
    fn whoever_tries_many_accounts_fills_nothing() {
        let (mut waiting, more) = (BTreeMap::new(), 100_000);
        for user in 0..more {
            count(&mut waiting, kind(user));
        }
        assert_eq!(waiting.len(), MAX_WAITING + 1);
        assert_eq!(waiting.values().sum::<u32>(), more);
        count(&mut waiting, kind(0));
        assert_eq!(waiting[&kind(0)], 2);
    }
}
