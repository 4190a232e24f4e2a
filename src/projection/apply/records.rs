//! Folds the record events of a batch per record, and writes them by a few statements.
//!
//! Nobody sees the states between two batches, so several events of one record become one row
//! change. It is different if the store keeps what the type's records were: then the row that a
//! change replaces is first written to another table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::projection::conn::Conn;
use skytrail_schema::event::{Event, EventBody, RecordPatch, RecordState};
use skytrail_schema::id::{RecordId, RecordKey};

use super::row::{self, FieldMismatch, Pending, set_cells};
use super::texts::{Shape, Texts, in_chunks};
use super::{ApplyError, past, room};
use crate::projection::captured::{self, Effect, Touched};
use crate::projection::layout::{Table, TypeLayout};
use crate::projection::read;
use crate::projection::sql::Arg;

/// How many records one statement writes.
const SIZES: &[usize] = &[64, 16, 4, 1];

/// What a batch does to the records of one type.
struct TypeBatch {
    layout: Arc<TypeLayout>,
    records: HashMap<RecordKey, Pending>,
    /// The highest number assigned to each sequence field.
    sequences: BTreeMap<String, i64>,
}

/// What a batch does to records.
#[derive(Default)]
pub(super) struct RecordBatch {
    types: BTreeMap<i64, TypeBatch>,
    /// The rows that were written, where other programs can write as well.
    pub(super) touched: Touched,
}

impl RecordBatch {
    /// Begins after others have written these rows.
    pub(super) fn after(touched: Touched) -> Self {
        Self {
            touched,
            ..Self::default()
        }
    }

    /// Returns whether an event of the record is pending whose state must be written before the
    /// next one.
    pub(super) fn must_flush(&self, layout: &TypeLayout, id: &RecordId) -> bool {
        layout.definition.intervals_since.is_some()
            && (self.types.get(&layout.id)).is_some_and(|it| it.records.contains_key(&id.key))
    }

    /// Adds an event; returns the parts of it that do not fit. A row that it creates gets the
    /// place, if there is one.
    pub(super) fn add(
        &mut self,
        layout: &Arc<TypeLayout>,
        id: &RecordId,
        (event, place): (&Event, Option<u64>),
    ) -> Result<Vec<FieldMismatch>, ApplyError> {
        let Some(table) = &layout.table else {
            return Err(ApplyError::fault(format!("no type {}", id.record_type)));
        };
        let batch = self.types.entry(layout.id).or_insert_with(|| TypeBatch {
            layout: Arc::clone(layout),
            records: HashMap::new(),
            sequences: BTreeMap::new(),
        });
        match &event.body {
            EventBody::RecordCreated(state) => Ok(batch.put(table, id, event, (state, true))),
            EventBody::RecordReplaced(state) => {
                let is_new = place.is_some();
                let misfits = batch.put(table, id, event, (state, is_new));
                batch.put_at(id, place);
                Ok(misfits)
            }
            EventBody::RecordChanged(patch) => batch.patch(table, id, event, patch),
            EventBody::RecordDeleted(_) => batch.delete(id, event.position),
            _ => Err(ApplyError::fault("not an event of a record")),
        }
    }

    /// Writes and removes everything.
    pub(super) async fn flush(
        &mut self,
        conn: &mut Conn<'_>,
        texts: &mut Texts,
    ) -> Result<(), ApplyError> {
        for (_, batch) in std::mem::take(&mut self.types) {
            let table = batch.layout.table.as_ref();
            if let Some(table) = table.filter(|table| !table.dialect.is_sqlite()) {
                let touched = self.touched.entry(table.name.clone()).or_default();
                let rows = batch.records.iter();
                let rows = rows.map(|(key, pending)| (key.clone(), effect_of(pending)));
                captured::add_effects(touched, rows);
            }
            batch.flush(conn, texts).await?;
        }
        Ok(())
    }
}

