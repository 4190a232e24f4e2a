//! What a request may hold at most, and the errors that name the limit.

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::query::Query;

use crate::config::Limits;

impl Limits {
    /// Builds the refusal of a body that is too long.
    pub fn body_too_long(&self) -> ApiError {
        let message = format!("the body is longer than {} bytes", self.body_bytes);
        let error = ApiError::new(Code::BadRequest, message).with_status(413);
        named(error, "MAX_BODY_BYTES", self.body_bytes)
    }

    /// Refuses a body whose objects and arrays are nested too deeply. Looks at the brackets alone,
    /// so that nothing is built of a body that is refused.
    ///
    /// # Errors
    /// 107.
    pub fn check_depth(&self, body: &[u8]) -> Result<(), ApiError> {
        if depth(body) <= self.json_depth {
            return Ok(());
        }
        let message = format!("the body is nested more than {} deep", self.json_depth);
        let error = ApiError::new(Code::BadRequest, message);
        Err(named(error, "MAX_JSON_DEPTH", self.json_depth))
    }

    /// Refuses lists among an action's arguments that are too long.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_lists(&self, body: &Map<String, Json>) -> Result<(), ApiError> {
        let is_long = |value: &Json| {
            let items = value.as_array();
            items.is_some_and(|items| items.len() > self.list_items)
        };
        let Some((name, _)) = body.iter().find(|(_, value)| is_long(value)) else {
            return Ok(());
        };
        let message = format!("{name} has more than {} items", self.list_items);
        let error = ApiError::invalid_argument(message, &[name]);
        Err(named(error, "MAX_LIST_ITEMS", self.list_items))
    }

    /// Refuses a predicate that is too large, and bounds the page: one record more than may be
    /// answered is asked for, so that it is known when there are too many.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn bound_query(&self, query: &mut Query) -> Result<(), ApiError> {
        self.check_predicate(query)?;
        let most = (self.page_records as u64).saturating_add(1);
        query.limit = Some(query.limit.unwrap_or(most).min(most));
        Ok(())
    }

    /// Refuses a predicate that is too large.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_predicate(&self, query: &Query) -> Result<(), ApiError> {
        let size = query.predicate.as_ref().map(|predicate| predicate.size());
        let size = size.unwrap_or_default();
        let refuse = |what: &str, name: &str, most: usize| {
            let message = format!("the predicate has more than {most} {what}");
            let error = ApiError::invalid_argument(message, &["predicate"]);
            Err(named(error, name, most))
        };
        if size.num_nodes > self.predicate_nodes {
            let what = "comparisons and operators";
            return refuse(what, "MAX_PREDICATE_NODES", self.predicate_nodes);
        }
        if size.depth > self.predicate_depth {
            let what = "operators within each other";
            return refuse(what, "MAX_PREDICATE_DEPTH", self.predicate_depth);
        }
        Ok(())
    }

    /// Refuses an answer that is too long. It is not cut: who asked for all would not notice.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_page(&self, num_records: usize) -> Result<(), ApiError> {
        if num_records <= self.page_records {
            return Ok(());
        }
        let most = self.page_records;
        let message = format!("more than {most} records match; ask for pages of them");
        let error = ApiError::invalid_argument(message, &["limit"]);
        Err(named(error, "MAX_PAGE_RECORDS", most))
    }
}

/// Says which setting the limit is, and how much it allows.
fn named(error: ApiError, setting: &str, most: usize) -> ApiError {
    error.with_info("limit", json!({"name": setting, "max": most}))
}

/// Returns how deep the brackets of a JSON text are nested, those in strings aside.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count() {
        let cases = [
            (r#"{"a":"[[[["}"#, 1),
            (r#"{"a":"\"[[[["}"#, 1),
            (r#"{"a":"\\","b":[[]]}"#, 3),
            ("[[]", 2),
            ("]]][", 1),
            ("1", 0),
            ("\"[", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(depth(text.as_bytes()), expected, "{text}");
        }
    }

    fn depth_of(value: &Json) -> usize {
        match value {
            Json::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            Json::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![Just(Json::Null), ".*".prop_map(Json::from)];
        leaf.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_brackets_tell_the_depth(value in any_json()) {
            prop_assert_eq!(depth(value.to_string().as_bytes()), depth_of(&value));
        }
    }
}
