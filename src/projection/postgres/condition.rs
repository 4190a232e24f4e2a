//! Whether a store is this server's own, and has what was applied to it.
//!
//! A connection can lead to another database than before: a failover or an older copy may have set
//! it back, or another server may have created and filled it anew. So every new connection shows
//! which log its store was filled from and how far it is. That is compared with what this server
//! has applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use skytrail_actors::store::{StoreError, UnavailableReason};
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;

use super::StoreOrigin;
use super::claim::{Claim, others};
use super::errors::io_error;
use super::hosts::Backend;
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::sql::Sql;

/// See the module's overview.
pub(super) struct Condition {
    /// `None` for commands that only look at a store or put one in its place.
    pub(super) claim: Option<Claim>,
    /// The last position that readers were told of.
    reached: AtomicU64,
    own: Mutex<Own>,
    is_behind: watch::Sender<bool>,
}

/// What this server knows of the log that it applies.
#[derive(Default)]
struct Own {
    /// The id of the first commit.
    log: Option<String>,
    /// When the last applied commit was committed, and the same for all commits given to the
    /// database since. If the connection is lost, nobody knows whether the database has the latter.
    commits: BTreeMap<u64, Timestamp>,
}

impl Condition {
    /// Creates the condition of a store that nobody was told anything about yet.
    pub(super) fn new(claim: Option<Claim>) -> Self {
        Self {
            claim,
            reached: AtomicU64::new(0),
            own: Mutex::default(),
            is_behind: watch::Sender::new(false),
        }
    }

    /// Records what the store is when it is opened.
    pub(super) fn know(&self, checkpoint: u64, origin: StoreOrigin) {
        let mut own = self.own.lock();
        own.log = origin.log;
        own.commits
            .extend(origin.last.map(|time| (checkpoint, time)));
        self.reached.fetch_max(checkpoint, Ordering::AcqRel);
    }

    /// Records what is about to be given to a store that is at a checkpoint.
    pub(super) fn attempt(&self, checkpoint: u64, commits: &[Arc<Commit>]) {
        let mut own = self.own.lock();
        if checkpoint == 0 {
            own.log = commits.first().map(|commit| commit.id.to_string());
        }
        let commits = commits.iter();
        own.commits
            .extend(commits.map(|commit| (commit.last_position(), commit.time)));
    }

    /// Records that the database has everything up to a position.
    pub(super) fn reach(&self, position: u64) {
        let mut own = self.own.lock();
        own.commits = own.commits.split_off(&position);
        self.reached.fetch_max(position, Ordering::AcqRel);
    }

    /// Records that the store has lost something. From then on nothing is read from it.
    pub(super) fn fall_behind(&self, checkpoint: u64) {
        if !self.is_behind.send_replace(true) {
            let reached = self.reached.load(Ordering::Acquire);
            tracing::error!(
                checkpoint,
                reached,
                "the database has lost events that were applied"
            );
        }
    }

