//! Reading the outbox, round after round.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Actor, EventBody, NewCommit, Origin, SqlSource, TypeExtension};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Head;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::decide::{self, Outcome};
use super::{
    BatchLimits, CaptureGate, CaptureSource, CapturedRow, CapturedTransaction, Parked,
    ParkedSelector, RowChange,
};
use crate::log::{AppendError, ConflictKey, Decision};
use crate::record::attempt::{Outcome as Attempt, retry_on_conflict};
use crate::record::decide::{DecisionInputs, Plan};
use crate::record::delete::find_referrer;
use crate::record::draft::Draft;
use crate::record::env::RecordEnv;
use crate::record::save::load_inputs;
use crate::record::unique;
use crate::record::unique_value::{UniqueValue, new_unique_values};

/// How many rows a commit holds at most; a transaction that changed more becomes several commits.
const MAX_ROWS: usize = 4096;
/// How many bytes of rows are read at once, including their states before.
const MAX_BYTES: usize = 4 << 20;
/// How often the outbox is checked even though nothing was announced.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the tables are checked for what others have changed about them.
const TABLES_PERIOD: Duration = Duration::from_secs(1);
/// The pause after a failed round.
const PAUSE: Duration = Duration::from_millis(250);

/// Identifies a part of a transaction: its numbers in the database, which may recur after a
/// failover, and a mark, which does not.
type Key = (u64, u64, Uuid);

fn key_of(source: &SqlSource) -> Key {
    (source.transaction, source.until, source.outbox)
}

/// See the module's overview.
pub struct Captures {
    env: RecordEnv,
    source: Arc<dyn CaptureSource>,
    /// What is in the log already, with its position; the store may still have it in the outbox.
    taken: HashMap<Key, u64>,
    /// How many rows are read at once.
    max_rows: usize,
}

impl Captures {
    /// Builds the ingestion of `source`'s outbox into the log.
    ///
    /// If it `is_expected` that others write by SQL, requests wait for that from the beginning,
    /// otherwise from the first write on.
    pub fn new(env: RecordEnv, source: Arc<dyn CaptureSource>, is_expected: bool) -> Self {
        env.captured.serve();
        env.captured.set_source(Arc::clone(&source));
        if is_expected {
            env.captured.set_active();
        }
        Self {
            env,
            source,
            taken: HashMap::new(),
            max_rows: MAX_ROWS,
        }
    }

    /// Ingests what arrives, without end.
    pub async fn run(self) {
        let scanning = scan(self.env.captured.clone(), Arc::clone(&self.source));
        tokio::join!(scanning, self.take_all());
    }

    async fn take_all(mut self) {
        let gate = self.env.captured.clone();
        let mut next_tables_check = Instant::now();
        loop {
            let round = gate.begin_round();
            let mut done = self.round().await;
            if done.is_ok() && Instant::now() >= next_tables_check {
                next_tables_check = Instant::now() + TABLES_PERIOD;
                let learned = self.look_at_tables().await;
                done = done.and_then(|had_some| learned.map(|()| had_some));
            }
            if done.is_ok() && !gate.is_active() {
                let is_in_use = self.source.is_in_use().await.unwrap_or_default();
                if is_in_use {
                    gate.set_active();
                }
            }
            if let Err(error) = &done {
                tracing::warn!(
                    code = error.code.number(), error = %error.message,
                    "captured SQL changes are not imported yet"
                );
            }
            gate.end_round(round, done.is_err());
            match done {
                // There may be more.
                Ok(true) => {
                    gate.request_scan();
                    continue;
                }
                Ok(false) => {}
                Err(_) => sleep(PAUSE).await,
            }
            let announced = async {
                tokio::select! {
                    () = self.source.announced() => {}
                    () = gate.round_requested() => {}
                }
            };
            let _ = timeout(PERIOD, announced).await;
        }
    }

