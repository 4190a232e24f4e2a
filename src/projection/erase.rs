//! Erases what events held, wherever the store has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_actors::store::StoreError;
use skytrail_schema::event::ErasureScope;
use skytrail_schema::positions::Positions;
use tokio::time::Instant;

use super::apply::forget_past;
use super::captured;
use super::conn::{Conn, SHORT_WAIT};
use super::history::ERASED;
use super::layout::Catalog;
use super::postgres::Backend;
use super::sql::{Arg, Sql};
use super::sqlite::erase::failed;
use super::store::{SqlStore, StoreLocation, Writer, open_writer_of};
use super::{behind, postgres, read, sqlite};

/// How long to wait for those who may see erased rows, at first and at most. The wait is longer each
/// time that it is in vain, so that readers who take turns are waited for, too.
const WAITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// The pause between two looks at them.
const PERIOD: Duration = Duration::from_millis(100);

/// The same for a table that is rewritten. Everyone else who wants it queues behind this, and no
/// events are applied.
const LOCK_WAITS: (Duration, Duration) = (SHORT_WAIT, Duration::from_secs(10));

/// How far an erasure is.
#[derive(Default)]
pub(super) struct Forgetting {
    positions: Positions,
    /// The process that served the connection when they were marked.
    marked_by: Option<Backend>,
    /// How often it was attempted in vain.
    num_vain: u32,
    /// The tables that were rewritten.
    written: HashSet<String>,
}

impl Forgetting {
    /// Begins anew if something else is erased, or in another database.
    fn continue_with(&mut self, positions: &Positions, marked_by: Option<Backend>) {
        if self.positions != *positions || self.marked_by != marked_by {
            *self = Self {
                positions: positions.clone(),
                marked_by,
                num_vain: self.num_vain,
                written: HashSet::new(),
            };
        }
    }

    /// Returns a wait of this attempt, which is longer each time.
    fn wait(&self, (first, longest): (Duration, Duration)) -> Duration {
        (first * (1 << self.num_vain.min(16))).min(longest)
    }
}

#[async_trait]
impl Holder for SqlStore {
    fn name(&self) -> &'static str {
        "record store"
    }

    async fn forget_beside(&self, scopes: &[ErasureScope]) -> Result<(), HolderError> {
        if let StoreLocation::File(_) = &self.home {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        let forgotten = async {
            let (mut conn, state) = writer.conn()?;
            captured::forget(&mut conn, &state.catalog, scopes).await
        };
        let forgotten = self.served_by(backend.as_ref(), forgotten).await;
        self.done(writer, forgotten).await
    }

    async fn keeps_beside(&self, scopes: &[ErasureScope]) -> Result<bool, StoreError> {
        if let StoreLocation::File(_) = &self.home {
            return Ok(false);
        }
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let found = captured::is_parked(&mut conn, &catalog, scopes).await;
        found.map_err(|error| self.failed(error))
    }

    /// The first call after a start names all that the store has lacked, see [`SqlStore::note_behind`].
    async fn forget(&self, positions: &Positions) -> Result<(), HolderError> {
        let mut state = self.forgetting.lock().await;
        let marked_by = self.mark_erased(positions).await?;
        state.continue_with(positions, marked_by);
        let (wait, lock_wait) = (state.wait(WAITS), state.wait(LOCK_WAITS));
        state.num_vain += 1;
        if let StoreLocation::Server(_) = &self.home {
            self.drop_unfinished().await?;
            let deadline = Instant::now() + wait;
            self.await_readers(deadline).await?;
            self.await_users_of_tables(deadline).await?;
        }
        self.write_anew(&mut state, lock_wait).await?;
        *state = Forgetting::default();
        Ok(())
    }
}

impl SqlStore {
    /// Hides what was erased, without waiting for anybody. Whoever holds the database's files may
    /// still find it: see [`Holder::forget`].
    pub(crate) async fn hide_erased(
        &self,
        scopes: &[ErasureScope],
        positions: &Positions,
    ) -> Result<(), HolderError> {
        self.forget_beside(scopes).await?;
        self.mark_erased(positions).await.map(drop)
    }

