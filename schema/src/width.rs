//! Limits on the width of a type's table and a record's row: everything that is acknowledged must
//! fit into every store. Pure.
//!
//! A table has at most 2,000 columns in SQLite and 1,600 in PostgreSQL, and a row must fit into a
//! page in PostgreSQL: 8,160 bytes, including its header. Long values are moved out of a row, but
//! each leaves some bytes behind, and a number stays where it is.
//!
//! The widths computed here are the worst case for PostgreSQL, for any order of the columns. A test
//! there checks rows at the limit.

use crate::code::{ApiError, Code};
use crate::id::Database;
use crate::record::Record;
use crate::types::{FieldType, TypeDefinition};
use crate::value::Value;

/// How many columns the fields of a type may take, see [`num_columns`].
///
/// Of PostgreSQL's 1,600, the system uses 11, and the table of past versions has one more. SQLite
/// computes two columns from others, but its limit leaves more room. A deleted field counts in
/// PostgreSQL until the table is rebuilt: the remaining columns are for those.
pub const MAX_COLUMNS: usize = 1500;

/// How many sequence fields a type may have. One thread assigns the numbers of all records, and
/// looks up the last one of each field.
pub const MAX_SEQUENCES: usize = 32;

/// How many bytes a record's values may take in a row.
///
/// Of a page's 8,160 bytes, 224 are for a row's header with a bit for each of 1,600 columns, and
/// 231 for the system's columns. These are six strings or JSON values of 24 bytes with up to 3
/// bytes of padding each, and six values of 8 bytes, three of them with up to 7 bytes of padding.
/// The rest above this limit is for sequence fields that are added later.
pub const MAX_BYTES: usize = 7600;

/// The maximum length in bytes of a record's key, its owner's id and the id of a private database's
/// user together.
///
/// They form one index key in PostgreSQL. An index entry can have 2,704 bytes, including overhead:
/// 8 for the entry, up to 4 for the length of each string, and 3 between them.
pub const MAX_KEY_BYTES: usize = 2600;

/// The most bytes that a value takes in a row if it can be moved out of it.
///
/// A value of up to 24 bytes, including its length, stays where it is. A longer one leaves 18
/// bytes, unless it could be compressed to at most 24.
const LONG: usize = 24;

/// Returns how many columns a field takes. A file has one more for its media type, and a caseless
/// string one more for the form that is compared.
pub fn num_columns(field: &FieldType) -> usize {
    match field {
        FieldType::Asset | FieldType::CaselessString => 2,
        _ => 1,
    }
}

/// Refuses new fields for which the type's table has no columns left.
///
/// # Errors
/// 114.
pub fn check_fields<'a>(
    definition: &'a TypeDefinition,
    added: impl Iterator<Item = &'a FieldType>,
) -> Result<(), ApiError> {
    let added: Vec<_> = added.collect();
    // Types of earlier builds can have more; they stay as they are.
    if added.is_empty() {
        return Ok(());
    }
    let refused = |limit: String| {
        let message = format!("type {} would have too many {limit}", definition.name);
        Err(ApiError::new(Code::IncompatibleSchema, message))
    };
    let all = || definition.fields.values().chain(added.iter().copied());
    if all().map(num_columns).sum::<usize>() > MAX_COLUMNS {
        return refused(format!(
            "fields: at most {MAX_COLUMNS}, and a file counts as two"
        ));
    }
    let is_sequence = |field: &&FieldType| **field == FieldType::Sequence;
    if added.iter().any(is_sequence) && all().filter(is_sequence).count() > MAX_SEQUENCES {
        return refused(format!("sequence fields: at most {MAX_SEQUENCES}"));
    }
    Ok(())
}

