//! What a captured row changes in the record that the log has. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::record::{Head, Record};
use skytrail_schema::value::Value;

use crate::record::draft::Draft;

/// A draft, and whether only a full state can express what it changes.
pub(super) struct Outcome {
    pub(super) draft: Draft,
    pub(super) is_whole: bool,
}

/// Makes the draft for a row that was inserted. If the log already has such a record, the row
/// replaces its state.
pub(super) fn made(row: &Record, head: Option<Arc<Head>>) -> Outcome {
    let mut record = row.clone();
    let Some(head) = head else {
        return outcome(record, None, false);
    };
    for name in head.record.fields.keys() {
        if !record.fields.contains_key(name) {
            record.fields.insert(name.clone(), Value::Null);
        }
    }
    outcome(record, Some(head), true)
}

/// Makes the draft for a row in which these columns were changed, and possibly also something that
/// no record can hold.
pub(super) fn changed(
    row: &Record,
    (columns, is_hidden): (&BTreeSet<String>, bool),
    head: Arc<Head>,
) -> Outcome {
    let mut record = head.record.clone();
    let mut is_whole = is_hidden;
    for column in columns {
        match column.as_str() {
            "_access" => {
                // A patch cannot say that the list is gone, or that it was set to what it was.
                is_whole |= row.access.is_none() || row.access == record.access;
                record.access.clone_from(&row.access);
            }
            "_updated_at" => record.updated_at = row.updated_at,
            "_updated_by" => record.updated_by.clone_from(&row.updated_by),
            "_owner_id" => {
                record.owner.clone_from(&row.owner);
                is_whole = true;
            }
            "_database_id" => {
                record.database.clone_from(&row.database);
                is_whole = true;
            }
            "_created_at" => {
                record.created_at = row.created_at;
                is_whole = true;
            }
            "_created_by" => {
                record.created_by.clone_from(&row.created_by);
                is_whole = true;
            }
            field => {
                let value = row.fields.get(field).unwrap_or(&Value::Null);
                let before = record.fields.insert(field.to_owned(), value.clone());
                // The value is the same, but the column has a different text.
                is_whole |= before.as_ref().unwrap_or(&Value::Null) == value;
            }
        }
    }
    outcome(record, Some(head), is_whole)
}

/// Makes the draft that stores a record again as it is.
pub(super) fn restored(head: Arc<Head>) -> Outcome {
    outcome(head.record.clone(), Some(head), true)
}

fn outcome(record: Record, original: Option<Arc<Head>>, is_whole: bool) -> Outcome {
    let draft = Draft {
        record,
        original,
        provenance: Vec::new(),
        left_out: Default::default(),
    };
    Outcome { draft, is_whole }
}