fn effect_of(pending: &Pending) -> Effect {
    match pending {
        Pending::Whole { is_new: true, .. } => Effect::Created,
        Pending::Whole { is_new: false, .. } | Pending::Patch(_) => Effect::Kept,
        Pending::Gone { .. } => Effect::Deleted,
    }
}

impl TypeBatch {
    fn put(
        &mut self,
        table: &Table,
        id: &RecordId,
        event: &Event,
        (state, is_created): (&RecordState, bool),
    ) -> Vec<FieldMismatch> {
        let (mut row, misfits) = row::whole_row(table, &id.key, event, state);
        let mut is_new = is_created;
        if !is_created {
            match self.records.get(&id.key) {
                Some(Pending::Gone { .. }) => is_new = true,
                // The row keeps the place that its first event has given it.
                Some(Pending::Whole {
                    row: before,
                    is_new: was_new,
                }) => {
                    is_new = *was_new;
                    if let Some(first) = before.first() {
                        set_cells(&mut row, [(0, first.clone())]);
                    }
                }
                Some(Pending::Patch(_)) | None => {}
            }
        }
        self.records
            .insert(id.key.clone(), Pending::Whole { row, is_new });
        self.note_sequences(&state.fields);
        misfits
    }

    /// Gives a row that was just added another place, if there is one.
    fn put_at(&mut self, id: &RecordId, place: Option<u64>) {
        if let Some(place) = place
            && let Some(Pending::Whole { row, .. }) = self.records.get_mut(&id.key)
        {
            set_cells(row, [(0, Arg::unsigned(place))]);
        }
    }

    fn patch(
        &mut self,
        table: &Table,
        id: &RecordId,
        event: &Event,
        patch: &RecordPatch,
    ) -> Result<Vec<FieldMismatch>, ApplyError> {
        let (changes, misfits) = row::patch_row(table, event, patch);
        match self.records.get_mut(&id.key) {
            Some(Pending::Whole { row, .. }) => set_cells(row, changes),
            Some(Pending::Patch(before)) => before.extend(changes),
            Some(Pending::Gone { .. }) => {
                return Err(ApplyError::fault("the record is deleted"));
            }
            None => {
                self.records.insert(id.key.clone(), Pending::Patch(changes));
            }
        }
        self.note_sequences(&patch.set);
        Ok(misfits)
    }

    fn delete(&mut self, id: &RecordId, position: u64) -> Result<Vec<FieldMismatch>, ApplyError> {
        // A record created within the batch may have had a row before the batch.
        let is_counted = match self.records.get(&id.key) {
            Some(Pending::Gone { .. }) => return Err(ApplyError::fault("the record is deleted")),
            Some(Pending::Whole { .. }) => false,
            Some(Pending::Patch(_)) | None => true,
        };
        let gone = Pending::Gone {
            is_counted,
            position,
        };
        self.records.insert(id.key.clone(), gone);
        Ok(Vec::new())
    }

    fn note_sequences(&mut self, fields: &BTreeMap<String, serde_json::Value>) {
        for field in self.layout.definition.sequence_fields() {
            let number = fields.get(field).and_then(serde_json::Value::as_f64);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "saturates; numbers are below 2^53"
            )]
            if let Some(number) = number.map(|number| number as i64) {
                let last = self.sequences.entry(field.to_owned()).or_default();
                *last = number.max(*last);
            }
        }
    }

    async fn flush(self, conn: &mut Conn<'_>, texts: &mut Texts) -> Result<(), ApplyError> {
        let Some(table) = &self.layout.table else {
            return Ok(());
        };
        let id = self.layout.id;
        if let Some(past) = self.layout.past() {
            past::keep(conn, (table, &past), &self.records).await?;
        }
        for group in into_groups(self.records) {
            group.write(conn, texts, (id, table)).await?;
        }
        let sequences = self.sequences.into_iter();
        for (field, last) in sequences.filter(|(field, _)| self.layout.is_sequence(field)) {
            super::settings::raise_sequence(conn, id, &field, last).await?;
        }
        Ok(())
    }
}

