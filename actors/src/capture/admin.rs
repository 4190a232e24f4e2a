//! Looking after what others change by SQL: what waits, what is parked, and what is to become of it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;

use super::{CaptureSource, CaptureState};
use crate::record::env::RecordEnv;

/// How many rows are tried again or forgotten at once.
const AT_ONCE: usize = 1000;

/// Which parked rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those behind this number.
    After(u64),
    /// Those with these numbers.
    These(Vec<u64>),
}

/// A row that could not be taken into the log.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedRow {
    /// Its number.
    pub id: u64,
    /// The record, if its table is a record type's.
    pub record: Option<RecordId>,
    /// The table.
    pub table: String,
    /// Its `_id` there.
    pub key: String,
    /// The row before the transaction; none when that made it.
    pub before: Option<Json>,
    /// The row after it; none when that deleted it.
    pub after: Option<Json>,
    /// The columns that are not taken in; all of them when none is named.
    pub columns: Vec<String>,
    /// Why.
    pub reason: String,
    /// The login role that changed it.
    pub role: String,
    /// The number of its transaction.
    pub transaction: u64,
    /// When its statement began.
    pub at: Timestamp,
    /// When it was parked.
    pub parked_at: Timestamp,
}

/// What trying again came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retried {
    /// How many were tried.
    pub num_rows: usize,
    /// Those that are parked again.
    pub parked: Vec<ParkedRow>,
}

/// What is told of the taking in.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptureFigures {
    /// What the gate says.
    #[serde(flatten)]
    pub state: CaptureState,
    /// Rows in the outbox.
    pub num_waiting: u64,
    /// For how long the oldest of them has been there, in seconds.
    pub waiting_seconds: f64,
    /// Rows that are parked.
    pub num_parked_rows: u64,
}

/// See the module's overview. Cheap to clone.
#[derive(Clone)]
pub struct CaptureAdmin {
    env: RecordEnv,
    /// None where nobody else can write.
    source: Option<Arc<dyn CaptureSource>>,
}

impl CaptureAdmin {
    /// Looks after what `source` has, if there is one.
    pub fn new(env: RecordEnv, source: Option<Arc<dyn CaptureSource>>) -> Self {
        Self { env, source }
    }

    /// Returns what is told of the taking in; `None` where nobody else can write.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn figures(&self) -> Result<Option<CaptureFigures>, ApiError> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        let waiting = source.waiting().await?;
        let age = waiting
            .since
            .map_or(0, |since| self.env.clock.now().micros() - since.micros());
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let waiting_seconds = age.max(0) as f64 / 1e6;
        Ok(Some(CaptureFigures {
            state: self.env.captured.state(),
            num_waiting: waiting.num_rows,
            waiting_seconds,
            num_parked_rows: waiting.num_parked,
        }))
    }

    /// Lists parked rows behind a number.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<ParkedRow>, ApiError> {
        match &self.source {
            Some(source) => Ok(source.list_parked(&Wanted::After(after), limit).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Tries rows again, as if they had been changed just now, all when none is named; answers when that
    /// is done.
    ///
    /// # Errors
    /// 110 when one is not there; the store does not answer, or the log takes nothing.
    pub async fn retry(&self, ids: &[u64]) -> Result<Retried, ApiError> {
        let mut retried = Retried::default();
        // A column that was none of a field's may be one now.
        self.env.applied.wait_for(self.env.model.position()).await?;
        for wanted in self.portions(ids).await? {
            let new = self.source()?.retry_parked(&wanted).await?;
            self.env.captured.drain().await?;
            retried.num_rows += new.len();
            let parked = self
                .source()?
                .list_parked(&Wanted::These(new), AT_ONCE)
                .await?;
            retried.parked.extend(parked);
        }
        Ok(retried)
    }

    /// Forgets rows, all when none is named; returns how many.
    ///
    /// # Errors
    /// 110 when one is not there; the store does not answer.
    pub async fn discard(&self, ids: &[u64]) -> Result<usize, ApiError> {
        let mut num_rows = 0;
        for wanted in self.portions(ids).await? {
            num_rows += self.source()?.discard_parked(&wanted).await?.len();
        }
        Ok(num_rows)
    }

    /// Returns the rows that are meant, all that there are when none is named.
    async fn portions(&self, ids: &[u64]) -> Result<Vec<Wanted>, ApiError> {
        let mut wanted = ids.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        for ids in wanted.chunks(AT_ONCE) {
            let found = match &self.source {
                Some(source) => {
                    let these = Wanted::These(ids.to_vec());
                    source.list_parked(&these, AT_ONCE).await?
                }
                None => Vec::new(),
            };
            let is_missing = |id: &&u64| !found.iter().any(|row| row.id == **id);
            if let Some(id) = ids.iter().find(is_missing) {
                return Err(missing(*id));
            }
        }
        if wanted.is_empty() {
            wanted = self.all().await?;
        }
        let portions = wanted.chunks(AT_ONCE);
        Ok(portions.map(|ids| Wanted::These(ids.to_vec())).collect())
    }

    async fn all(&self) -> Result<Vec<u64>, ApiError> {
        let mut all = Vec::new();
        loop {
            let page = self.list(all.last().copied().unwrap_or(0), AT_ONCE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page.iter().map(|row| row.id));
        }
    }

    fn source(&self) -> Result<&Arc<dyn CaptureSource>, ApiError> {
        self.source.as_ref().ok_or_else(|| missing(0))
    }
}

fn missing(id: u64) -> ApiError {
    let message = format!("no parked row has the id {id}");
    ApiError::new(Code::ResourceNotFound, message)
}
