//! What a request may hold at most, and the errors that name the limit.

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::predicate::Predicate;
use skytrail_schema::query::Query;
use skytrail_schema::subscription::Subscription;

use super::reply::Reply;
use crate::config::Limits;

/// An answer of up to this many bytes is always sent, however many bytes clients have not received
/// yet.
const SHORT_ANSWER: usize = 16 << 10;

impl Limits {
    /// Builds the error for a body that is too long.
    pub fn body_too_long(&self) -> ApiError {
        let message = format!("the body is longer than {} bytes", self.body_bytes);
        let error = ApiError::new(Code::BadRequest, message).with_status(413);
        named(error, "MAX_BODY_BYTES", self.body_bytes)
    }

    /// Refuses an answer for which there is no room in addition to those that clients have not
    /// received yet.
    ///
    /// Only used for reads: the client can ask again. There is always room for short answers, so
    /// that a few slow clients do not shut out all others.
    ///
    /// # Errors
    /// 10000, as 503.
    pub fn check_unsent(&self, unsent: usize, reply: &Reply) -> Result<(), ApiError> {
        let num_bytes = reply.num_bytes();
        if num_bytes <= SHORT_ANSWER || unsent.saturating_add(num_bytes) <= self.unsent_bytes {
            return Ok(());
        }
        let message = "too many bytes of answers wait for slow clients";
        let error = ApiError::unexpected(message).with_status(503);
        let error = error.with_info("retry_after_ms", json!(1000));
        Err(named(error, "HTTP_MAX_UNSENT_BYTES", self.unsent_bytes))
    }

    /// Refuses a body whose objects and arrays are nested too deeply or hold too many values: a
    /// value takes a hundred times as much memory as it does space in a body.
    ///
    /// Looks only at brackets and commas, so that nothing is built from a body that is refused.
    ///
    /// # Errors
    /// 107.
    pub fn check_json(&self, body: &[u8]) -> Result<(), ApiError> {
        let shape = Shape::of(body);
        let refuse = |message, setting, most| {
            let error = ApiError::new(Code::BadRequest, message);
            Err(named(error, setting, most))
        };
        if shape.depth > self.json_depth {
            let message = format!(
                "the body is nested more than {} levels deep",
                self.json_depth
            );
            return refuse(message, "MAX_JSON_DEPTH", self.json_depth);
        }
        if shape.num_values > self.json_values {
            let message = format!("the body has more than {} values", self.json_values);
            return refuse(message, "MAX_JSON_VALUES", self.json_values);
        }
        Ok(())
    }

    /// Refuses lists that are too long among an action's arguments.
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