    /// Closes the store to others and ingests everything that they have left.
    ///
    /// # Errors
    /// Something could not be ingested; the store stays closed until it is opened again.
    pub async fn close(mut self) -> Result<(), ApiError> {
        self.source.close_to_others().await?;
        // By then, what the log has is out of the outbox.
        self.env.applied.wait_for(self.env.log.head()).await?;
        while self.round().await? {}
        Ok(())
    }

    /// Ingests the oldest rows in the outbox; returns whether there were any.
    async fn round(&mut self) -> Result<bool, ApiError> {
        self.note_what_is_left();
        let limits = BatchLimits {
            max_rows: self.max_rows,
            max_bytes: MAX_BYTES,
        };
        let mut transactions = self.source.load(limits).await?;
        transactions.retain(|it| !self.taken.contains_key(&key_of(&it.source)));
        if transactions.is_empty() {
            self.max_rows = MAX_ROWS;
            return Ok(false);
        }
        // Before the first of it becomes visible: a request that sees it then waits for the rest.
        self.env.captured.set_active();
        for transaction in &transactions {
            if !self.take(transaction).await? {
                break;
            }
        }
        // The store removes the rows from the outbox when it applies the events. If a lock keeps it
        // from that, what follows goes into the log all the same.
        let last = self.taken.values().max().copied().unwrap_or_default();
        let applied = self.env.applied.going_on_if_locked();
        applied.wait_for(last).await?;
        self.note_what_is_left();
        Ok(true)
    }

    /// Forgets what has left the outbox, and notes what is still in it although the log has it.
    fn note_what_is_left(&mut self) {
        let applied = self.env.applied.position();
        self.taken.retain(|_, position| *position > applied);
        let in_log = self
            .taken
            .keys()
            .map(|(number, until, _)| (*number, *until));
        self.env.captured.set_in_log(in_log.collect());
    }

