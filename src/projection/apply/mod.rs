//! Applies commits to the store: one transaction per batch, with the checkpoint in it.
//!
//! 1. The record events of the batch are folded per record, and written by a few multi-row
//!    statements. Before a type changes, everything before the change is written.
//! 2. Then each event gets a row in the history, and the checkpoint and the commit follow.
//! 3. If an event cannot be applied, the transaction is undone and the batch applied event by
//!    event. The event at fault goes to `_faults`; the others are kept.
//! 4. If the *database* fails (disk full, I/O, a permission or table that was removed), nothing is
//!    applied and the caller tries again.

mod asset;
mod devices;
mod fields;
mod history;
mod links;
mod lost_streams;
mod past;
mod records;
mod room;
mod row;
pub(super) mod settings;
mod tasks;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use crate::projection::conn::{Conn, SHORT_WAIT, Tx, WriteOptions};
use skytrail_schema::event::{Commit, Event, EventBody, Stream};
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use self::history::Actors;
use self::lost_streams::{LostStreams, Meaning};
use self::records::RecordBatch;
use self::settings::{Population, UserBatch};
use self::texts::Texts;
use super::captured::{self, Touched};
use super::dialect::{Dialect, is_refusal};
use super::layout::{Catalog, Table};
use super::postgres;
use super::sql::{Arg, Sql};

pub(super) use self::history::stream_hash;
pub(super) use self::past::forget as forget_past;
pub(super) use self::settings::{Indexing, save_type};

/// The longest that a change of a table waits for the table.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long a row is waited for at first, and at most: less than PostgreSQL's `deadlock_timeout`.
const FIRST_ROW_WAIT: Duration = Duration::from_millis(25);
const LONGEST_ROW_WAIT: Duration = Duration::from_millis(800);

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// An event does not fit the store's state.
    #[error("{0}")]
    Fault(String),
    /// The database refused or failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

impl ApplyError {
    fn fault(reason: impl Into<String>) -> Self {
        Self::Fault(reason.into())
    }

    /// Returns whether the event is at fault: not the database's disk, memory or file, and not
    /// something removed from it. That can return, and the event must not be lost meanwhile.
    fn is_about_the_event(&self) -> bool {
        match self {
            Self::Fault(_) => true,
            Self::Sql(error) => {
                is_refusal(error)
                    && !postgres::is_about_the_server(error)
                    && !postgres::is_unsupported(error)
            }
        }
    }
}

/// What the writer keeps between batches.
pub(super) struct WriterState {
    /// The types as of the checkpoint.
    pub(super) catalog: Arc<Catalog>,
    /// The last applied position.
    pub(super) checkpoint: u64,
    /// When indexes are created.
    pub(super) indexing: Indexing,
    /// How many faults were written since they were last collected.
    pub(super) new_faults: u64,
    /// Whether transactions do not wait for the database's disk, if the database is a server.
    pub(super) is_lazy: bool,
    /// How long the next change of a table waits for the table. Others queue behind it, so it
    /// starts with a short wait. But sessions that came first may take turns, and the wait must
    /// outlast them.
    pub(super) table_wait: Duration,
    /// How long a statement waits for a row that another session holds. At first it waits hardly
    /// at all: the session may be a plugin's, and wait itself for an answer that waits for this.
    /// It never waits so long that PostgreSQL looks for a deadlock, and ends the plugin's
    /// transaction rather than this one.
    row_wait: Duration,
    texts: Texts,
    actors: Actors,
    lost: LostStreams,
}

impl WriterState {
    /// Continues where the store was left.
    pub(super) async fn load(conn: &mut Conn<'_>) -> Result<Self, sqlx::Error> {
        let (catalog, checkpoint) = super::read::catalog(conn).await?;
        Ok(Self {
            catalog: Arc::new(catalog),
            checkpoint,
            lost: LostStreams::load(conn).await?,
            ..Self::new(conn.dialect())
        })
    }