/// Refuses a record whose key is too long for an index together with the ids of its owner and of
/// its private database's user.
///
/// # Errors
/// 108.
pub fn check_key(record: &Record) -> Result<(), ApiError> {
    let private = match &record.database {
        Database::Private(user) => user.as_str().len(),
        Database::Public => 0,
    };
    let owner = record.owner.as_ref().map_or(0, |user| user.as_str().len());
    if record.id.key.as_str().len() + private + owner <= MAX_KEY_BYTES {
        return Ok(());
    }
    let message = format!(
        "failed to save {}: its key, owner and database have more than {MAX_KEY_BYTES} bytes",
        record.id
    );
    Err(ApiError::new(Code::InvalidArgument, message))
}

/// Refuses a record that does not fit into a row.
///
/// A record that was at least as wide before may still be saved: a store has it already, and the
/// save may be part of a user's login.
///
/// # Errors
/// 108.
pub fn check_row(
    record: &Record,
    before: Option<&Record>,
    definition: &TypeDefinition,
) -> Result<(), ApiError> {
    let width = width_of(record, definition);
    if width <= MAX_BYTES || before.is_some_and(|before| width <= width_of(before, definition)) {
        return Ok(());
    }
    let message = format!(
        "failed to save {}: it has too many values for a row, which holds about 900 numbers or \
         300 texts",
        record.id
    );
    Err(ApiError::new(Code::InvalidArgument, message))
}

/// Returns how many bytes a record's values take in a row, in the worst case.
pub fn width_of(record: &Record, definition: &TypeDefinition) -> usize {
    let mut row = Row::default();
    for (name, value) in &record.fields {
        row.add(value, definition.fields.get(name));
    }
    // Sequence fields get their numbers after everything else is decided.
    let has_none = |field: &&str| record.fields.get(*field).is_none_or(Value::is_null);
    let unnumbered = definition.sequence_fields().filter(has_none).count();
    row.num_words += unnumbered;
    row.num_bytes += 8 * unnumbered;
    row.width()
}

/// The values of a row, counted by alignment.
#[derive(Default)]
struct Row {
    num_bytes: usize,
    /// Aligned to 8 bytes.
    num_words: usize,
    /// Aligned to 4 bytes, if compressed.
    num_long: usize,
    /// Not aligned.
    num_others: usize,
}

impl Row {
    fn add(&mut self, value: &Value, field: Option<&FieldType>) {
        match value {
            Value::Null | Value::Sequence | Value::Unknown(_) => {}
            Value::Bool(_) => {
                self.num_others += 1;
                self.num_bytes += 1;
            }
            Value::Number(_) | Value::Date(_) => {
                self.num_words += 1;
                self.num_bytes += 8;
            }
            // A point takes 16 bytes; a PostGIS geometry 29, or 18 when it is moved out of the row.
            Value::Location(_) => {
                self.num_words += 1;
                self.num_bytes += 18;
            }
            Value::String(text) if field == Some(&FieldType::CaselessString) => {
                self.add_text(text);
                // The folded form can be longer.
                self.add_long();
            }
            Value::String(text) => self.add_text(text),
            Value::Reference(id) => self.add_text(id.key.as_str()),
            Value::Asset(asset) => {
                self.add_text(&asset.name);
                self.add_text(asset.content_type.as_deref().unwrap_or_default());
            }
            Value::Json(_) | Value::Geometry(_) => self.add_long(),
        }
    }

    fn add_text(&mut self, text: &str) {
        // Two control characters are escaped as two characters each, because PostgreSQL has no NUL.
        let escaped = text.bytes().filter(|byte| *byte < 2).count();
        let size = text.len() + escaped + 1;
        if size > LONG {
            self.add_long();
        } else {
            self.num_others += 1;
            self.num_bytes += size;
        }
    }

    fn add_long(&mut self) {
        self.num_long += 1;
        self.num_bytes += LONG;
    }