/// Rows that the same statement writes.
struct Group {
    shape: Shape,
    /// Whether each row must have existed.
    must_exist: bool,
    rows: Vec<Vec<Arg>>,
}

/// Returns whether the outbox has at least as many of the rows as are missing. SQL of other
/// programs may have deleted these: their own events follow, or this is one of them.
async fn are_captured(
    conn: &mut Conn<'_>,
    table: &Table,
    keys: &[RecordKey],
    num_changed: u64,
) -> Result<bool, ApplyError> {
    if conn.dialect().is_sqlite() {
        return Ok(false);
    }
    let found = captured::find(conn, &table.name, keys).await?.len() as u64;
    Ok(num_changed + found >= keys.len() as u64)
}

/// Groups what happens to the records by statement.
fn into_groups(records: HashMap<RecordKey, Pending>) -> impl Iterator<Item = Group> {
    let mut groups: BTreeMap<(Shape, bool), Vec<Vec<Arg>>> = BTreeMap::new();
    for (key, pending) in records {
        let key_arg = Arg::text(key.as_str());
        let (shape, must_exist, row) = match pending {
            Pending::Gone { is_counted, .. } => (Shape::Delete, is_counted, vec![key_arg]),
            Pending::Whole { row, is_new: true } => (Shape::Insert, false, row),
            Pending::Whole { row, is_new: false } => (Shape::Replace, false, row),
            Pending::Patch(changes) => {
                let (places, mut args): (Vec<usize>, Vec<Arg>) = changes.into_iter().unzip();
                args.push(key_arg);
                (Shape::Patch(places), true, args)
            }
        };
        groups.entry((shape, must_exist)).or_default().push(row);
    }
    groups.into_iter().map(|((shape, must_exist), rows)| Group {
        shape,
        must_exist,
        rows,
    })
}

impl Group {
    /// Returns whether rows differ from what the statement should have left: a trigger or a rule of
    /// another program suppresses them silently.
    async fn is_kept_back(
        &self,
        conn: &mut Conn<'_>,
        table: &Table,
        (keys, num_changed): (&[RecordKey], u64),
    ) -> Result<bool, ApplyError> {
        if table.dialect.is_sqlite() {
            return Ok(false);
        }
        Ok(match self.shape {
            Shape::Insert | Shape::Replace => true,
            Shape::Delete => read::count_keys(conn, table, keys).await? > 0,
            Shape::Patch(_) => read::count_keys(conn, table, keys).await? > num_changed,
        })
    }

    async fn write(
        mut self,
        conn: &mut Conn<'_>,
        texts: &mut Texts,
        (id, table): (i64, &Table),
    ) -> Result<(), ApplyError> {
        // New rows go to the end of the table, in order.
        if matches!(self.shape, Shape::Insert | Shape::Replace) {
            self.rows.sort_by_key(|row| match row.first() {
                Some(Arg::Int(position)) => *position,
                _ => 0,
            });
        }
        let has_key_last = matches!(self.shape, Shape::Delete | Shape::Patch(_));
        let rows = std::mem::take(&mut self.rows);
        let width = rows.first().map_or(1, Vec::len);
        for chunk in in_chunks(rows, SIZES, width) {
            let num_rows = chunk.len();
            let text = texts.get(id, table, &self.shape, num_rows);
            let keys = chunk.iter().filter_map(|row| match row.last() {
                Some(Arg::Text(key)) if has_key_last => Some(RecordKey::from(key.as_str())),
                _ => None,
            });
            let keys: Vec<RecordKey> = keys.collect();
            let args: Vec<Arg> = chunk.into_iter().flatten().collect();
            let changed = text.execute(conn, args).await?;
            let is_short = changed != u64::try_from(num_rows).unwrap_or(u64::MAX);
            if is_short && self.is_kept_back(conn, table, (&keys, changed)).await? {
                return Err(room::kept_back(conn, table).await);
            }
            if self.must_exist && is_short && !are_captured(conn, table, &keys, changed).await? {
                return Err(ApplyError::fault("the record does not exist"));
            }
        }
        Ok(())
    }
}
