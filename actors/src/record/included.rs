//! What `include` adds: records, shared by everything that includes them, and how many bytes of an
//! answer they can take.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;

use super::messages::Transient;

/// Records that a query includes and the caller may see, by id.
pub(crate) type Included = HashMap<RecordId, Arc<Head>>;

/// How much `include` can still add to an answer. An included record is repeated with each record
/// and under each name, so a small request could ask for any number of bytes.
pub(super) struct Room {
    /// The length of each record as JSON.
    lengths: HashMap<RecordId, usize>,
    remaining: usize,
    most: usize,
}

impl Room {
    pub(super) fn new(included: &Included, most: usize) -> Self {
        let lengths = included.iter();
        Self {
            lengths: lengths
                .map(|(id, head)| (id.clone(), json_length(&head.record)))
                .collect(),
            remaining: most,
            most,
        }
    }

    /// Takes the room for what a record includes.
    ///
    /// # Errors
    /// 108 if there is no room for it.
    pub(super) fn take(&mut self, transient: &BTreeMap<String, Transient>) -> Result<(), ApiError> {
        for (name, value) in transient {
            let length = match value {
                Transient::Record(Some(head)) => {
                    let length = self.lengths.get(&head.record.id);
                    length.copied().unwrap_or_default()
                }
                value => json_length(value),
            };
            let length = name.len().saturating_add(length);
            let remaining = self.remaining.checked_sub(length);
            self.remaining = remaining.ok_or_else(|| too_much(self.most))?;
        }
        Ok(())
    }
}

fn too_much(most: usize) -> ApiError {
    let message = format!("include would return more than {most} bytes; ask for smaller pages");
    let limit = json!({"name": "MAX_INCLUDED_BYTES", "max": most});
    ApiError::invalid_argument(message, &["include"]).with_info("limit", limit)
}

/// Returns the length of a value as JSON.
fn json_length(value: &impl Serialize) -> usize {
    let mut length = Length(0);
    // Counting cannot fail, and a value that cannot be written is not in the answer.
    let _ = serde_json::to_writer(&mut length, value);
    length.0
}

/// Counts the bytes that are written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skytrail_schema::caller::Caller;
    use skytrail_schema::field_access::{FieldAccess, FieldAccessEntry, FieldRules, FieldUserRole};
    use skytrail_schema::id::Database;
    use skytrail_schema::query::{Query, Scope};
    use skytrail_schema::record::Record;
    use skytrail_schema::time::Timestamp;
    use skytrail_schema::types::{FieldType, TypeDefinition};
    use skytrail_schema::value::Value;

    use super::*;
    use crate::record::messages::Found;
    use crate::record::read::FoundView;
    use crate::store::Viewer;

    fn head(id: &str, fields: &[(&str, Value)]) -> Arc<Head> {
        let fields = fields.iter().cloned();
        let record = Record {
            id: RecordId::parse(id).unwrap(),
            database: Database::Public,
            owner: None,
            access: None,
            created_at: Timestamp::from_micros(0),
            created_by: None,
            updated_at: Timestamp::from_micros(0),
            updated_by: None,
            fields: fields
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        Arc::new(Head {
            version: 1,
            position: 1,
            record,
        })
    }

    /// Three notes in one room, which `include` names twice; a field of the room is hidden.
    fn bring(max_bytes: usize) -> Result<Vec<Found>, ApiError> {
        let text = |text: &str| Value::String(text.to_owned());
        let shown = [("name", text("hall")), ("secret", text("key"))];
        let room = head("room/1", &shown);
        let included = Included::from([(room.record.id.clone(), room.clone())]);
        let of_room = [("room", Value::Reference(room.record.id.clone()))];
        let notes = ["note/1", "note/2", "note/3"].map(|id| head(id, &of_room));
        let mut definition = TypeDefinition::empty("note".into());
        let to_room = FieldType::Reference("room".into());
        definition.fields.insert("room".to_owned(), to_room);
        let path = json!({"$type": "keypath", "$val": "room"});
        let query = json!({"record_type": "note", "include": {"a": path, "b": path}});
        let query = Query::parse(query.as_object().unwrap()).unwrap();
        let rules = FieldRules::new(&FieldAccess(vec![FieldAccessEntry {
            record_type: "room".to_owned(),
            record_field: "secret".to_owned(),
            user_role: FieldUserRole::Owner,
            writable: true,
            readable: true,
            comparable: true,
            discoverable: true,
        }]));
        let look = FoundView {
            query: &query,
            viewer: Viewer {
                scope: &Scope::Public,
                caller: &Caller::default(),
            },
            rules: &rules,
            today: None,
        };
        look.bring_from((included, max_bytes), &definition, notes.into())
    }

    #[test]
    fn all_that_bring_a_record_share_it() {
        let found = bring(usize::MAX).unwrap();
        let brought = found.iter().flat_map(|found| found.transient.values());
        let brought: Vec<_> = brought
            .map(|value| match value {
                Transient::Record(Some(head)) => head,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(brought.len(), 6);
        for head in &brought {
            assert!(Arc::ptr_eq(head, brought[0]));
            assert!(head.record.fields.contains_key("name"));
            assert!(!head.record.fields.contains_key("secret"));
        }
    }

    #[test]
    fn what_is_brought_has_a_bound_in_bytes() {
        let found = bring(usize::MAX).unwrap();
        let brought = found.iter().flat_map(|found| &found.transient);
        let written = brought.map(|(name, value)| name.len() + json!(value).to_string().len());
        let length = written.sum();
        assert_eq!(bring(length).unwrap(), found);
        let refused = bring(length - 1).unwrap_err();
        let limit = json!({"name": "MAX_INCLUDED_BYTES", "max": length - 1});
        assert_eq!(refused.info["limit"], limit);
    }
}