    /// Starts with an empty store.
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            catalog: Arc::new(Catalog::new(dialect)),
            checkpoint: 0,
            indexing: Indexing::default(),
            new_faults: 0,
            is_lazy: false,
            table_wait: SHORT_WAIT,
            row_wait: FIRST_ROW_WAIT,
            texts: Texts::default(),
            actors: Actors::default(),
            lost: LostStreams::default(),
        }
    }

    /// Applies the commits after the checkpoint.
    pub(super) async fn apply(
        &mut self,
        conn: &mut Conn<'_>,
        commits: &[Arc<Commit>],
    ) -> Result<(), sqlx::Error> {
        let new = commits.iter().map(Arc::as_ref);
        let new = new.filter(|commit| commit.last_position() > self.checkpoint);
        let new: Vec<&Commit> = new.collect();
        let Some(last) = new.last() else {
            return Ok(());
        };
        let mut done = self.apply_as_batch(conn, &new).await;
        // One index at a time. Dropped indexes do not return, so this ends.
        while let Err(ApplyError::Sql(error)) = &done
            && let Some(index) = postgres::too_narrow(error)
        {
            self.forget();
            postgres::drop_narrow(conn, &index).await?;
            done = self.apply_as_batch(conn, &new).await;
        }
        let result = match done {
            Err(error) if error.is_about_the_event() => {
                self.forget();
                self.apply_singly(conn, &new).await
            }
            other => other,
        };
        match result {
            Ok(catalog) => {
                self.catalog = catalog;
                self.checkpoint = last.last_position();
                self.table_wait = SHORT_WAIT;
                self.row_wait = FIRST_ROW_WAIT;
                Ok(())
            }
            Err(error) => {
                self.forget();
                let error = into_sql(error);
                if postgres::is_held(&error) {
                    if change_types(new.iter().copied()) {
                        self.table_wait = (self.table_wait * 2).min(LONGEST_WAIT);
                    }
                    self.row_wait = (self.row_wait * 2).min(LONGEST_ROW_WAIT);
                }
                Err(error)
            }
        }
    }

    /// Returns whether a crash of the database may undo these commits. Changes by SQL leave the
    /// outbox with their commit, and would not return to it.
    fn may_be_lazy(&self, commits: &[&Commit]) -> bool {
        self.is_lazy && commits.iter().all(|commit| commit.sql.is_none())
    }

    /// Begins the transaction of these commits. In a store next to the one in use nobody holds
    /// locks.
    async fn begin<'a>(
        &self,
        conn: &'a mut Conn<'_>,
        commits: &[&Commit],
    ) -> Result<Tx<'a>, sqlx::Error> {
        let options = WriteOptions {
            is_lazy: self.may_be_lazy(commits),
            lock_wait: self.lock_waits().map(|waits| waits.row),
        };
        conn.begin_applying(options).await
    }

    fn lock_waits(&self) -> Option<LockWaits> {
        let waits = LockWaits {
            row: self.row_wait,
            table: self.table_wait,
        };
        (self.indexing == Indexing::AtOnce).then_some(waits)
    }

    /// Reports what was skipped, once that is stored. The log has it, and its author was told that
    /// it is saved, so somebody must know.
    fn tell(&mut self, faults: &[Fault]) {
        for fault in faults {
            tracing::error!(
                position = fault.position,
                stream = fault.stream,
                reason = fault.reason,
                "the record store cannot apply an event, or a part of it, which only the log has; \
                 remove the cause, then run skytrail rebuild, and skytrail rebuild --verify to \
                 check that nothing is missing"
            );
            self.new_faults = self.new_faults.saturating_add(1);
        }
    }

    /// Clears caches that may contain something from a transaction that was undone.
    fn forget(&mut self) {
        self.texts.clear();
        self.actors.clear();
    }

    async fn apply_as_batch(
        &mut self,
        conn: &mut Conn<'_>,
        commits: &[&Commit],
    ) -> Result<Arc<Catalog>, ApplyError> {
        let mut tx = self.begin(conn, commits).await?;
        let events = || commits.iter().copied().flat_map(timed);
        let lock_waits = self.lock_waits();
        let mut session = Session {
            catalog: Arc::clone(&self.catalog),
            texts: &mut self.texts,
            lost: self.lost.clone(),
            indexing: self.indexing,
            lock_waits,
            records: RecordBatch::default(),
            users: UserBatch::load(&mut tx.conn(), users_of(events().map(|(_, event)| event)))
                .await?,
            faults: Vec::new(),
        };
        for (time, event) in events() {
            session.add(&mut tx.conn(), event, time).await?;
        }
        let (catalog, faults, lost, touched) = session.finish(&mut tx.conn()).await?;
        lost.save(&mut tx.conn(), &self.lost).await?;
        history::write(&mut tx.conn(), &mut self.actors, commits).await?;
        captured::import(&mut tx.conn(), commits, touched).await?;
        finish(&mut tx.conn(), self.checkpoint, commits, &faults).await?;
        tx.commit().await?;
        self.tell(&faults);
        self.lost = lost;
        Ok(catalog)
    }

    async fn apply_singly(
        &mut self,
        conn: &mut Conn<'_>,
        commits: &[&Commit],
    ) -> Result<Arc<Catalog>, ApplyError> {
        let mut tx = self.begin(conn, commits).await?;
        let mut catalog = Arc::clone(&self.catalog);
        let mut faults = Vec::new();
        let mut lost = self.lost.clone();
        let mut touched = Touched::new();
        for (time, event) in commits.iter().copied().flat_map(timed) {
            let state = (&catalog, &lost, &touched);
            let mut applied = self.apply_event(&mut tx.conn(), state, (time, event)).await;
            // What the log has takes precedence over what other programs want of its tables.
            while let Err(ApplyError::Sql(error)) = &applied {
                let is_out_of_the_way = captured::lift(&mut tx.conn(), error).await?
                    || match table_of(&catalog, event) {
                        Some(table) => room::restore_types(&mut tx.conn(), table, error).await?,
                        None => false,
                    };
                if !is_out_of_the_way {
                    break;
                }
                self.texts.clear();
                applied = self.apply_event(&mut tx.conn(), state, (time, event)).await;
            }
            match applied {
                Ok((changed, misfits, unknown, rows)) => {
                    for (table, rows) in rows {
                        captured::add_effects(touched.entry(table).or_default(), rows);
                    }
                    catalog = changed;
                    lost = unknown;
                    faults.extend(misfits);
                }
                Err(error) if error.is_about_the_event() => {
                    self.texts.clear();
                    faults.push(Fault::new(event, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        lost.save(&mut tx.conn(), &self.lost).await?;
        history::write(&mut tx.conn(), &mut self.actors, commits).await?;
        captured::import(&mut tx.conn(), commits, touched).await?;
        finish(&mut tx.conn(), self.checkpoint, commits, &faults).await?;
        tx.commit().await?;
        self.tell(&faults);
        self.lost = lost;
        Ok(catalog)
    }

    async fn apply_event(
        &mut self,
        conn: &mut Conn<'_>,
        (catalog, lost, touched): (&Arc<Catalog>, &LostStreams, &Touched),
        (time, event): (Timestamp, &Event),
    ) -> Result<Applied, ApplyError> {
        let mut savepoint = conn.begin().await?;
        let lock_waits = self.lock_waits();
        let records = match &event.stream {
            Stream::Type(_) => RecordBatch::after(touched.clone()),
            _ => RecordBatch::default(),
        };
        let mut session = Session {
            catalog: Arc::clone(catalog),
            texts: &mut self.texts,
            lost: lost.clone(),
            indexing: self.indexing,
            lock_waits,
            records,
            users: UserBatch::load(&mut savepoint.conn(), users_of(std::iter::once(event))).await?,
            faults: Vec::new(),
        };
        session.add(&mut savepoint.conn(), event, time).await?;
        let done = session.finish(&mut savepoint.conn()).await?;
        savepoint.commit().await?;
        Ok(done)
    }
}

/// The result of applying: the types, the faults, the unknown things, and the rows that were
/// written.
type Applied = (Arc<Catalog>, Vec<Fault>, LostStreams, Touched);

/// An event, or a part of one, that could not be applied.
struct Fault {
    position: u64,
    stream: String,
    reason: String,
}

impl Fault {
    fn new(event: &Event, reason: String) -> Self {
        Self {
            position: event.position,
            stream: event.stream.to_string(),
            reason,
        }
    }
}

/// How long statements wait for locks that other sessions hold.
#[derive(Clone, Copy)]
struct LockWaits {
    row: Duration,
    /// For a table that is changed, which is needed exclusively.
    table: Duration,
}

/// A batch that is being applied.
struct Session<'a> {
    catalog: Arc<Catalog>,
    texts: &'a mut Texts,
    lost: LostStreams,
    indexing: Indexing,
    /// `None` where nobody else holds locks.
    lock_waits: Option<LockWaits>,
    records: RecordBatch,
    users: UserBatch,
    faults: Vec<Fault>,
}

impl Session<'_> {
    /// Applies an event; `time` is its commit's.
    async fn add(
        &mut self,
        conn: &mut Conn<'_>,
        event: &Event,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        let place = match self.lost.learn(event) {
            Meaning::Nothing => return Ok(()),
            Meaning::Apply(place) => place,
            Meaning::Try => {
                return match self.change(conn, (event, None), time).await {
                    Err(ApplyError::Fault(_)) => Ok(()),
                    other => other,
                };
            }
        };
        self.change(conn, (event, place), time).await
    }

    /// Applies an event. A row that is created again gets the value that comes with the event, see
    /// [`Meaning::Apply`].
    async fn change(
        &mut self,
        conn: &mut Conn<'_>,
        (event, place): (&Event, Option<u64>),
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        match &event.stream {
            Stream::Record(id) => {
                let layout = self.catalog.get(&id.record_type);
                let layout = layout.ok_or_else(|| ApplyError::fault("no such type"))?;
                if self.records.must_flush(layout, id) {
                    self.records.flush(conn, self.texts).await?;
                }
                let misfits = self.records.add(layout, id, (event, place))?;
                let misfits = misfits.into_iter();
                self.faults
                    .extend(misfits.map(|misfit| Fault::new(event, misfit.0)));
                Ok(())
            }
            Stream::Type(name) => {
                self.records.flush(conn, self.texts).await?;
                self.texts.clear();
                let catalog = Arc::make_mut(&mut self.catalog);
                let change = (name, event);
                if let Some(waits) = self.lock_waits {
                    conn.wait_at_most(waits.table).await?;
                }
                let population = Population {
                    lost: &self.lost,
                    touched: &self.records.touched,
                };
                settings::change_type(conn, catalog, self.indexing, population, change).await?;
                if let Some(waits) = self.lock_waits {
                    conn.wait_at_most(waits.row).await?;
                }
                Ok(())
            }
            Stream::User(id) => self.users.add(id, event),
            Stream::Role(name) => match &event.body {
                EventBody::RoleDefined(flags) => {
                    settings::define_role(conn, name, event.version, *flags).await
                }
                _ => Err(ApplyError::fault("not an event of a role")),
            },
            Stream::Relation(relation, from) => {
                settings::change_relation(conn, *relation, from, event).await
            }
            Stream::FieldAccess => settings::set_field_access(conn, event).await,
            Stream::Asset(name) => asset::change(conn, name, event).await,
            Stream::Device(id) => devices::change_device(conn, id, (event, place)).await,
            Stream::Subscriptions(id) => devices::change_subscriptions(conn, id, event).await,
            Stream::Task(id) => tasks::change(conn, id, event, time).await,
            // Everything else is only in the log, for those who read it.
            Stream::Erasure(_) => match &event.body {
                EventBody::ErasureRequested(request) => {
                    // Queries of the past would show it until the erasure gets to this store. What
                    // this batch replaces has to be there first.
                    self.records.flush(conn, self.texts).await?;
                    forget_past(conn, &self.catalog, &request.positions).await?;
                    settings::note_counters(conn, &self.catalog, request).await
                }
                _ => Ok(()),
            },
            // These are only in the history.
            Stream::Plugin(_) | Stream::Restore(_) => Ok(()),
        }
    }

    async fn finish(mut self, conn: &mut Conn<'_>) -> Result<Applied, ApplyError> {
        self.records.flush(conn, self.texts).await?;
        self.users.flush(conn).await?;
        Ok((self.catalog, self.faults, self.lost, self.records.touched))
    }
}

/// Returns whether any of the commits change types, and with them tables.
pub(super) fn change_types<'a>(mut commits: impl Iterator<Item = &'a Commit>) -> bool {
    let changes = |event: &Event| matches!(event.stream, Stream::Type(_));
    commits.any(|commit| commit.events.iter().any(changes))
}

/// Returns a commit's events, each with the commit's time.
fn timed(commit: &Commit) -> impl Iterator<Item = (Timestamp, &Event)> {
    commit.events.iter().map(|event| (commit.time, event))
}

fn table_of<'a>(catalog: &'a Catalog, event: &Event) -> Option<&'a Table> {
    match &event.stream {
        Stream::Record(id) => catalog.table(&id.record_type),
        _ => None,
    }
}

