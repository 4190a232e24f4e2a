//! Reads JSON in which every object is only that.
//!
//! To carry JSON that is written already, `serde_json` makes an object with one key of its own, and
//! takes whatever object begins with that key for one: its text is parsed anew, as deep as it likes.
//! In what others have sent, or what was stored for them, the key is a key like any other. So all of
//! that is read here, and not as a `serde_json::Value`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

/// A value, to be read as part of something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plain(pub Json);

/// Reads a text.
///
/// # Errors
/// It is not JSON, or nested too deeply for the parser.
pub fn from_str(text: &str) -> serde_json::Result<Json> {
    serde_json::from_str::<Plain>(text).map(|plain| plain.0)
}

/// Reads a text in UTF-8.
///
/// # Errors
/// As [`from_str`].
pub fn from_slice(text: &[u8]) -> serde_json::Result<Json> {
    serde_json::from_slice::<Plain>(text).map(|plain| plain.0)
}

/// Reads a member that may hold anything.
///
/// # Errors
/// The text's.
pub fn value<'de, D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
    Plain::deserialize(from).map(|plain| plain.0)
}

/// Reads an object whose members may hold anything.
///
/// # Errors
/// The text's, or it is no object.
pub fn members<'de, D, M>(from: D) -> Result<M, D::Error>
where
    D: Deserializer<'de>,
    M: FromIterator<(String, Json)>,
{
    let Members(members) = Members::deserialize(from)?;
    Ok(members.into_iter().collect())
}

/// Reads a list whose items may be anything.
///
/// # Errors
/// The text's, or it is no list.
pub fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Json>, D::Error> {
    let items = Vec::<Plain>::deserialize(from)?;
    Ok(items.into_iter().map(|plain| plain.0).collect())
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Json, A::Error> {
        MembersVisitor.visit_map(members).map(Json::Object)
    }
}

/// An object, to be read as part of something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members(pub Map<String, Json>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Map<String, Json>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Plain(value))) = from.next_entry()? {
            members.insert(name, value);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "$serde_json::private::RawValue";

    fn any_json(key: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            ".*".prop_map(Json::from),
        ];
        let key = key.boxed();
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    fn keys_with_that_one() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(KEY.to_owned()),
            Just("$serde_json::private::Number".to_owned()),
            ".{0,3}".prop_map(String::from),
        ]
    }

    proptest! {
        #[test]
        fn what_has_not_that_key_is_read_as_ever(value in any_json(".*".prop_map(String::from))) {
            let text = value.to_string();
            prop_assert_eq!(from_str(&text).unwrap(), serde_json::from_str::<Json>(&text).unwrap());
        }

        #[test]
        fn whatever_is_written_is_read_again(value in any_json(keys_with_that_one())) {
            let text = value.to_string();
            prop_assert_eq!(&from_str(&text).unwrap(), &value);
            prop_assert_eq!(&from_slice(text.as_bytes()).unwrap(), &value);
            prop_assert_eq!(&Plain::deserialize(&value).unwrap().0, &value);
            prop_assert_eq!(&Plain::deserialize(value.clone()).unwrap().0, &value);
            prop_assert_eq!(&serde_json::to_value(&value).unwrap(), &value);
            let as_map: Result<Map<String, Json>, _> = members(&value);
            prop_assert_eq!(as_map.ok(), value.as_object().cloned());
            prop_assert_eq!(list(&value).ok(), value.as_array().cloned());
        }

        #[test]
        fn any_text_is_taken_or_refused_as_ever(text in "[\\[\\]{},:\" 0-9a-z.\\\\-]{0,20}") {
            let ever: Option<Json> = serde_json::from_str(&text).ok();
            prop_assert_eq!(from_str(&text).ok(), ever);
        }
    }

    #[test]
    fn texts_within_texts_are_not_parsed() {
        let inner = json!({KEY: "not JSON"}).to_string();
        let outer = json!({KEY: inner});
        assert_eq!(from_str(&outer.to_string()).unwrap(), outer);
    }

    #[test]
    fn the_last_of_two_members_counts_and_nesting_has_an_end() {
        assert_eq!(from_str(r#"{"a":1,"a":2}"#).unwrap(), json!({"a": 2}));
        assert!(from_str(&"[".repeat(100_000)).is_err());
    }
}