    /// Fails when the database is known to have lost something.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if *self.is_behind.borrow() {
            let cause =
                "it has lost events that were applied, and is about to catch up with the log";
            return Err(StoreError::unavailable(UnavailableReason::Behind, cause));
        }
        Ok(())
    }

    /// Waits until the database is known to have lost something.
    pub(super) async fn behind(&self) {
        let mut is_behind = self.is_behind.subscribe();
        let _ = is_behind.wait_for(|is_behind| *is_behind).await;
    }

    /// Checks that a connection can be used, and returns the process that serves it.
    pub(super) async fn admit(&self, conn: &mut PgConnection) -> Result<Backend, sqlx::Error> {
        let conn = &mut Conn::server(conn, Extensions::default());
        let sql = Sql::new(
            "SELECT pg_is_in_recovery(), current_setting('skytrail.own', true) IS NOT DISTINCT FROM 'yes', \
             pg_postmaster_start_time()::text, pid, backend_start::text \
             FROM pg_stat_activity WHERE pid=pg_backend_pid()",
        );
        let row = sql.fetch_optional(conn).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        if row.flag(0)? {
            return Err(io_error("it is a standby, which does not accept writes"));
        }
        if !row.flag(1)? {
            // Writes on such a connection would be taken for those of other programs.
            let text = "startup options (skytrail.own, search_path) do not reach the database: a \
                        pooler may be configured to ignore them";
            return Err(sqlx::Error::Configuration(text.into()));
        }
        let start = row.text(2)?.into_owned();
        let backend = Backend::new(start, row.int(3)?, row.text(4)?.into_owned());
        self.verify(conn).await?;
        Ok(backend)
    }

    /// Checks that a store is the one that this server fills, and that it has everything.
    pub(super) async fn verify(&self, conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
        // Read before the store is asked: the store must have everything up to here.
        let reached = self.reached.load(Ordering::Acquire);
        let is_expected = reached > 0 || self.own.lock().log.is_some();
        let Some(claim) = self.claim.as_ref().filter(|_| is_expected) else {
            return Ok(());
        };
        claim.check(conn).await?;
        let sql = Sql::new(
            "SELECT c.position, c.log, h.time FROM _checkpoint AS c \
             LEFT JOIN _history AS h ON h.position=c.position",
        );
        let row = sql.fetch_optional(conn).await?;
        let (checkpoint, log, last) = match &row {
            None => (0, None, None),
            Some(row) => (row.unsigned(0)?, row.maybe_text(1)?, row.maybe_time(2)?),
        };
        if let Some(what) = self.find_strange(checkpoint, log.as_deref(), last) {
            return Err(others(format!("the schema {} {what}", claim.schema())));
        }
        if checkpoint < reached {
            self.fall_behind(checkpoint);
            return Err(io_error("it has lost events that were applied"));
        }
        Ok(())
    }

    /// Finds out whether a store has something that this server has not written.
    fn find_strange(
        &self,
        checkpoint: u64,
        log: Option<&str>,
        last: Option<Timestamp>,
    ) -> Option<String> {
        let own = self.own.lock();
        if log.is_some() && own.log.is_some() && log != own.log.as_deref() {
            return Some(format!("is a store of another log (it is at {checkpoint})"));
        }
        // Under the lock: what others already see there was recorded before.
        let reached = self.reached.load(Ordering::Acquire);
        let given = own.commits.last_key_value();
        let given = given.map_or(reached, |(position, _)| reached.max(*position));
        if checkpoint > given {
            return Some(format!(
                "was filled by another server: it is at {checkpoint}, and this server only reached \
                 {given}"
            ));
        }
        let known = own.commits.get(&checkpoint)?;
        let is_another = last.is_some_and(|last| last != *known);
        is_another.then(|| {
            format!("was filled by another server: it has a different event at {checkpoint}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(log: &str, seconds: i64) -> StoreOrigin {
        StoreOrigin {
            log: Some(log.to_owned()),
            last: Some(Timestamp::from_micros(seconds * 1_000_000)),
        }
    }

    #[test]
    fn a_store_is_told_from_that_of_another_log_and_of_a_copy() {
        let condition = Condition::new(None);
        condition.know(7, origin("a", 70));
        let look = |checkpoint, log, seconds: i64| {
            let last = Timestamp::from_micros(seconds * 1_000_000);
            condition.find_strange(checkpoint, Some(log), Some(last))
        };
        assert_eq!(look(7, "a", 70), None);
        // It is behind, which is a different matter.
        assert_eq!(look(5, "a", 50), None);
        assert_eq!(condition.find_strange(0, None, None), None);
        assert!(look(7, "b", 70).unwrap().contains("another log"));
        assert!(look(8, "a", 80).unwrap().contains("only reached 7"));
        assert!(look(7, "a", 71).unwrap().contains("different event at 7"));
    }
}