fn users_of<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<UserId> {
    let mut ids: Vec<UserId> = events
        .filter_map(|event| match &event.stream {
            Stream::User(id) => Some(id.clone()),
            _ => None,
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Writes the faults and the checkpoint.
async fn finish(
    conn: &mut Conn<'_>,
    checkpoint: u64,
    commits: &[&Commit],
    faults: &[Fault],
) -> Result<(), ApplyError> {
    for fault in faults {
        let mut sql = Sql::new("INSERT INTO _faults (position, stream, reason) VALUES (");
        sql.bind(Arg::unsigned(fault.position)).push(",");
        sql.bind(Arg::text(fault.stream.as_str())).push(",");
        sql.bind(Arg::text(fault.reason.as_str())).push(")");
        sql.execute(conn).await?;
    }
    let position = commits.last().map_or(0, |commit| commit.last_position());
    let mut sql = Sql::new("UPDATE _checkpoint SET position=");
    sql.bind(Arg::unsigned(position));
    if checkpoint == 0 && !conn.dialect().is_sqlite() {
        // Several servers can use one database: a store remembers which log it was filled from.
        let first = commits.first().map(|commit| commit.id.to_string());
        sql.push(",log=").bind(Arg::maybe(first));
    }
    sql.push(" WHERE position=").bind(Arg::unsigned(checkpoint));
    match sql.execute(conn).await? {
        0 => Err(ApplyError::Sql(moved(checkpoint))),
        _ => Ok(()),
    }
}

/// Returns the error for a checkpoint that has moved. Another server applies to the same store, or
/// a commit of ours succeeded although the connection failed.
fn moved(checkpoint: u64) -> sqlx::Error {
    sqlx::Error::Protocol(format!(
        "the store is no longer at {checkpoint}, where this server left it: another server may use \
         it"
    ))
}

fn into_sql(error: ApplyError) -> sqlx::Error {
    match error {
        ApplyError::Sql(error) => error,
        ApplyError::Fault(reason) => sqlx::Error::Protocol(reason),
    }
}
