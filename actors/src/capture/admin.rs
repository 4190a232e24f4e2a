//! Administration of what others change by SQL: what waits, what is parked, and what happens to it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;

use super::{CaptureSource, CaptureState};
use crate::record::env::RecordEnv;

/// How many rows are retried or forgotten at once.
const BATCH_SIZE: usize = 1000;

/// Selects parked rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedSelector {
    /// The rows after this number.
    After(u64),
    /// The rows with these numbers.
    These(Vec<u64>),
}

/// A row that could not be ingested into the log.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedRow {
    /// Its number.
    pub id: u64,
    /// The record, if the table is a record type's.
    pub record: Option<RecordId>,
    /// The table.
    pub table: String,
    /// Its `_id` there.
    pub key: String,
    /// The row before the transaction; `None` if the transaction inserted it.
    pub before: Option<Json>,
    /// The row after the transaction; `None` if the transaction deleted it.
    pub after: Option<Json>,
    /// The columns that were not ingested; empty if none of the row was.
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

/// The outcome of a retry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retried {
    /// How many rows were tried.
    pub num_rows: usize,
    /// The rows that are parked again.
    pub parked: Vec<ParkedRow>,
}

/// The figures that are reported about the ingestion.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptureFigures {
    /// The state of the gate.
    #[serde(flatten)]
    pub state: CaptureState,
    /// Rows in the outbox.
    pub num_waiting: u64,
    /// How long the oldest of them has been waiting, in seconds.
    pub waiting_seconds: f64,
    /// Rows that are parked.
    pub num_parked_rows: u64,
}

/// See the module's overview. Cheap to clone.
#[derive(Clone)]
pub struct CaptureAdmin {
    env: RecordEnv,
    /// `None` if nobody else can write.
    source: Option<Arc<dyn CaptureSource>>,
}

impl CaptureAdmin {
    /// Creates the administration of `source`, if there is one.
    pub fn new(env: RecordEnv, source: Option<Arc<dyn CaptureSource>>) -> Self {
        Self { env, source }
    }

    /// Returns the figures about the ingestion; `None` if nobody else can write.
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

    /// Lists parked rows after a number.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<ParkedRow>, ApiError> {
        match &self.source {
            Some(source) => Ok(source
                .list_parked(&ParkedSelector::After(after), limit)
                .await?),
            None => Ok(Vec::new()),
        }
    }

    /// Retries rows as if they had been changed just now, or all rows if none is named. Returns
    /// when that is done.
    ///
    /// # Errors
    /// 110 if a row does not exist; the store does not answer, or the log accepts nothing.
    pub async fn retry(&self, ids: &[u64]) -> Result<Retried, ApiError> {
        let mut retried = Retried::default();
        // A column that belonged to no field may belong to one now.
        self.env.applied.wait_for(self.env.model.position()).await?;
        for selector in self.batches(ids).await? {
            let new = self.source()?.retry_parked(&selector).await?;
            self.env.captured.drain().await?;
            retried.num_rows += new.len();
            let parked = self
                .source()?
                .list_parked(&ParkedSelector::These(new), BATCH_SIZE)
                .await?;
            retried.parked.extend(parked);
        }
        Ok(retried)
    }

    /// Forgets rows, or all rows if none is named; returns how many.
    ///
    /// # Errors
    /// 110 if a row does not exist; the store does not answer.
    pub async fn discard(&self, ids: &[u64]) -> Result<usize, ApiError> {
        let mut num_rows = 0;
        for selector in self.batches(ids).await? {
            num_rows += self.source()?.discard_parked(&selector).await?.len();
        }
        Ok(num_rows)
    }

    /// Returns the named rows in batches, or all rows if none is named.
    async fn batches(&self, ids: &[u64]) -> Result<Vec<ParkedSelector>, ApiError> {
        let mut numbers = ids.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        for ids in numbers.chunks(BATCH_SIZE) {
            let found = match &self.source {
                Some(source) => {
                    let these = ParkedSelector::These(ids.to_vec());
                    source.list_parked(&these, BATCH_SIZE).await?
                }
                None => Vec::new(),
            };
            let is_missing = |id: &&u64| !found.iter().any(|row| row.id == **id);
            if let Some(id) = ids.iter().find(is_missing) {
                return Err(missing(*id));
            }
        }
        if numbers.is_empty() {
            numbers = self.all().await?;
        }
        let batches = numbers.chunks(BATCH_SIZE);
        Ok(batches
            .map(|ids| ParkedSelector::These(ids.to_vec()))
            .collect())
    }

    async fn all(&self) -> Result<Vec<u64>, ApiError> {
        let mut all = Vec::new();
        loop {
            let page = self
                .list(all.last().copied().unwrap_or(0), BATCH_SIZE)
                .await?;
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