    /// Refuses a query that is too large, and limits the page: it asks for one record more than may
    /// be answered, which shows whether there are too many.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn bound_query(&self, query: &mut Query) -> Result<(), ApiError> {
        self.check_query(query)?;
        let most = (self.page_records as u64).saturating_add(1);
        query.limit = Some(query.limit.unwrap_or(most).min(most));
        Ok(())
    }

    /// Refuses a query with too large a predicate, too many includes or too many sort keys.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_query(&self, query: &Query) -> Result<(), ApiError> {
        if let Some(predicate) = &query.predicate {
            self.check_predicate(predicate, "predicate")?;
        }
        let refuse = |argument: &str, what: &str, (name, most): (&str, usize)| {
            let message = format!("{argument} has more than {most} {what}");
            let error = ApiError::invalid_argument(message, &[argument]);
            Err(named(error, name, most))
        };
        if query.include.len() > self.query_includes {
            let limit = ("MAX_QUERY_INCLUDES", self.query_includes);
            return refuse("include", "names", limit);
        }
        if query.sort.len() > self.query_sorts {
            return refuse("sort", "keys", ("MAX_QUERY_SORTS", self.query_sorts));
        }
        Ok(())
    }

    /// Refuses a subscription that is too large, or whose query is: a subscription is kept, and
    /// matched against every change of a record of its type.
    ///
    /// # Errors
    /// 108.
    pub fn check_subscription(&self, subscription: &Subscription) -> Result<(), ApiError> {
        if let Some(query) = subscription.parse_query() {
            self.check_query(&query)?;
        }
        let most = self.subscription_bytes;
        // Writing into memory cannot fail.
        let text = serde_json::to_string(subscription).unwrap_or_default();
        if text.len() > most {
            let message = format!("a subscription has more than {most} bytes");
            let error = ApiError::invalid_argument(message, &["subscriptions"]);
            return Err(named(error, "MAX_SUBSCRIPTION_BYTES", most));
        }
        Ok(())
    }

    /// Refuses a predicate that is too large.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_predicate(&self, predicate: &Predicate, argument: &str) -> Result<(), ApiError> {
        let size = predicate.size();
        let refuse = |what: &str, name: &str, most: usize| {
            let message = format!("the predicate has more than {most} {what}");
            let error = ApiError::invalid_argument(message, &[argument]);
            Err(named(error, name, most))
        };
        if size.num_nodes > self.predicate_nodes {
            let what = "comparisons and operators";
            return refuse(what, "MAX_PREDICATE_NODES", self.predicate_nodes);
        }
        if size.depth > self.predicate_depth {
            let what = "nested operators";
            return refuse(what, "MAX_PREDICATE_DEPTH", self.predicate_depth);
        }
        Ok(())
    }

    /// Refuses an answer that is too long. It is not truncated: a client that asked for everything
    /// would not notice.
    ///
    /// # Errors
    /// 108 with the argument.
    pub fn check_page(&self, num_records: usize) -> Result<(), ApiError> {
        if num_records <= self.page_records {
            return Ok(());
        }
        let most = self.page_records;
        let message = format!("more than {most} records match; request them in pages");
        let error = ApiError::invalid_argument(message, &["limit"]);
        Err(named(error, "MAX_PAGE_RECORDS", most))
    }
}

/// Adds the name of the setting and its value to the error.
fn named(error: ApiError, setting: &str, most: usize) -> ApiError {
    error.with_info("limit", json!({"name": setting, "max": most}))
}

/// What the brackets and commas of a JSON text show, ignoring those in strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// How deep the brackets are nested.
    depth: usize,
    /// Members and items; an empty object or array counts as if it had one.
    num_values: usize,
}

impl Shape {
    fn of(text: &[u8]) -> Self {
        let (mut shape, mut depth) = (Self::default(), 0usize);
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'{' | b'[' => {
                    depth += 1;
                    shape.num_values += 1;
                    shape.depth = shape.depth.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => shape.num_values += 1,
                b'"' => skip_string(&mut bytes),
                _ => {}
            }
        }
        shape
    }
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
            (r#"{"a":"[[,["}"#, 1, 1),
            (r#"{"a":"\"[,[["}"#, 1, 1),
            (r#"{"a":"\\","b":[[]]}"#, 3, 4),
            ("[[]", 2, 2),
            ("]]][", 1, 1),
            ("1", 0, 0),
            ("\"[,", 0, 0),
        ];
        for (text, depth, num_values) in cases {
            let expected = Shape { depth, num_values };
            assert_eq!(Shape::of(text.as_bytes()), expected, "{text}");
        }
    }

    fn shape_of(value: &Json) -> Shape {
        let values: Vec<&Json> = match value {
            Json::Array(items) => items.iter().collect(),
            Json::Object(members) => members.values().collect(),
            _ => return Shape::default(),
        };
        let shapes = values.iter().map(|value| shape_of(value));
        Shape {
            depth: 1 + shapes.clone().map(|it| it.depth).max().unwrap_or(0),
            num_values: values.len().max(1) + shapes.map(|it| it.num_values).sum::<usize>(),
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
        fn brackets_and_commas_tell_the_shape(value in any_json()) {
            prop_assert_eq!(Shape::of(value.to_string().as_bytes()), shape_of(&value));
        }
    }
}