    /// Ingests a transaction into the log; returns whether the next one may follow.
    async fn take(&mut self, transaction: &CapturedTransaction) -> Result<bool, ApiError> {
        let source = &transaction.source;
        let taken = retry_on_conflict(None, |number| self.attempt(transaction, number)).await;
        match taken {
            Ok(Taken::Committed(position, num_parked)) => {
                self.taken.insert(key_of(source), position);
                self.env.captured.count(1, num_parked);
                Ok(true)
            }
            Ok(Taken::Nothing(num_parked)) => {
                self.env.captured.count(1, num_parked);
                Ok(true)
            }
            Err(error) if error.code == Code::InvalidArgument && self.max_rows > 1 => {
                // Too large for one commit: read fewer rows at once. The outbox has at least as
                // many rows for it.
                self.max_rows = self.max_rows.min(transaction.rows.len().max(2)) / 2;
                Ok(false)
            }
            Err(error) if error.code == Code::InvalidArgument => {
                let rows = transaction.rows.iter();
                let rows: Vec<Parked> = rows
                    .map(|row| parked(row, error.message.to_string()))
                    .collect();
                self.park(source, &rows).await?;
                self.source.discard(source, (&[], 0)).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    async fn attempt(
        &self,
        transaction: &CapturedTransaction,
        number: u32,
    ) -> Result<Attempt<Taken>, ApiError> {
        let source = &transaction.source;
        if number > 0 {
            // The attempt before may have parked what can be ingested now.
            let numbers = transaction.rows.iter().map(|row| row.number);
            let selector = ParkedSelector::These(numbers.collect());
            self.source.discard_parked(&selector).await?;
        }
        let ids: Vec<RecordId> = transaction
            .rows
            .iter()
            .filter_map(|row| row.id.clone())
            .collect();
        let (position, heads) = self.load_heads(&ids, &transaction.rows).await?;
        let mut deciding = Deciding {
            env: &self.env,
            position,
            heads,
            plan: Plan::default(),
            parked: Vec::new(),
        };
        for row in &transaction.rows {
            deciding.row(row).await?;
        }
        let Deciding {
            mut plan, parked, ..
        } = deciding;
        // Also those that stay as they are: the projector finds their rows in the outbox meanwhile.
        plan.reads.extend(ids.iter().map(ConflictKey::record));
        if plan.events.is_empty() || parked.iter().any(|row| row.stray.is_some()) {
            // A row that leaves the outbox or its table without a commit may belong to a record for
            // which the store still has something to apply. It would find no row, and not know why.
            self.env.applied.wait_for(position).await?;
        }
        if !parked.is_empty() {
            // Before the commit, because the rows leave the outbox with it.
            self.park(source, &parked).await?;
        }
        if plan.events.is_empty() {
            let is_done = self.source.discard(source, (&ids, position)).await?;
            return Ok(match is_done {
                true => Attempt::Done(Taken::Nothing(parked.len())),
                false => Attempt::Conflict,
            });
        }
        let committed = self.append(plan, position, Some(source)).await?;
        Ok(committed.map(|position| Taken::Committed(position, parked.len())))
    }

    /// Loads the log's versions of the records, because their rows cannot be trusted.
    async fn load_heads(
        &self,
        ids: &[RecordId],
        rows: &[CapturedRow],
    ) -> Result<(u64, HashMap<RecordId, Arc<Head>>), ApiError> {
        let cached = self.env.model.get_heads(ids);
        let mut heads = HashMap::new();
        let mut missing = Vec::new();
        for (id, head) in ids.iter().zip(cached.heads) {
            match head {
                Some(Some(head)) => drop(heads.insert(id.clone(), head)),
                Some(None) => {}
                None => missing.push(id.clone()),
            }
        }
        let loaded = self.env.load_each_from_log(&missing, cached.position);
        let by_id = rows
            .iter()
            .rev()
            .filter_map(|row| Some((row.id.as_ref()?, row)));
        let by_id: HashMap<&RecordId, &CapturedRow> = by_id.collect();
        for (id, head) in missing.iter().zip(loaded.await?) {
            if let Some(head) = head {
                let head = with_numbers(head, by_id.get(id).copied());
                heads.insert(id.clone(), Arc::new(head));
            }
        }
        Ok((cached.position, heads))
    }

    async fn append(
        &self,
        plan: Plan,
        read_position: u64,
        source: Option<&SqlSource>,
    ) -> Result<Attempt<u64>, ApiError> {
        let decision = Decision {
            commit: NewCommit {
                id: Uuid::now_v7(),
                actor: Actor {
                    key: KeyKind::None,
                    origin: Origin::Sql,
                    ..Actor::default()
                },
                request_id: None,
                causation: None,
                sql: source.cloned().map(Box::new),
                events: plan.events,
            },
            read_position,
            reads: plan.reads.into_iter().collect(),
            writes: plan.writes.into_iter().collect(),
            sequences: plan.sequences,
        };
        match self.env.log.append(decision).await {
            Ok(commit) => Ok(Attempt::Done(commit.last_position())),
            Err(AppendError::Conflict { .. }) => Ok(Attempt::Conflict),
            Err(error) => Err(error.into()),
        }
    }

    async fn park(&self, source: &SqlSource, rows: &[Parked]) -> Result<(), ApiError> {
        for row in rows {
            tracing::warn!(
                role = source.role,
                transaction = source.transaction,
                number = row.number,
                reason = row.reason,
                "a row changed by SQL was parked"
            );
        }
        Ok(self.source.park(source, rows).await?)
    }

    /// Makes sure that others' writes are captured, and learns the constraints that others have
    /// set.
    async fn look_at_tables(&self) -> Result<(), ApiError> {
        let uncaptured = self.source.restore_triggers().await?;
        self.env.captured.set_uncaptured(&uncaptured);
        self.learn_unique_sets().await
    }

    /// Makes fields unique that are unique in the database, so that later saves are refused before
    /// they are in the log.
    async fn learn_unique_sets(&self) -> Result<(), ApiError> {
        retry_on_conflict(None, |_| async {
            // Before the constraints are read: one may be dropped and its set withdrawn meanwhile.
            let position = self.env.model.position();
            for (name, fields) in self.source.unique_sets().await? {
                let learned = self.learn_unique(&name, &fields, position).await?;
                if matches!(learned, Attempt::Conflict) {
                    return Ok(learned);
                }
            }
            Ok(Attempt::Done(()))
        })
        .await
    }

    async fn learn_unique(
        &self,
        name: &TypeName,
        fields: &[String],
        position: u64,
    ) -> Result<Attempt<()>, ApiError> {
        let definition = self.env.definition(name);
        let mut declared = definition.unique.iter();
        if !definition.is_created || declared.any(|set| unique::are_same(set, fields)) {
            return Ok(Attempt::Done(()));
        }
        let extension = TypeExtension {
            unique: vec![fields.to_vec()],
            ..TypeExtension::default()
        };
        let mut plan = Plan::default();
        plan.change_type(&definition, EventBody::TypeExtended(extension));
        tracing::info!(record_type = %name, ?fields, "a constraint in the database makes fields unique");
        let done = self.append(plan, position, None).await?;
        Ok(done.discard())
    }
}

/// Looks into the outbox for waiting requests, without end.
async fn scan(gate: CaptureGate, source: Arc<dyn CaptureSource>) {
    loop {
        let scan = gate.begin_scan();
        let found = source.scan(&gate.in_log()).await;
        gate.end_scan(scan, found.ok());
        // A request that waits for what was found waits for another scan.
        let _ = timeout(PERIOD, gate.scan_requested()).await;
    }
}

/// The outcome of a transaction.
enum Taken {
    /// It is in the log at this position, except for this many parked rows.
    Committed(u64, usize),
    /// Nothing in it changes a record; this many rows are parked.
    Nothing(usize),
}

/// A transaction that is being decided.
struct Deciding<'a> {
    env: &'a RecordEnv,
    position: u64,
    heads: HashMap<RecordId, Arc<Head>>,
    plan: Plan,
    parked: Vec<Parked>,
}

impl Deciding<'_> {
    async fn row(&mut self, row: &CapturedRow) -> Result<(), ApiError> {
        let id = row.id.as_ref();
        let head = id.and_then(|id| self.heads.get(id)).cloned();
        let refused = match &row.change {
            Err(reason) => Some(reason.clone()),
            Ok(change) => self.change(id, change, head.clone()).await?,
        };
        if let Some(reason) = refused {
            let stray = id.filter(|_| head.is_none());
            self.parked.push(Parked {
                stray: stray.map(|id| (id.clone(), self.position)),
                ..parked(row, reason)
            });
            if let Some(head) = head {
                self.restore(head).await?;
            }
        } else if !row.excess.is_empty() {
            let reason = format!("no field has the columns {}", row.excess.join(", "));
            self.parked.push(Parked {
                columns: row.excess.clone(),
                ..parked(row, reason)
            });
        }
        Ok(())
    }

    /// Plans a change; returns the reason if it is not possible.
    async fn change(
        &mut self,
        id: Option<&RecordId>,
        change: &RowChange,
        head: Option<Arc<Head>>,
    ) -> Result<Option<String>, ApiError> {
        let outcome = match (change, head) {
            (RowChange::Made(row), head) => decide::made(row, head),
            (
                RowChange::Changed {
                    row,
                    columns,
                    is_hidden,
                },
                Some(head),
            ) => decide::changed(row, (columns, *is_hidden), head),
            (RowChange::Changed { .. }, None) => {
                return Ok(Some("the record has been deleted".to_owned()));
            }
            (RowChange::Hidden, Some(head)) => {
                self.restore(head).await?;
                return Ok(None);
            }
            (RowChange::Hidden, None) => return Ok(None),
            (RowChange::Deleted, Some(head)) => return self.delete(&head).await,
            (RowChange::Deleted, None) => return Ok(None),
        };
        debug_assert!(id.is_some(), "a change must belong to a record");
        self.save(outcome).await
    }

    async fn save(&mut self, outcome: Outcome) -> Result<Option<String>, ApiError> {
        let Outcome {
            mut draft,
            is_whole,
        } = outcome;
        let fields = std::iter::once(&mut draft.record.fields);
        self.env.assets.complete(fields).await?;
        let definition = self.env.definition(&draft.record.id.record_type);
        let inputs = self.load_inputs(&draft).await?;
        let planned = if is_whole {
            self.plan.save_whole(&draft, &definition, &inputs)
        } else {
            self.plan.save(&draft, &definition, &inputs)
        };
        Ok(planned.err().map(|error| error.message.to_string()))
    }

    /// Looks up what a save looks up, except that unique values count for the records that have
    /// them in the log: rows that are captured themselves do not count.
    async fn load_inputs(&self, draft: &Draft) -> Result<DecisionInputs, ApiError> {
        let heads = crate::record::env::Heads {
            position: self.position,
            by_id: HashMap::new(),
        };
        let drafts = vec![Ok(draft.clone())];
        let mut inputs = load_inputs(self.env, &drafts, &heads).await?;
        inputs.owners.clear();
        let id = &draft.record.id;
        let definition = self.env.definition(&id.record_type);
        for (value, fields) in new_unique_values(draft, &definition) {
            let values: Vec<_> = fields
                .iter()
                .filter_map(|field| Some((*field, UniqueValue::part(&draft.record, field)?)))
                .collect();
            let values: Vec<_> = values.iter().map(|(field, it)| (*field, it)).collect();
            self.env.applied.wait_for(self.position).await?;
            let found = self.env.store.list_by_fields(&definition, &values, &id.key);
            let others = found.await?.into_iter().map(|key| RecordId {
                record_type: id.record_type.clone(),
                key,
            });
            let others: Vec<RecordId> = others.collect();
            for (other, head) in self.env.load_heads(&others).await?.by_id {
                let mut had = UniqueValue::of(&head.record, &definition).into_iter();
                if had.any(|(theirs, _)| theirs == value) {
                    inputs.owners.insert(value.clone(), other);
                }
            }
        }
        Ok(inputs)
    }

    async fn delete(&mut self, head: &Head) -> Result<Option<String>, ApiError> {
        let id = &head.record.id;
        if id.record_type.is_user() {
            return Ok(Some("users cannot be deleted by SQL".to_owned()));
        }
        if let Some(other) = find_referrer(self.env, id, self.position).await? {
            return Ok(Some(format!("{other} refers to it")));
        }
        let definition = self.env.definition(&id.record_type);
        self.plan
            .delete(head, &definition, self.env.clock.now(), None);
        Ok(None)
    }

    /// Stores a record again whose row says something else.
    async fn restore(&mut self, head: Arc<Head>) -> Result<(), ApiError> {
        let id = head.record.id.clone();
        if let Some(reason) = self.save(decide::restored(head)).await? {
            tracing::warn!(%id, reason, "a record could not be stored again unchanged");
        }
        Ok(())
    }
}

fn parked(row: &CapturedRow, reason: String) -> Parked {
    Parked {
        first: row.first,
        number: row.number,
        reason,
        columns: Vec::new(),
        stray: None,
    }
}

/// Adds the numbers that old records got when their type got a sequence field: they are not in the
/// log.
fn with_numbers(mut head: Head, row: Option<&CapturedRow>) -> Head {
    for (field, number) in row.iter().flat_map(|row| &row.numbered) {
        if !head.record.fields.contains_key(field) {
            head.record.fields.insert(field.clone(), number.clone());
        }
    }
    head
}