    /// Marks the events; returns the process that served the connection.
    async fn mark_erased(&self, positions: &Positions) -> Result<Option<Backend>, HolderError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        let marked = async {
            let (mut conn, state) = writer.conn()?;
            let catalog = Arc::clone(&state.catalog);
            mark(&mut conn, &catalog, positions).await?;
            let num_faults = read::count_faults(&mut conn).await?;
            self.num_faults.store(num_faults, Ordering::Relaxed);
            Ok(())
        };
        let marked = self.served_by(backend.as_ref(), marked).await;
        self.done(writer, marked).await?;
        Ok(backend)
    }

    /// Drops what commands have left next to the store. A command that fills a store is a reader, so
    /// this comes before readers are waited for.
    async fn drop_unfinished(&self) -> Result<(), HolderError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        let dropped = async {
            let (mut conn, _) = writer.conn()?;
            postgres::drop_unfinished(&mut conn).await
        };
        let dropped = self.served_by(backend.as_ref(), dropped).await;
        self.done(writer, dropped).await
    }

    /// Waits until nobody can see in the database what was deleted by now: it keeps such rows.
    ///
    /// Events are applied meanwhile, because a dump can take hours.
    async fn await_readers(&self, deadline: Instant) -> Result<(), HolderError> {
        let now = {
            let mut reader = self.reader().await?;
            let mut conn = reader.conn().map_err(failed)?;
            let now = postgres::next_transaction(&mut conn).await;
            now.map_err(failed)?
        };
        loop {
            let mut reader = self.reader().await?;
            let mut conn = reader.conn().map_err(failed)?;
            let found = postgres::has_readers_since(&mut conn, now).await;
            if !found.map_err(failed)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let names = postgres::readers_since(&mut conn, now).await;
                let names = names.map_err(failed)?.join(", ");
                return Err(HolderError::StillSeen(format!(
                    "a transaction that does not end may still see erased data: {names}"
                )));
            }
            drop(reader);
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Waits for the transactions that hold tables by now. Asking for a table would make everyone
    /// who wants it afterwards wait, too.
    async fn await_users_of_tables(&self, deadline: Instant) -> Result<(), HolderError> {
        let mut users: Option<Vec<postgres::TableUser>> = None;
        loop {
            let mut reader = self.reader().await?;
            let mut conn = reader.conn().map_err(failed)?;
            let mut present = postgres::table_users(&mut conn).await.map_err(failed)?;
            if let Some(users) = &users {
                present.retain(|user| users.contains(user));
            }
            if present.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let names: Vec<_> = present.iter().map(|user| user.name.as_str()).collect();
                let names = names.join(", ");
                return Err(HolderError::StillSeen(format!(
                    "a transaction that does not end holds a table: {names}"
                )));
            }
            users = Some(present);
            drop(reader);
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Rewrites what held the events, over the connection that marked them: another one may lead to a
    /// database that lacks the marks.
    async fn write_anew(
        &self,
        state: &mut Forgetting,
        lock_wait: Duration,
    ) -> Result<(), HolderError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        if backend != state.marked_by {
            let message = "the connection to the database was lost meanwhile";
            return Err(HolderError::Failed(message.to_owned()));
        }
        let written = async {
            let (mut conn, _) = writer.conn()?;
            // Nothing is applied meanwhile; reads continue.
            match &self.home {
                StoreLocation::File(file) => sqlite::scrub(&file.path).await?,
                StoreLocation::Server(_) => {
                    postgres::scrub(&mut conn, &mut state.written, lock_wait).await?;
                }
            }
            behind::forget(&mut conn).await
        };
        match self.served_by(backend.as_ref(), written).await {
            Err(error) if backend.is_some() && postgres::is_held(&error) => {
                Err(postgres::not_applied(&error).into())
            }
            written => self.done(writer, written).await,
        }
    }

    /// Drops the connection if the work failed, so that the next attempt gets a new one.
    async fn done(
        &self,
        writer: &mut Writer,
        forgotten: Result<(), sqlx::Error>,
    ) -> Result<(), HolderError> {
        if let Err(error) = &forgotten {
            self.renew(writer, error).await;
        }
        forgotten.map_err(failed)
    }
}

/// Marks the events as erased in the history, like in a store that is made from the log.
///
/// Deletes their faults, and the past versions of records that they wrote.
async fn mark(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    positions: &Positions,
) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    for (first, last) in positions.runs() {
        let mut sql = Sql::new("UPDATE _history SET kind = kind | ");
        sql.bind(Arg::Int(ERASED));
        sql.push(" WHERE position BETWEEN ");
        sql.bind(Arg::unsigned(*first)).push(" AND ");
        sql.bind(Arg::unsigned(*last)).push(" AND kind < ");
        sql.bind(Arg::Int(ERASED));
        sql.execute(&mut tx.conn()).await?;
        let mut sql = Sql::new("DELETE FROM _faults WHERE position BETWEEN ");
        sql.bind(Arg::unsigned(*first)).push(" AND ");
        sql.bind(Arg::unsigned(*last));
        sql.execute(&mut tx.conn()).await?;
    }
    forget_past(&mut tx.conn(), catalog, positions).await?;
    tx.commit().await
}
