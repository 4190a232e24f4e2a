//! How many bytes of records an answer can have, and how many records are looked at together.
//!
//! A record can have megabytes, so a bound on the number of records does not bound the memory that
//! a short request takes.

use serde_json::json;
use skytrail_schema::code::ApiError;
use skytrail_schema::query::Page;
use skytrail_schema::record::{Head, Record};

use super::weighed::Weigh as _;

/// The room that is left in an answer.
#[derive(Clone, Copy, Debug)]
pub struct PageBytes {
    remaining: usize,
    most: usize,
    argument: &'static str,
}

impl PageBytes {
    /// Creates room for `most` bytes. `argument` is the request's argument that determines how many
    /// records are asked for.
    pub fn new(most: usize, argument: &'static str) -> Self {
        Self {
            remaining: most,
            most,
            argument,
        }
    }

    /// Takes the room for a record.
    ///
    /// # Errors
    /// 108 if there is no room for it.
    pub fn take(&mut self, record: &Record) -> Result<(), ApiError> {
        self.take_bytes(record.weight())
    }

    fn take_bytes(&mut self, num_bytes: usize) -> Result<(), ApiError> {
        let remaining = self.remaining.checked_sub(num_bytes);
        self.remaining = remaining.ok_or_else(|| self.too_much())?;
        Ok(())
    }

    fn too_much(&self) -> ApiError {
        let most = self.most;
        let message = format!("the records have more than {most} bytes; ask for fewer at once");
        let limit = json!({"name": "MAX_PAGE_BYTES", "max": most});
        ApiError::invalid_argument(message, &[self.argument]).with_info("limit", limit)
    }

    /// Adds a match, with its row, to a page. The page keeps only the matches that can be on it.
    ///
    /// # Errors
    /// Those of [`Self::take`].
    pub fn add(&mut self, page: &mut Page<'_>, head: (i64, Head)) -> Result<(), ApiError> {
        let num_bytes = head.1.record.weight();
        if !page.add(head) || self.take_bytes(num_bytes).is_ok() {
            return Ok(());
        }
        page.prune();
        self.remaining = self.most;
        for head in page.heads() {
            self.take(&head.record)?;
        }
        // More is held than the page itself; with too little room the page would be pruned for each
        // match.
        if self.remaining < self.most / 8 {
            return Err(self.too_much());
        }
        Ok(())
    }
}

/// How many bytes of records are looked at together, if the records have about the same size.
const BATCH_BYTES: usize = 4 << 20;

/// How many records are looked at together: fewer if they are large.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize {
    size: usize,
    most: usize,
}

impl BatchSize {
    /// Starts with at most 32 records.
    pub fn at_most(most: usize) -> Self {
        let size = most.min(32);
        Self { size, most }
    }

    /// Returns the size of the next batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adapts the size to the records of the last batch.
    pub fn adapt_to<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) {
        let bytes: usize = records.into_iter().map(|record| record.weight()).sum();
        let size = self.size.saturating_mul(BATCH_BYTES) / bytes.max(1);
        self.size = size.clamp(1, self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use skytrail_schema::id::{Database, RecordId, TypeName};
    use skytrail_schema::query::Query;
    use skytrail_schema::time::Timestamp;
    use skytrail_schema::types::TypeDefinition;
    use skytrail_schema::value::Value;

    use super::*;

    fn head(number: usize, num_bytes: usize) -> Head {
        let text = Value::String("x".repeat(num_bytes));
        let record = Record {
            id: RecordId::parse(&format!("note/{number}")).unwrap(),
            database: Database::Public,
            owner: None,
            access: None,
            created_at: Timestamp::from_micros(0),
            created_by: None,
            updated_at: Timestamp::from_micros(0),
            updated_by: None,
            fields: [("text".to_owned(), text)].into_iter().collect(),
        };
        Head {
            record,
            version: 1,
            position: 1,
        }
    }

    #[test]
    fn only_what_may_be_on_the_page_takes_room() {
        for (limit, is_refused) in [(2, false), (3000, true)] {
            let query = Query {
                record_type: TypeName::from("note"),
                predicate: None,
                sort: Vec::new(),
                include: BTreeMap::new(),
                desired_keys: None,
                count: true,
                limit: Some(limit),
                offset: 0,
            };
            let definition = TypeDefinition::empty(TypeName::from("note"));
            let bound = query.bind(&definition, [Arc::new(definition.clone())].as_slice());
            let bound = bound.unwrap();
            let mut page = Page::new(&query, &bound, false);
            let mut room = PageBytes::new(100 * 1500, "limit");
            let mut added = (0..8000).map(|number| room.add(&mut page, (1, head(number, 1000))));
            assert_eq!(added.any(|added| added.is_err()), is_refused);
        }
    }

    #[test]
    fn large_records_come_in_small_batches() {
        let mut batch_size = BatchSize::at_most(256);
        for _ in 0..4 {
            batch_size.adapt_to(&vec![head(1, 10).record; batch_size.size()]);
        }
        assert_eq!(batch_size.size(), 256);
        batch_size.adapt_to(&vec![head(1, 1 << 20).record; 256]);
        assert_eq!(batch_size.size(), 3);
        batch_size.adapt_to(&vec![head(1, 100 << 20).record; 3]);
        assert_eq!(batch_size.size(), 1);
        batch_size.adapt_to(&[head(1, 10).record]);
        assert_eq!(batch_size.size(), 256);
        batch_size.adapt_to([]);
        assert_eq!(batch_size.size(), 256);
    }
}