    /// Returns the width with the maximum padding: padding occurs only where an aligned value
    /// follows one that can end at any byte.
    fn width(&self) -> usize {
        let before_words = self.num_words.min(self.num_others + self.num_long + 1);
        let before_long = self.num_long.min(self.num_others + 1);
        self.num_bytes + 7 * before_words + 3 * before_long
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::{RecordId, TypeName};
    use crate::time::Timestamp;

    fn record(values: impl IntoIterator<Item = Value>) -> Record {
        let now = Timestamp::from_micros(0);
        let fields = values.into_iter().enumerate();
        Record {
            id: RecordId::new(TypeName::new("note"), "1"),
            database: Database::Public,
            owner: None,
            access: None,
            created_at: now,
            created_by: None,
            updated_at: now,
            updated_by: None,
            fields: fields.map(|(n, value)| (n.to_string(), value)).collect(),
        }
    }

    fn note() -> TypeDefinition {
        TypeDefinition::empty(TypeName::new("note"))
    }

    fn width(values: impl IntoIterator<Item = Value>) -> usize {
        width_of(&record(values), &note())
    }

    #[test]
    fn values_take_what_they_leave_in_the_row() {
        let text = |length| Value::String("x".repeat(length));
        assert_eq!(width([]), 0);
        assert_eq!(width([Value::Null]), 0);
        assert_eq!(width([text(0)]), 1);
        assert_eq!(width([text(23)]), 24);
        assert_eq!(width([text(24)]), 24 + 3);
        assert_eq!(width([text(1_000_000)]), 24 + 3);
        assert_eq!(width([Value::String("\0\u{1}".to_owned())]), 5);
        let number = || Value::Number(1.0);
        assert_eq!(width([number(), number()]), 16 + 7);
        assert_eq!(width([number(), Value::Bool(true), number()]), 17 + 14);
        assert_eq!(width([Value::Json(json!({}))]), 24 + 3);
    }

    #[test]
    fn a_key_counts_with_whom_its_record_belongs_to() {
        let mut record = record([]);
        record.id = RecordId::new(TypeName::new("note"), "k".repeat(1024));
        record.owner = Some("o".repeat(1024).as_str().into());
        assert!(check_key(&record).is_ok());
        record.database = Database::Private("p".repeat(552).as_str().into());
        assert!(check_key(&record).is_ok());
        record.database = Database::Private("p".repeat(553).as_str().into());
        assert!(check_key(&record).is_err());
    }

    #[test]
    fn a_record_may_stay_as_wide_as_it_is() {
        let numbers = |number| record(std::iter::repeat_n(Value::Number(1.0), number));
        let check = |number, before: Option<usize>| {
            let before = before.map(numbers);
            check_row(&numbers(number), before.as_ref(), &note()).is_ok()
        };
        assert!(check(900, None));
        assert!(!check(1000, None));
        assert!(!check(1000, Some(900)));
        assert!(check(1100, Some(1100)));
        assert!(check(1000, Some(1100)));
        assert!(!check(1101, Some(1100)));
    }

    #[test]
    fn a_type_with_too_many_fields_goes_on_as_it_is() {
        let mut wide = note();
        let fields = (0..1600).map(|n| (n.to_string(), FieldType::Number));
        wide.fields.extend(fields);
        assert!(check_fields(&wide, [].iter()).is_ok());
        assert!(check_fields(&wide, [FieldType::Number].iter()).is_err());
        let files = vec![FieldType::Asset; MAX_COLUMNS / 2];
        assert!(check_fields(&note(), files.iter()).is_ok());
        let more = files.iter().chain([&FieldType::Number]);
        assert!(check_fields(&note(), more).is_err());
    }

    #[test]
    fn a_type_with_too_many_sequences_gets_no_more_of_them() {
        let sequences = |number| vec![FieldType::Sequence; number];
        let check = |definition: &TypeDefinition, added: &[FieldType]| {
            check_fields(definition, added.iter()).map_err(|refused| refused.code)
        };
        assert_eq!(check(&note(), &sequences(MAX_SEQUENCES)), Ok(()));
        let refused = Err(Code::IncompatibleSchema);
        assert_eq!(check(&note(), &sequences(MAX_SEQUENCES + 1)), refused);
        let mut many = note();
        let fields = (0..40).map(|n| (n.to_string(), FieldType::Sequence));
        many.fields.extend(fields);
        assert_eq!(check(&many, &sequences(1)), refused);
        assert_eq!(check(&many, &[FieldType::Number]), Ok(()));
    }
}
