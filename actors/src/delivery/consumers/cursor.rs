//! How far a consumer has read and processed the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a consumer has received: everything up to `read` that is not `open`, and what is `ahead`.
///
/// It lists what is open rather than what is done, because few deliveries are open at a time, while
/// any number may be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The log has been read up to here.
    pub read: u64,
    /// Deliveries up to `read` that are not done yet, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<Open>,
    /// Positions beyond `read` that are done already.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ahead: BTreeSet<u64>,
}

/// A delivery that is not done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Open {
    /// The event's position in the log.
    pub position: u64,
    /// The hook.
    pub hook: Arc<str>,
    /// How many times it was tried.
    pub attempts: u32,
}

impl Cursor {
    /// Returns the cursor of a consumer that has received everything up to `position`.
    pub fn at(position: u64) -> Self {
        Self {
            read: position,
            ..Self::default()
        }
    }

    /// Returns the position up to which everything is done.
    pub fn position(&self) -> u64 {
        let first = self.open.first();
        first.map_or(self.read, |open| {
            self.read.min(open.position.saturating_sub(1))
        })
    }

    /// Moves a cursor that is beyond the log's end back to it; returns whether it was beyond.
    ///
    /// The log was then restored to an earlier state, and what is appended now was never delivered.
    pub fn clamp(&mut self, head: u64) -> bool {
        let is_beyond = self.read > head || self.ahead.last().is_some_and(|last| *last > head);
        if is_beyond {
            self.read = self.read.min(head);
            self.open.retain(|open| open.position <= head);
            self.ahead.retain(|position| *position <= head);
        }
        is_beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(position: u64) -> Open {
        Open {
            position,
            hook: "a".into(),
            attempts: 1,
        }
    }

    #[test]
    fn the_position_is_before_the_first_that_is_open() {
        let mut cursor = Cursor::at(9);
        assert_eq!(cursor.position(), 9);
        cursor.open = vec![open(4), open(7)];
        assert_eq!(cursor.position(), 3);
    }

    #[test]
    fn a_cursor_beyond_the_log_goes_back_to_its_end() {
        let mut cursor = Cursor {
            read: 9,
            open: vec![open(4), open(7)],
            ahead: BTreeSet::from([12]),
        };
        assert!(!cursor.clone().clamp(12));
        assert!(cursor.clamp(5));
        assert_eq!(
            (cursor.read, cursor.open.len(), cursor.ahead.len()),
            (5, 1, 0)
        );
        assert!(!cursor.clamp(5));
    }

    #[test]
    fn what_was_written_is_read() {
        let cursor = Cursor {
            read: 9,
            open: vec![open(4)],
            ahead: BTreeSet::from([12]),
        };
        let text = serde_json::to_string(&cursor).unwrap();
        assert_eq!(serde_json::from_str::<Cursor>(&text).unwrap(), cursor);
        assert_eq!(
            serde_json::from_str::<Cursor>(r#"{"read":3}"#).unwrap(),
            Cursor::at(3)
        );
    }
}
