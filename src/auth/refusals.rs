//! Who was not let in, and how often: logins and changes of passwords that were refused, sessions of
//! users who are locked out.
//!
//! The log keeps for ever what it is told, and a refusal is told by a stranger. So refusals are not
//! in the log, but in a table of `ops.sqlite`, with nothing that a stranger can make grow:
//!
//! 1. A row is an account, a way in, a reason and a minute, with a count. Names of accounts that
//!    there are not are not kept at all: some are passwords that were typed into the wrong field.
//!    Neither are addresses; the audit trail has them.
//! 2. Rows are counted up in memory and written every few seconds. When too many accounts are tried
//!    meanwhile, the rest counts as nobody's.
//! 3. Rows go after `AUTH_REFUSALS_DAYS`, the oldest also when there are too many.

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

/// How often what was counted is written.
const FLUSH_PERIOD: Duration = Duration::from_secs(5);
/// How many rows wait to be written; what comes then counts as nobody's.
const MAX_WAITING: usize = 4096;
/// How many rows are kept.
const MAX_KEPT: u32 = 200_000;
/// Old rows are looked for every so many writes.
const TRIM_EVERY: u32 = 64;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The password is another, or whoever vouches does not.
    WrongCredentials,
    /// There is no such account.
    UnknownAccount,
    /// The user is locked out.
    Disabled,
    /// Too many tried.
    Throttled,
}

impl Reason {
    /// All that there are.
    pub const ALL: [Self; 4] = [
        Self::WrongCredentials,
        Self::UnknownAccount,
        Self::Disabled,
        Self::Throttled,
    ];

    /// Finds out whether an error refuses somebody, and why.
    fn of(error: &ApiError) -> Option<Self> {
        match error.code {
            _ if error.status() == 429 => Some(Self::Throttled),
            Code::InvalidCredentials => Some(Self::WrongCredentials),
            Code::ResourceNotFound => Some(Self::UnknownAccount),
            Code::UserDisabled => Some(Self::Disabled),
            _ => None,
        }
    }

    /// Returns the name under which it is kept.
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
    /// When: the beginning of a minute.
    pub minute: Timestamp,
    /// Whose account was tried, if it is anybody's.
    pub user: Option<UserId>,
    /// The way in: `password`, `change_password`, `token`, or a service such as `custom_token`.
    pub way: String,
    /// Why.
    pub reason: Reason,
}

/// Which refusals somebody wants to see, the latest first.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this account.
    pub user: Option<UserId>,
    /// Of this minute or later.
    pub since: Option<Timestamp>,
    /// Of this minute or earlier.
    pub until: Option<Timestamp>,
    /// Rows before this one.
    pub before: Option<i64>,
    /// How many.
    pub limit: u32,
}

/// A row, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The row's number.
    #[serde(skip)]
    pub number: i64,
    /// The minute.
    pub minute: Timestamp,
    /// Whose account was tried, if it is anybody's.
    pub user: Option<String>,
    /// The way in.
    pub way: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub count: i64,
}

/// See the module's overview.
pub struct Refusals {
    clock: Arc<dyn Clock>,
    ops_store: Arc<OpsStore>,
    keep_days: u32,
    waiting: Mutex<BTreeMap<Kind, u32>>,
    /// All since the start, also when none is kept.
    totals: Mutex<BTreeMap<Reason, u64>>,
}

impl Refusals {
    /// Builds the table's front; with no days to keep nothing is counted.
    pub fn new(clock: Arc<dyn Clock>, ops_store: Arc<OpsStore>, keep_days: u32) -> Self {
        Self {
            clock,
            ops_store,
            keep_days,
            waiting: Mutex::default(),
            totals: Mutex::default(),
        }
    }

    /// Returns how many were refused since the start, by reason.
    pub fn totals(&self) -> BTreeMap<Reason, u64> {
        self.totals.lock().clone()
    }

    /// Counts an error, if it refuses somebody. Never waits.
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

    /// Whether an error refuses somebody, so that it matters whom.
    pub fn is_refusal(&self, error: &ApiError) -> bool {
        self.keep_days > 0 && Reason::of(error).is_some()
    }

    /// Writes what was counted, every few seconds until the server stops, and then once more.
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

    /// Lists refusals, those of this moment among them.
    ///
    /// # Errors
    /// The ops store cannot be read.
    pub async fn list(&self, wanted: &Wanted) -> Result<Vec<Refused>, ApiError> {
        self.write().await;
        let listed = self.ops_store.list_refusals(wanted).await;
        listed.map_err(|error| ApiError::unexpected(error.to_string()))
    }

    async fn write(&self) {
        let counted = std::mem::take(&mut *self.waiting.lock());
        if counted.is_empty() {
            return;
        }
        if let Err(error) = self.ops_store.add_refusals(&counted).await {
            tracing::warn!(%error, "who was not let in is written later");
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
            tracing::warn!(%error, "old refusals are still there");
        }
    }
}

fn count(waiting: &mut BTreeMap<Kind, u32>, kind: Kind) {
    let number = slot(waiting, kind);
    *number = number.saturating_add(1);
}

/// Returns where a kind is counted: as nobody's when there are too many.
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
